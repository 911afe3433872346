// States as bytes: what is one and what is not, what their geometries and properties may be, and that what is told is read.
//
// That realtime/engine/states.py decides alike is proved in tests/test_states.py; here the parsers run under the sanitizers,
// on memory that ends where a batch does.

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../canonical.h"
#include "../engine.h"
#include "../geometries.h"
#include "../msgpack.h"
#include "check.h"

using namespace realtime;

namespace {

constexpr double NOW = 1700000000.0;
constexpr Settings SETTINGS{100000, 400, 4, 0.0625, 40.0, 1000};
constexpr std::string_view POINT = R"({"type":"Point","coordinates":[10.5,-1]})";

// A state of which each test changes what it is about.
struct Written {
    std::string id = "bus-7";
    uint64_t seen = 20, wire = 10;
    double ttl = 0.0, deadline = 0.0, min_zoom = 0.0, rank = 0.5;
    std::string kind = "bus";
    std::vector<std::string> access = {"group:a", "user:u"};
    std::string geometry{POINT}, properties = R"({"b":1,"a":"x"})";

    std::string bytes() const {
        std::string out;
        put_array_head(out, 12);
        put_string(out, id);
        put_uint(out, seen);
        out.push_back('\xC2');
        put_uint(out, wire);
        put_double(out, ttl);
        put_double(out, deadline);
        put_string(out, kind);
        put_double(out, min_zoom);
        put_double(out, rank);
        put_array_head(out, access.size());
        for (const std::string& principal : access) {
            put_string(out, principal);
        }
        for (const std::string& part : {geometry, properties}) {
            char head[5];
            out.append(head, static_cast<size_t>(states::put_bytes_head(head, part.size()) - head));
            out.append(part);
        }
        return out;
    }
};

std::string dead(const std::string& id, uint64_t seen, double died, bool is_expired = false) {
    std::string out;
    put_array_head(out, 6);
    put_string(out, id);
    put_uint(out, seen);
    out.push_back('\xC3');
    put_double(out, died);
    out.push_back(is_expired ? '\xC3' : '\xC2');
    put_array_head(out, 1);
    put_string(out, "public");
    return out;
}

std::string joined(const std::vector<std::string>& states) {
    std::string out(1, '\xDD');
    for (int shift = 24; shift >= 0; shift -= 8) {
        out.push_back(static_cast<char>(states.size() >> shift));
    }
    for (const std::string& state : states) {
        out.append(state);
    }
    return out;
}

// From memory that ends where the batch does.
Merged merge(Engine& engine, const std::string& batch, double now = NOW, uint32_t feed = 0) {
    const std::unique_ptr<char[]> exact(new char[batch.size()]);
    std::copy(batch.begin(), batch.end(), exact.get());
    const Merged merged = engine.merge({exact.get(), batch.size()}, now, feed);
    CHECK(engine.verify().empty());
    return merged;
}

std::string taken(Engine& engine, uint32_t feed) {
    return std::string(engine.take_feed(feed, 1, 1 << 30)[0].bytes());
}

std::string told(Engine& engine) {
    const uint32_t feed = engine.open_feed(FeedKind::ASKED);
    engine.offer_all(feed);
    const std::string batch = taken(engine, feed);
    engine.close_feed(feed);
    return batch;
}

bool is_accepted(const Written& state) {
    Engine engine(SETTINGS, 0);
    const Merged merged = merge(engine, joined({state.bytes()}));
    CHECK(merged.accepted + merged.bad == 1 && merged.stale == 0);
    CHECK(merged.bad || told(engine) == joined({state.bytes()}));
    return merged.accepted == 1;
}

bool is_canonical(std::string_view json) {
    const std::unique_ptr<char[]> exact(new char[json.size()]);
    std::copy(json.begin(), json.end(), exact.get());
    CanonicalText text({exact.get(), json.size()});
    return text.value() && text.is_over();
}

int boxes_of(std::string_view json, Geometry& geometry) {
    const bool is_read = read_geometry(json, geometry);
    return is_read ? geometry.box_count : 0;
}

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

}  // namespace

