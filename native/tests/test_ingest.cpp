// What the fast path reads, and what it leaves to others. That it reads the same as they do is for tests/test_ingest.py.

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../ingest.h"
#include "../lines.h"
#include "check.h"

namespace {

using namespace realtime;
using namespace realtime::ingest;

IngestLimits limits(size_t entity_bytes = 16 * 1024, size_t entity_properties = 64) {
    return {entity_bytes, entity_properties, {"user:b", "public", "user:a", "public"}};
}

// A copy of the text in a block of exactly its size, so that the sanitizer sees whoever reads beyond it.
struct Exact {
    explicit Exact(std::string_view text) : bytes(new char[text.size()]), view(bytes.get(), text.size()) {
        if (!text.empty()) {
            std::memcpy(bytes.get(), text.data(), text.size());
        }
    }
    std::unique_ptr<char[]> bytes;
    std::string_view view;
};

bool is_read(std::string_view json) {
    UpdateReader reader(limits());
    Update update;
    const Exact exact(json);
    return reader.parse(exact.view, update);
}

std::string point(const std::string& coordinates) {
    return "{\"type\":\"Feature\",\"id\":\"a\",\"geometry\":{\"type\":\"Point\",\"coordinates\":" + coordinates + "}}";
}

std::string patch(const std::string& properties) { return "{\"op\":\"patch\",\"id\":\"a\",\"properties\":" + properties + "}"; }

// The canonical JSON of a value, as a patch's property; empty: left to others.
std::string value_of(const std::string& json) {
    UpdateReader reader(limits());
    Update update;
    const std::string text = patch("{\"p\": " + json + " }");
    const Exact exact(text);
    if (!reader.parse(exact.view, update)) {
        return "";
    }
    CHECK(update.property_count == 1 && update.properties[0].name == "p");
    return std::string(update.properties[0].json);
}

}  // namespace

TEST(ingest_reads_a_feature) {
    UpdateReader reader(limits());
    Update update;
    const std::string json =
        "{\"type\":\"Feature\",\"id\":\"bus-7\",\"version\":17,\"kind\":\"bus\",\"geometry\":{\"type\":\"Point\",\"coordinates\":[-97.74,30]},"
        "\"properties\":{\"route\":\"r1\",\"gone\":null,\"speed\":7.50},\"min_zoom\":3,\"rank\":0.25,\"ttl\":60,"
        "\"access\":[\"user:b\",\"group:a\",\"user:b\"],\"bbox\":[1,{\"x\":[]}]}";
    CHECK(reader.parse(json, update));
    CHECK(update.op == Op::UPSERT && update.id == "bus-7" && update.version == 17);
    CHECK(update.has_kind && update.kind == "bus");
    CHECK(update.geometry.is_point && update.geometry.box_count == 1 && update.geometry.text == "-97.74,30");
    CHECK((update.geometry.boxes[0] == Box{-97.74, 30.0, -97.74, 30.0}));
    CHECK(update.has_properties && update.property_count == 2);
    CHECK(update.properties[0].name == "route" && update.properties[0].json == "\"r1\"");
    CHECK(update.properties[1].name == "speed" && update.properties[1].json == "7.5");
    CHECK(update.has_min_zoom && update.min_zoom == 3.0 && update.has_rank && update.rank == 0.25);
    CHECK(update.has_ttl && update.ttl == 60.0);
    CHECK(update.has_access && update.access_count == 2 && update.access[0] == "group:a" && update.access[1] == "user:b");
}

TEST(ingest_gives_a_feature_its_defaults) {
    UpdateReader reader(limits());
    Update update;
    const std::string json = point("[1,2]");
    CHECK(reader.parse(json, update));
    CHECK(update.version == 0 && update.has_properties && update.property_count == 0 && update.has_kind && update.kind.empty());
    CHECK(update.has_min_zoom && update.min_zoom == MIN_ZOOM_DEFAULT && update.has_rank && update.rank == RANK_DEFAULT);
    CHECK(update.has_ttl && update.ttl == 0.0);
    CHECK(update.has_access && update.access_count == 3 && update.access[0] == "public" && update.access[2] == "user:b");
}

