// JSON's pieces and msgpack's: forms and edges, and what is malformed.
//
// That they equal msgspec on random values is proved in tests/test_native_parts.py; here the same code runs under the
// sanitizers, on memory of exactly the size that is promised to be enough.

#include <cmath>
#include <memory>
#include <string>

#include "../msgpack.h"
#include "check.h"

using namespace realtime;

namespace {

// The text is copied to memory of its own, so that a read beyond its end is noticed.
bool transcoded(std::string_view json, std::string* out) {
    const std::unique_ptr<char[]> in(new char[json.size()]);
    if (!json.empty()) std::memcpy(in.get(), json.data(), json.size());
    const std::unique_ptr<char[]> room(new char[transcoded_bytes_max(json.size())]);
    const char* const end = write_transcoded(room.get(), {in.get(), json.size()});
    if (end == nullptr) return false;
    out->assign(room.get(), static_cast<size_t>(end - room.get()));
    std::string put = "before";
    CHECK(transcode(json, put) && put == "before" + *out);
    return true;
}

std::string packed(std::string_view json) {
    std::string out;
    CHECK(transcoded(json, &out));
    return out;
}

std::string bytes(std::initializer_list<int> all) {
    std::string out;
    for (const int byte : all) out.push_back(static_cast<char>(byte));
    return out;
}

std::string repeated(std::string_view text, size_t count) {
    std::string all;
    for (size_t i = 0; i < count; ++i) all += text;
    return all;
}

std::string json_of(double value) {
    std::string out;
    put_json_double(out, value);
    return out;
}

}  // namespace

TEST(scalars_become_msgpack) {
    CHECK(packed("null") == bytes({0xC0}) && packed("false") == bytes({0xC2}) && packed("true") == bytes({0xC3}));
    CHECK(packed("0") == bytes({0}) && packed("127") == bytes({127}) && packed("128") == bytes({0xCC, 128}));
    CHECK(packed("256") == bytes({0xCD, 1, 0}) && packed("65536") == bytes({0xCE, 0, 1, 0, 0}));
    CHECK(packed("4294967296") == bytes({0xCF, 0, 0, 0, 1, 0, 0, 0, 0}));
    CHECK(packed("18446744073709551615") == bytes({0xCF, 255, 255, 255, 255, 255, 255, 255, 255}));
    CHECK(packed("-1") == bytes({0xFF}) && packed("-32") == bytes({0xE0}) && packed("-33") == bytes({0xD0, 0xDF}));
    CHECK(packed("-128") == bytes({0xD0, 0x80}) && packed("-129") == bytes({0xD1, 0xFF, 0x7F}));
    CHECK(packed("-9223372036854775808") == bytes({0xD3, 0x80, 0, 0, 0, 0, 0, 0, 0}));
    CHECK(packed("1.5") == bytes({0xCB, 0x3F, 0xF8, 0, 0, 0, 0, 0, 0}));
    CHECK(packed("-0.0") == bytes({0xCB, 0x80, 0, 0, 0, 0, 0, 0, 0}));
    CHECK(packed("18446744073709551616") == bytes({0xCB, 0x43, 0xF0, 0, 0, 0, 0, 0, 0}));
}

