// Arbitrary bytes as JSON: what is taken fits in the room that was promised, and numbers and strings survive a round.

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "../msgpack.h"

namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

void write_and_read_number(const uint8_t* data, size_t size) {
    double value;
    if (size < sizeof value) return;
    std::memcpy(&value, data, sizeof value);
    std::string json;
    realtime::put_json_double(json, value);
    require(json.size() <= realtime::JSON_DOUBLE_BYTES_MAX);
    if (!std::isfinite(value)) return;
    realtime::Number number;
    const char* const end = json.data() + json.size();
    require(realtime::read_number(json.data(), end, &number) == end && number.kind == realtime::Number::Kind::DOUBLE);
    require(number.real == value && std::signbit(number.real) == std::signbit(value));
}

void write_and_read_string(std::string_view text) {
    std::string json, direct, through;
    realtime::put_json_string(json, text);
    realtime::put_string(direct, text);
    require(realtime::transcode(json, through) && through == direct);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view json(reinterpret_cast<const char*>(data), size);
    const std::unique_ptr<char[]> room(new char[realtime::transcoded_bytes_max(size)]);
    const char* const end = realtime::write_transcoded(room.get(), json);
    std::string put;
    require(realtime::transcode(json, put) == (end != nullptr));
    require(end == nullptr || put == std::string_view(room.get(), static_cast<size_t>(end - room.get())));
    write_and_read_number(data, size);
    write_and_read_string(json);
    return 0;
}