TEST(ingest_reads_the_operations) {
    UpdateReader reader(limits());
    Update update;
    CHECK(reader.parse(" { \"lat\" : 2.0 , \"op\":\"move\",\"lon\":1.5,\"id\":\"a\",\"kind\":\"x\",\"properties\":{\"a\":1}}\r", update));
    CHECK(update.op == Op::MOVE && update.geometry.text == "1.5,2" && update.geometry.is_point && update.geometry.boxes[0].max_y == 2.0);
    CHECK(!update.has_kind && !update.has_properties && !update.has_access && !update.has_ttl && !update.has_rank);
    CHECK(reader.parse("{\"op\":\"delete\",\"id\":\"a\",\"version\":null,\"geometry\":{\"type\":\"Point\",\"coordinates\":[1,2]}}",
        update));
    CHECK(update.op == Op::DELETE && update.version == 0 && update.geometry.box_count == 0);
    CHECK(reader.parse("{\"op\":\"patch\",\"id\":\"a\"}", update));
    CHECK(update.op == Op::PATCH && !update.has_properties && !update.has_kind && update.geometry.box_count == 0);
    const std::string removing = patch("{\"a\":null,\"b\":true}");
    CHECK(reader.parse(removing, update));
    CHECK(update.property_count == 2 && update.properties[0].json.empty() && update.properties[1].json == "true");
    CHECK(reader.parse("{\"op\":null,\"type\":\"Feature\",\"id\":\"a\",\"geometry\":{\"coordinates\":[1, 2, 3.50],\"type\":\"Point\"}}",
        update));
    CHECK(!update.geometry.is_point && update.geometry.text == "{\"type\":\"Point\",\"coordinates\":[1,2,3.5]}");
}

TEST(ingest_makes_values_canonical) {
    const char* const same[] = {"true", "false", "0", "-1", "123456789012345678", "0.1", "-0.5", "\"\"", "\"a b\"",
        "\"\xC3\xA9\xF0\x9F\x9A\x8C\"",
                                "0.00001", "0.30000000000000004", "-97.74306123456789", "{}", "[]", "[[[1]]]",
                                "{\"a\":[1,\"b\"],\"b\":null}"};
    for (const char* json : same) {
        CHECK(value_of(json) == json);
    }
    const char* const others[][2] = {{"1.0", "1"}, {"1.50", "1.5"}, {"0.0", "0"}, {"0.10000000000000000", "0.1"}, {"[ 1 , 2.0 ]", "[1,2]"},
                                     {"{ \"a\" : [ \"x\\/\" , \"\\u00e9\" ] }", "{\"a\":[\"x/\",\"\xC3\xA9\"]}"}, {"\"\\u0041\\n\"",
                                     "\"A\\n\""},
                                     {"0.1000000000000000055511151231257827", "0.1"}, {"\"\\ud83d\\ude8c\"", "\"\xF0\x9F\x9A\x8C\""}};
    for (const auto& pair : others) {
        CHECK(value_of(pair[0]) == pair[1]);
    }
    const char* const left[] = {"1e5", "1E5", "1.0e0", "-0", "-0.0", "01", "1.", ".5", "-", "+1", "1e400", "0.000001",
        "1234567890123456789", "\"\x1F\"",
                                "\"\\ud800\"", "\"\\x\"", "\"\\", "\"\xFF\"", "\"\xED\xA0\x80\"", "\"\xC0\x80\"", "\"\xF4\x90\x80\x80\"",
                                "tru", "nul", "NaN",
                                "[1,]", "[,]", "{\"b\":1,\"a\":1}", "{\"a\":1,\"a\":1}", "{1:1}", "{\"a\"}", "0.99999999999999999999",
                                "\"\xE2\x82\""};
    for (const char* json : left) {
        CHECK(value_of(json).empty());
    }
}

TEST(ingest_leaves_the_rest) {
    const std::string left[] = {
        "", " ", "{}", "[]", "null", "{", "}", "\xEF\xBB\xBF" + point("[1,2]"), point("[1,2]") + "x", point("[1,2]") + std::string(1, '\0'),
        point("[181,2]"), point("[1,-90.5]"), point("[1]"), point("[1,2,3,4]"), point("[]"), point("[1,\"2\"]"), point("[1;2]"),
        point("null"),
        "{\"type\":\"Feature\",\"id\":\"a\"}", "{\"type\":\"Feature\",\"id\":\"a\",\"geometry\":null}",
        "{\"id\":\"a\",\"geometry\":{\"type\":\"Point\",\"coordinates\":[1,2]}}", "{\"op\":\"move\",\"id\":\"a\",\"lon\":1}",
        "{\"op\":\"swap\",\"id\":\"a\"}", "{\"op\":1,\"id\":\"a\"}", "{\"op\":\"delete\"}", "{\"op\":\"delete\",\"id\":\"\"}",
        "{\"op\":\"delete\",\"id\":1}",
        "{\"op\":\"delete\",\"id\":\"a\x7F\"}", "{\"op\":\"delete\",\"id\":\"a\xC2\x80\"}", "{\"op\":\"delete\",\"id\":\"a\",\"id\":\"a\"}",
        "{\"op\":\"delete\",\"id\":\"" + std::string(129, 'x') + "\"}", "{\"op\":\"delete\",\"id\":\"a\",\"version\":0}",
        "{\"op\":\"delete\",\"id\":\"a\",\"version\":7.0}", "{\"op\":\"delete\",\"id\":\"a\",\"version\":9007194959773697}",
        "{\"op\":\"delete\",\"id\":\"a\",\"x\":1e400}", "{\"op\":\"delete\",\"id\":\"a\",\"x\":}", "{\"op\":\"delete\",\"id\":\"a\",}",
        "{\"op\":\"delete\",\"id\":\"a\",\"x\":" + std::string(40, '[') + std::string(40, ']') + "}",
        "{\"op\":\"patch\",\"id\":\"a\",\"ttl\":0}",
        "{\"op\":\"patch\",\"id\":\"a\",\"rank\":1.5}", "{\"op\":\"patch\",\"id\":\"a\",\"access\":[\"bob\"]}",
        patch("{\"a\":1,\"a\":null}"), patch("[]"),
    };
    for (const std::string& json : left) {
        CHECK(!is_read(json));
    }
    CHECK(is_read("{\"op\":\"delete\",\"id\":\"a\",\"version\":9007194959773696}"));
    CHECK(is_read("{\"op\":\"delete\",\"id\":\"" + std::string(128, 'x') + "\"}"));
}