TEST(strings_become_msgpack_unescaped) {
    CHECK(packed("\"\"") == bytes({0xA0}) && packed("\"ab\"") == bytes({0xA2, 'a', 'b'}));
    CHECK(packed("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"") == bytes({0xA8, '"', '\\', '/', 8, 12, 10, 13, 9}));
    CHECK(packed("\"\\u0000\\u00fC\\u20AC\"") == bytes({0xA6, 0, 0xC3, 0xBC, 0xE2, 0x82, 0xAC}));
    CHECK(packed("\"\\ud83d\\ude00\"") == bytes({0xA4, 0xF0, 0x9F, 0x98, 0x80}));
    for (const size_t count : {31u, 32u, 255u, 256u, 65535u, 65536u}) {
        std::string expected;
        put_string(expected, "\n" + std::string(count - 1, 'x'));
        CHECK(packed("\"\\n" + std::string(count - 1, 'x') + "\"") == expected);
        CHECK(packed("\"" + std::string(count, 'y') + "\"").size() == expected.size());
    }
}

TEST(containers_are_counted_at_their_end) {
    CHECK(packed("[]") == bytes({0x90}) && packed("{}") == bytes({0x80}) && packed("[[],{}]") == bytes({0x92, 0x90, 0x80}));
    CHECK(packed("{\"a\":1,\"b\":[2,3]}") == bytes({0x82, 0xA1, 'a', 1, 0xA1, 'b', 0x92, 2, 3}));
    for (const size_t count : {15u, 16u, 65535u, 65536u}) {
        std::string expected = bytes({0x92});
        put_array_head(expected, count);
        expected += std::string(count, '\x07') + bytes({0xC0});
        CHECK(packed("[[7" + repeated(",7", count - 1) + "],null]") == expected);
        expected.clear();
        put_map_head(expected, count);
        expected += repeated(bytes({0xA0, 7}), count);
        CHECK(packed("{\"\":7" + repeated(",\"\":7", count - 1) + "}") == expected);
    }
    CHECK(packed("[" + repeated("1e9,", 999) + "1e9]").size() == 3 + 9 * 1000);
}

TEST(malformed_and_deep_json_is_refused) {
    std::string out;
    for (const char* json : {"", "[", "]", "[1,]", "[1 ]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,}", "{1:2}", "{\"a\",1}",
                             "nul", "truest", "01", "1.", ".5", "1e", "1e+", "-", "+1", "1e999", "1e99999999999999999999", "\"", "\"\\",
                             "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\n\"", "1 2", "[1}",
                             "{\"a\":1]", "NaN", "-x", "[,1]"}) {
        CHECK(!transcoded(json, &out));
        std::string untouched = "before";
        CHECK(!transcode(json, untouched) && untouched == "before");
    }
    CHECK(transcoded(repeated("[", 64) + repeated("]", 64), &out) && !transcoded(repeated("[", 65) + repeated("]", 65), &out));
    CHECK(!transcoded(repeated("{\"a\":", 100000), &out) && !transcoded("1" + std::string(800, '0') + "e-400", &out));
}

TEST(strings_are_escaped_wherever_they_stand) {
    std::string text, expected = "\"";
    for (int byte = 0; byte < 0x20; ++byte) {
        text.push_back(static_cast<char>(byte));
        static const char* const SHORT[] = {"\\b", "\\t", "\\n", "", "\\f", "\\r"};
        char escape[8];
        std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
        expected += byte >= 8 && byte <= 13 && byte != 11 ? SHORT[byte - 8] : escape;
    }
    text += "\"\\/\x7F\xC3\xBC";
    expected += "\\\"\\\\/\x7F\xC3\xBC\"";
    for (size_t shift = 0; shift < 33; ++shift) {
        std::string out;
        put_json_string(out, std::string(shift, 'x') + text);
        CHECK(out == "\"" + std::string(shift, 'x') + expected.substr(1));
    }
}

TEST(doubles_are_written_short_and_in_the_chosen_style) {
    CHECK(json_of(0.0) == "0.0" && json_of(-0.0) == "-0.0" && json_of(5.0) == "5.0" && json_of(-97.743061) == "-97.743061");
    CHECK(json_of(1e15) == "1000000000000000.0" && json_of(1e16) == "1e16" && json_of(1.2345678901234568e17) == "1.2345678901234568e17");
    CHECK(json_of(1e-5) == "0.00001" && json_of(1.234e-5) == "0.00001234" && json_of(1e-6) == "1e-6" && json_of(1.5e-7) == "1.5e-7");
    CHECK(json_of(5e-324) == "5e-324" && json_of(-1.7976931348623157e308) == "-1.7976931348623157e308");
    CHECK(json_of(0.1 + 0.2) == "0.30000000000000004" && json_of(9007199254740992.0) == "9007199254740992.0");
    CHECK(json_of(NAN) == "null" && json_of(-INFINITY) == "null");
    std::string out;
    put_json_uint(out, 0);
    put_json_uint(out, ~uint64_t{0});
    CHECK(out == "018446744073709551615");
}

TEST(numbers_are_read_to_the_nearest_double) {
    const auto read = [](std::string_view text) {
        Number number;
        CHECK(read_number(text.data(), text.data() + text.size(), &number) == text.data() + text.size());
        return number;
    };
    CHECK(read("-0").kind == Number::Kind::UNSIGNED && read("-0").real == 0.0 && !std::signbit(read("-0").real));
    CHECK(read("-0.0").kind == Number::Kind::DOUBLE && std::signbit(read("-0.0").real));
    CHECK(read("9007199254740993").real == 9007199254740992.0 && read("0.30000000000000004").real == 0.1 + 0.2);
    CHECK(read("1e-400").real == 0.0 && read("0.0000000000000000000000000001e28").real == 1.0 && read("0e999999999999").real == 0.0);
    CHECK(read("1" + std::string(400, '0') + "e-400").real == 1.0 && read("0." + std::string(2000, '0') + "1e2001").real == 1.0);
    CHECK(read("0." + std::string(1500, '0') + "1e1010").real == 0.0 && read("-0." + std::string(400, '0') + "1").real == 0.0);
    CHECK(read("1" + std::string(800, '0') + "e-800").real == 1.0);
    CHECK(read(std::string("0.") + std::string(2000, '1')).real == 0.1111111111111111);
}