TEST(a_number_has_one_form) {
    for (const char* good : {"0", "7", "-7", "10", "0.5", "-0.25", "0.00001", "1e-6", "1.5e-7", "1e300", "1e20", "18446744073709551615",
                             "-9223372036854775808", "1.7976931348623157e308", "123456.789012345", "0.1", "5e-324", "100000000000000000",
                             "0.30000000000000004", "1.8446744073709552e19"}) {
        CHECK(is_canonical(good));
    }
    for (const char* bad : {"", "-", "-0", "00", "01", "1.0", "1.50", "-0.0", "0.0", ".5", "5.", "1e5", "1E300", "1e+300", "0.000001",
                            "10e-7", "+1", "18446744073709551616", "-9223372036854775809", "1e999", "0.1000000000000000055", "1.0e20",
                            "NaN", "1e16", "1 "}) {
        CHECK(!is_canonical(bad));
    }
}

TEST(a_text_has_one_form) {
    for (const char* good : {R"("")", R"("a/b")", R"("\"\\\b\t\n\f\r")", R"("\u0000\u000b\u001f")", "\"z\xC3\xBCrich\"", "\"\x7F\""}) {
        CHECK(is_canonical(good));
    }
    for (const char* bad : {"\"", "\"a", R"("\/")", R"("\u0008")", R"("\u000A")", R"("\u001F")", R"("\u0020")", R"("\u00e9")", R"("\u00)",
                            R"("\)", "\"\t\"", R"("\x")"}) {
        CHECK(!is_canonical(bad));
    }
}

TEST(a_value_has_one_form) {
    for (const char* good : {"null", "true", "false", "[]", "{}", "[1,[2]]", R"({"a":1,"b":{"":0}})",
                             "{\"\\u0001\":1,\"\\\"\":2,\"a\\\\\":3}"}) {
        CHECK(is_canonical(good));
    }
    for (const char* bad : {"nul", "[1,]", "[,1]", "[1 ]", "{,}", R"({"a" :1})", R"({"b":1,"a":2})", R"({"a":1,"a":2})", R"({"a"})",
                            R"({"a":1,})", R"({1:2})", "[1}", R"({"a":1])", "{\"\\\"\":1,\"\\u0001\":2}", "]"}) {
        CHECK(!is_canonical(bad));
    }
    CHECK(is_canonical(nested(CANONICAL_DEPTH_MAX)));
    CHECK(!is_canonical(nested(CANONICAL_DEPTH_MAX + 1)));
}

TEST(geometries_are_the_six_types) {
    Geometry geometry;
    for (const char* good :
         {R"({"type":"Point","coordinates":[180,-90]})", R"({"type":"Point","coordinates":[1.5,2,-3e300]})",
          R"({"type":"MultiPoint","coordinates":[[1,2]]})", R"({"type":"LineString","coordinates":[[1,2],[3,4,5]]})",
          R"({"type":"MultiLineString","coordinates":[[[1,2],[3,4]],[[5,6],[7,8]]]})",
          R"({"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]})",
          R"({"type":"MultiPolygon","coordinates":[[[[0,0],[1,0],[1,1],[0,0]]],[[[5,5],[6,5],[6,6],[5,5]]]]})"}) {
        CHECK(boxes_of(good, geometry) == 1);
        for (size_t bytes = 0; bytes < std::string_view(good).size(); ++bytes) {
            CHECK(boxes_of(std::string(good, bytes), geometry) == 0);
        }
    }
    for (const char* bad :
         {"null", "{}", R"({"type":"Point","coordinates":[]})", R"({"type":"Point","coordinates":[1]})",
          R"({"type":"Point","coordinates":[180.5,0]})", R"({"type":"Point","coordinates":[0,-90.5]})",
          R"({"type":"Point","coordinates":[1,2,3,4]})", R"({"type":"Point","coordinates":[1.0,2]})",
          R"({"type":"Point","coordinates":[1, 2]})", R"({"type":"Point","coordinates":["1",2]})",
          R"({"coordinates":[1,2],"type":"Point"})", R"({"type":"Point","coordinates":[1,2],"a":1})",
          R"({"type":"MultiPoint","coordinates":[]})", R"({"type":"LineString","coordinates":[[1,2]]})",
          R"({"type":"Polygon","coordinates":[[[0,0],[1,0],[0,0]]]})", R"({"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1]]]})",
          R"({"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0,1]]]})", R"({"type":"Polygon","coordinates":[[]]})",
          R"({"type":"GeometryCollection","coordinates":[]})"}) {
        CHECK(boxes_of(bad, geometry) == 0);
    }
}