TEST(ingest_never_reads_beyond_a_text_that_breaks_off) {
    const std::string whole = "{\"type\":\"Feature\",\"id\":\"b\\u00fcs-7\xC3\xA9\",\"version\":17,\"geometry\":{\"type\":\"Point\",\"coordinates\":[-97.74306123456789, 30.0]},"
                              "\"properties\":{\"a\":true,\"b\":{\"c\":[null,false,1.50]}},\"access\":[\"user:b\"],\"ttl\":1,\"x\":[{}]}";
    CHECK(is_read(whole));
    for (size_t length = 0; length < whole.size(); ++length) {
        CHECK(!is_read(std::string_view(whole).substr(0, length)));
    }
}

TEST(ingest_keeps_the_limits_of_an_entity) {
    Update update;
    UpdateReader few(limits(16 * 1024, 2));
    CHECK(few.parse(patch("{\"a\":1,\"b\":2,\"c\":null}"), update));
    CHECK(!few.parse(patch("{\"a\":1,\"b\":2,\"c\":3}"), update));
    UpdateReader small(limits(20));
    CHECK(small.parse(patch("{\"a\":\"" + std::string(15, 'x') + "\"}"), update));  // 3 of the name and 17
    CHECK(!small.parse(patch("{\"a\":\"" + std::string(16, 'x') + "\"}"), update));
    CHECK(small.parse(patch("{\"a\":[1,2,3,4,5]}"), update));
    CHECK(!small.parse(patch("{\"a\":[" + std::string(5000, '1') + "]}"), update));
    std::string many = "{\"p0\":null";
    for (size_t i = 1; i <= NAMED_MAX; ++i) {
        many += ",\"p" + std::to_string(i) + "\":null";
    }
    CHECK(!small.parse(patch(many + "}"), update));
}

TEST(ingest_writes_numbers) {
    const auto text = [](double value) {
        char out[NUMBER_BYTES_MAX];
        return std::string(out, write_double(value, out));
    };
    CHECK(text(0.0) == "0" && text(-0.0).empty() && text(1.0) == "1" && text(-180.0) == "-180" && text(0.1) == "0.1");
    CHECK(text(-97.743061) == "-97.743061" && text(0.1 + 0.2) == "0.30000000000000004" && text(1e-5) == "0.00001" && text(1e-6).empty());
    CHECK(text(1e16).empty() && text(9007199254740991.0) == "9007199254740991" && text(1234567.000001) == "1234567.000001");
    CHECK(text(1.0 / 0.0).empty() && text(0.0 / 0.0).empty() && text(0.123456789) == "0.123456789" && text(4503599627370495.5) == "4503599627370495.5");
    char out[NUMBER_BYTES_MAX];
    CHECK(std::string(out, write_integer(INT64_MIN, out)) == "-9223372036854775808" && std::string(out, write_integer(7, out)) == "7");
}

TEST(ingest_cuts_lines_wherever_the_stream_is_cut) {
    const std::string stream = "one\r\n\n \t\r\nlong enough\ntwo\n" + std::string(12, ' ') + "\nthree";
    const std::vector<std::string> expected = {"one\r", "!", "two", "!", "three"};
    for (size_t first = 0; first <= stream.size(); ++first) {
        for (size_t second = first; second <= stream.size(); ++second) {
            LineSplitter splitter('\n', 8);
            LineSplitter::Line line;
            std::vector<std::string> lines;
            const std::string pieces[] = {stream.substr(0, first), stream.substr(first, second - first), stream.substr(second)};
            for (const std::string& piece : pieces) {
                const Exact exact(piece);
                std::string_view rest = exact.view;
                while (splitter.next(rest, line)) {
                    lines.push_back(line.is_too_long ? "!" : std::string(line.text));
                }
                CHECK(rest.empty());
            }
            if (splitter.end(line)) {
                lines.push_back(line.is_too_long ? "!" : std::string(line.text));
            }
            CHECK(lines == expected);
            CHECK(!splitter.end(line));
        }
    }
}
