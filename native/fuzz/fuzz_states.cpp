// libFuzzer: bytes are a batch, or the geometry and the properties of a state in one. Whatever they are, nothing outside of
// them is read and the engine holds together; and what it tells of them is read by another one and told alike.
//
//     clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all fuzz_states.cpp ../*.cpp -o fuzz_states

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../engine.h"
#include "../geometries.h"
#include "../msgpack.h"

namespace {

using namespace realtime;

constexpr Settings SETTINGS{100, 400, 8, 0.0625, 40.0, 1000};
constexpr double NOW = 1700000000.0;

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "%s\n", what);
        std::abort();
    }
}

void put_bytes(std::string& out, std::string_view bytes) {
    char head[5];
    out.append(head, static_cast<size_t>(states::put_bytes_head(head, bytes.size()) - head));
    out.append(bytes);
}

// A state of which only geometry and properties are not sure to be right.
void put_state(std::string& out, uint64_t seen, std::string_view geometry, std::string_view properties) {
    put_array_head(out, 12);
    put_string(out, "id");
    put_uint(out, seen);
    out.push_back('\xC2');
    put_uint(out, seen);
    put_double(out, 0.0);
    put_double(out, 0.0);
    put_string(out, "");
    put_double(out, 0.0);
    put_double(out, 0.5);
    put_array_head(out, 1);
    put_string(out, "public");
    put_bytes(out, geometry);
    put_bytes(out, properties);
}

Merged merge(Engine& engine, std::string_view batch, uint32_t feed) {
    const std::unique_ptr<char[]> exact(new char[batch.size()]);
    std::copy(batch.begin(), batch.end(), exact.get());
    const Merged merged = engine.merge({exact.get(), batch.size()}, NOW, feed);
    const std::string wrong = engine.verify();
    require(wrong.empty(), wrong.c_str());
    return merged;
}

// Whether anything in a batch can be taken over, for all that can be said without a world.
bool has_a_state(const std::string& batch) {
    const std::unique_ptr<char[]> exact(new char[batch.size()]);
    std::copy(batch.begin(), batch.end(), exact.get());
    BatchReader reader({exact.get(), batch.size()});
    PropertiesReader properties;
    State state;
    bool has_one = false;
    for (BatchReader::Found found; (found = reader.next(state)) != BatchReader::Found::NOTHING;) {
        Geometry geometry;
        has_one |= found == BatchReader::Found::STATE &&
                   (state.form != State::Form::ALIVE ||
                    (properties.read(state.properties, SETTINGS.entity_properties) && read_geometry(state.geometry, geometry)));
    }
    return has_one;
}

std::string told(Engine& engine) {
    const uint32_t feed = engine.open_feed(FeedKind::ASKED);
    engine.offer_all(feed);
    std::string batch(engine.take_feed(feed, 1, 1 << 30)[0].bytes());
    engine.close_feed(feed);
    return batch;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    std::string batch(input);
    if (size && data[0] < 0x80) {
        // Two states, the one behind the other; the first zero says where geometry and properties part.
        const std::string_view both = input.substr(1);
        const size_t cut = std::min(both.find('\0'), both.size());
        const std::string_view geometry = both.substr(0, cut), properties = both.substr(std::min(cut + 1, both.size()));
        batch.assign("\xDD\0\0\0\x02", 5);
        put_state(batch, 1, data[0] & 1 ? R"({"type":"Point","coordinates":[1,2]})" : geometry, "{\"a\":1}");
        put_state(batch, 2, geometry, data[0] & 2 ? "{\"b\":2,\"a\":1}" : properties);
    }
    if (!has_a_state(batch)) {
        return 0;  // engines take long to make
    }
    Engine engine(SETTINGS, 0), other(SETTINGS, 1);
    const uint32_t feed = engine.open_feed(FeedKind::ASKED);
    const Merged merged = merge(engine, batch, feed);
    require(engine.feed_size(feed) <= merged.accepted + merged.unchanged + merged.stale, "what is bad was offered");
    require(merge(engine, batch, feed).bad == merged.bad, "what is bad depends on what is known");
    const std::string present = told(engine);
    const Merged passed = merge(other, present, 0);
    require(passed.bad == 0 || present.empty(), "what was told is not read");
    require(told(other) == present || engine.statistics().tombstones, "what was told is told otherwise");
    std::vector<std::pair<std::string_view, std::string_view>> states;
    require(!split_states(batch, states) || merged.accepted + merged.unchanged + merged.stale + merged.bad == states.size(),
            "a whole batch was cut otherwise");
    return 0;
}