TEST(what_touches_both_sides_of_the_antimeridian_has_two_boxes) {
    Geometry geometry;
    CHECK(boxes_of(R"({"type":"MultiLineString","coordinates":[[[179.5,0],[180,1]],[[-180,2],[-179.5,3]]]})", geometry) == 2);
    CHECK((geometry.boxes[0] == Box{179.5, 0, 180, 1} && geometry.boxes[1] == Box{-180, 2, -179.5, 3}));
    CHECK(boxes_of(R"({"type":"MultiPoint","coordinates":[[180,0],[-180,1],[0,2]]})", geometry) == 2);
    CHECK((geometry.boxes[0] == Box{0, 0, 180, 2} && geometry.boxes[1] == Box{-180, 1, -180, 1}));
    CHECK(boxes_of(R"({"type":"LineString","coordinates":[[-180,0],[180,1]]})", geometry) == 1);
    CHECK((geometry.boxes[0] == Box{-180, 0, 180, 1}));
    CHECK(boxes_of(R"({"type":"MultiPoint","coordinates":[[180,0],[-179,1]]})", geometry) == 1);
}

TEST(a_state_within_its_bounds_is_told_as_it_came) {
    CHECK(is_accepted({}));
    Written state;
    state.id = std::string(128, 'i');
    state.kind.clear();
    state.seen = VERSION_MAX;
    state.ttl = 1.5;
    state.deadline = NOW + 1.0;
    state.access.clear();
    state.properties = "{}";
    CHECK(is_accepted(state));
    state.access = {"", std::string("\0", 1), std::string("a\0b", 3), std::string(256, 'a')};
    state.properties = R"({"na\"me":"\u0000","z":[{"a":null}],"":1,"b":0.5})";
    CHECK(is_accepted(state));
    state.access.clear();
    for (int n = 1000; n < 2000; ++n) {
        state.access.push_back("user:" + std::to_string(n));
    }
    CHECK(is_accepted(state));
    state = Written();
    state.properties = R"({"p":")" + std::string(400 - POINT.size() - 7, 'p') + R"("})";
    CHECK(is_accepted(state));
}

TEST(a_state_beyond_its_bounds_is_bad) {
    const auto is_bad = [](auto change) {
        Written state;
        change(state);
        return !is_accepted(state);
    };
    CHECK(is_bad([](Written& state) { state.id.clear(); }));
    CHECK(is_bad([](Written& state) { state.id = std::string(129, 'i'); }));
    CHECK(is_bad([](Written& state) { state.id = "a\tb"; }));
    CHECK(is_bad([](Written& state) { state.id = "\xC3("; }));
    CHECK(is_bad([](Written& state) { state.seen = state.wire = 0; }));
    CHECK(is_bad([](Written& state) { state.wire = 21; }));
    CHECK(is_bad([](Written& state) { state.seen = VERSION_MAX + 1; }));
    CHECK(is_bad([](Written& state) { state.ttl = -1.0; }));
    CHECK(is_bad([](Written& state) { state.deadline = NEVER; }));
    CHECK(is_bad([](Written& state) { state.min_zoom = std::numeric_limits<double>::quiet_NaN(); }));
    CHECK(is_bad([](Written& state) { state.rank = 1.5; }));
    CHECK(is_bad([](Written& state) { state.kind = "\x1F"; }));
    CHECK(is_bad([](Written& state) { state.access = {"b", "a"}; }));
    CHECK(is_bad([](Written& state) { state.access = {"a", "a"}; }));
    CHECK(is_bad([](Written& state) { state.access = {std::string(257, 'a')}; }));
    CHECK(is_bad([](Written& state) { state.access = {"\xFF"}; }));
    CHECK(is_bad([](Written& state) { state.properties = "[]"; }));
    CHECK(is_bad([](Written& state) { state.properties = R"({"a":null})"; }));
    CHECK(is_bad([](Written& state) { state.properties = R"({"a":1,"a":1})"; }));
    CHECK(is_bad([](Written& state) { state.properties = R"({"a":1} )"; }));
    CHECK(is_bad([](Written& state) { state.properties = R"({"a":1,"b":2,"c":3,"d":4,"e":5})"; }));
    CHECK(is_bad([](Written& state) { state.properties = R"({"p":")" + std::string(400 - POINT.size() - 6, 'p') + R"("})"; }));
    CHECK(is_bad([](Written& state) { state.geometry = R"({"type":"Point","coordinates":[10.50,-1]})"; }));
    CHECK(is_bad([](Written& state) { state.access.assign(1001, "a"); }));
}

