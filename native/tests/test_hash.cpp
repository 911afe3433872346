// The hashes, by values that were published for the algorithms or written down from realtime/engine/digest.py.

#include <string>

#include "../hash.h"
#include "check.h"

using namespace realtime;

TEST(fnv1a32_of_published_texts) {
    CHECK(fnv1a32("") == 0x811C9DC5u);
    CHECK(fnv1a32("a") == 0xE40C292Cu);
    CHECK(fnv1a32("foobar") == 0xBF9CF968u);
    CHECK(fnv1a32("bar", fnv1a32("foo")) == fnv1a32("foobar"));
}

TEST(fmix32_of_known_numbers) {
    CHECK(fmix32(0) == 0);
    CHECK(fmix32(1) == 0x514E28B7u);
    CHECK(fmix32(0xFFFFFFFFu) == 0x81F16F39u);
}

TEST(a_version_is_hashed_in_decimal) {
    for (const uint64_t version : {uint64_t{0}, uint64_t{1}, uint64_t{10}, uint64_t{1234567890}, (uint64_t{1} << 53), ~uint64_t{0}}) {
        const std::string text = "bus-7@" + std::to_string(version);
        CHECK(digest_of("bus-7", version) == fmix32(fnv1a32(text)));
        CHECK(digest_from(fnv1a32("bus-7"), version) == digest_of("bus-7", version));
    }
    CHECK(sample_hash("Z\xC3\xBCrich") == fmix32(fnv1a32("Z\xC3\xBCrich")));
}