TEST(a_broken_batch_gives_what_can_be_found) {
    Written second;
    second.id = "second";
    const std::string batch = joined({Written().bytes(), dead("dead", 5, NOW), second.bytes(), "\x91\xA1u"});
    for (size_t bytes = 0; bytes < batch.size(); ++bytes) {
        Engine engine(SETTINGS, 0);
        const Merged merged = merge(engine, batch.substr(0, bytes));
        CHECK(merged.bad == 1 && merged.accepted <= 3);
        std::vector<std::pair<std::string_view, std::string_view>> states;
        CHECK(!split_states(std::string_view(batch).substr(0, bytes), states));
        for (int byte : {0x00, 0x7F, 0x80, 0xC1, 0xDD, 0xFF}) {
            std::string spoiled = batch;
            spoiled[bytes] = static_cast<char>(byte);
            Engine other(SETTINGS, 0);
            merge(other, spoiled);
            states.clear();
            split_states(spoiled, states);
        }
    }
    Engine engine(SETTINGS, 0);
    const Merged merged = merge(engine, joined({"\x07", Written().bytes(), "\x92\x01\x02", second.bytes()}) + "more");
    CHECK(merged.accepted == 2 && merged.bad == 3);
    std::vector<std::pair<std::string_view, std::string_view>> states;
    CHECK(split_states(batch, states) && states.size() == 4);
    CHECK(states[0].first == "bus-7" && states[0].second == Written().bytes() && states[3].first == "u");
}

TEST(what_nests_too_deep_is_not_found) {
    Engine engine(SETTINGS, 0);
    const std::string deepest = std::string(STATE_NESTING_MAX, '\x91') + '\x01';
    CHECK(merge(engine, joined({deepest, Written().bytes()})).accepted == 1);
    Written later;
    later.seen = 30;
    const Merged merged = merge(engine, joined({'\x91' + deepest, later.bytes()}));
    CHECK(merged.accepted == 0 && merged.bad == 1);
}

TEST(the_higher_seen_version_wins_whole) {
    Engine engine(SETTINGS, 0);
    const uint32_t all = engine.open_feed(FeedKind::ALL), asked = engine.open_feed(FeedKind::ASKED);
    Written state;
    CHECK(merge(engine, joined({state.bytes()})).accepted == 1);
    CHECK(merge(engine, joined({state.bytes()}), NOW, asked).stale == 1);
    CHECK(engine.feed_size(all) == 1 && engine.feed_size(asked) == 1);
    CHECK(taken(engine, all) == joined({state.bytes()}) && taken(engine, asked) == joined({state.bytes()}));
    state.seen = 30;
    state.access = {"public"};
    state.deadline = NOW + 5.0;
    CHECK(merge(engine, joined({state.bytes()})).unchanged == 1);
    CHECK(told(engine) == joined({state.bytes()}));
    CHECK(engine.next_expiry() == NOW + 5.0);
    state.seen = 40;
    state.wire = 9;  // below the one that is there
    state.geometry = R"({"type":"Point","coordinates":[11,12]})";
    CHECK(merge(engine, joined({state.bytes()})).accepted == 1);
    state.wire = 40;
    CHECK(told(engine) == joined({state.bytes()}));
    CHECK(merge(engine, joined({dead("bus-7", 40, NOW), "\x91\xA5" "bus-7"})).stale == 2);
    CHECK(merge(engine, joined({dead("bus-7", 50, NOW - 100.0)})).accepted == 1);
    CHECK(told(engine) == joined({dead("bus-7", 50, NOW - 100.0)}));
    CHECK(merge(engine, joined({dead("other", 50, NOW - 40.0)})).stale == 1);
    state.seen = 60;
    state.wire = 50;
    CHECK(merge(engine, joined({state.bytes()})).accepted == 1);
    state.wire = 60;  // a client may have held all up to the death
    CHECK(told(engine) == joined({state.bytes()}));
    CHECK(engine.statistics().tombstones == 0 && engine.statistics().entities == 1);
}

TEST(a_deadline_that_has_come_is_a_death_at_that_time) {
    Engine engine(SETTINGS, 0);
    Written state;
    state.access = {"public"};
    state.deadline = NOW - 1.0;
    CHECK(merge(engine, joined({state.bytes()})).accepted == 1);
    std::string expected = dead("bus-7", 20, NOW - 1.0, true);
    expected[expected.find('\xC3')] = '\xC2';  // by_publisher
    CHECK(told(engine) == joined({expected}));
    CHECK(engine.next_expiry() == NOW + 40.0);
    state.id = "other";
    state.deadline = NOW - 40.0;
    CHECK(merge(engine, joined({state.bytes()})).stale == 1);
}
