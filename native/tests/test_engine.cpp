// The engine alone: random games under its own invariants, and the bounds that a game is too small to reach.
//
// That it says what the reference engine says is proved in tests/test_engine.py; here the same code runs under the
// sanitizers.

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../engine.h"
#include "check.h"
#include "engine_game.h"

using namespace realtime;

namespace {

constexpr Settings SETTINGS{100000, 65536, 64, 0.0625, 40.0, 100000};
constexpr double NOW = realtime::testing::START_S;
constexpr Box WORLD{-180, -90, 180, 90};

struct Seeded {
    std::mt19937 generator;
    uint32_t below(uint32_t bound) { return static_cast<uint32_t>(generator() % bound); }
};

Verdict put(Engine& engine, const std::string& id, double lon, double now, const std::string& property = "", double ttl = 0.0) {
    const std::string text = std::to_string(lon) + ",0";
    const NamedProperty named{"p", property};
    Update update;
    update.id = id;
    update.geometry.text = text;
    update.geometry.boxes[0] = {lon, 0, lon, 0};
    update.geometry.box_count = 1;
    update.geometry.is_point = true;
    update.has_properties = update.has_kind = update.has_min_zoom = update.has_rank = update.has_ttl = true;
    update.properties = &named;
    update.property_count = property.empty() ? 0 : 1;
    update.ttl = ttl;
    return engine.apply(update, now);
}

Verdict set_ttl(Engine& engine, const std::string& id, double ttl, double now) {
    Update update;
    update.op = Op::PATCH;
    update.id = id;
    update.has_ttl = true;
    update.ttl = ttl;
    return engine.apply(update, now);
}

// Lets everybody see it or nobody: its version stays.
Verdict set_hidden(Engine& engine, const std::string& id, bool is_hidden, double now) {
    const std::string_view everybody = "public";
    Update update;
    update.op = Op::PATCH;
    update.id = id;
    update.has_access = true;
    update.access = &everybody;
    update.access_count = is_hidden ? 0 : 1;
    return engine.apply(update, now);
}

Verdict remove(Engine& engine, const std::string& id, double now) {
    Update update;
    update.op = Op::DELETE;
    update.id = id;
    return engine.apply(update, now);
}

uint64_t look(Engine& engine, Encoding encoding, double now, const Box& box = WORLD) {
    const uint64_t session = engine.open(nullptr, 0, encoding);
    View view;
    view.boxes[0] = box;
    view.box_count = 1;
    engine.look(session, view, nullptr, 0, false, now);
    return session;
}

template <class Exception, class Call>
bool throws(Call call) {
    try {
        call();
    } catch (const Exception&) {
        return true;
    }
    return false;
}

void check_is_empty(Engine& engine) {
    const std::string wrong = engine.verify();
    if (!wrong.empty()) {
        realtime::testing::fail(wrong.c_str());
    }
    const Statistics left = engine.statistics();
    CHECK(left.entities == 0 && left.tombstones == 0 && left.sessions == 0 && left.outbox_entities == 0);
    CHECK(left.ghosts == 0 && left.principals == 1 && left.access_sets == 1 && left.filters == 0);
}

}  // namespace

TEST(random_games_keep_every_invariant) {
    const uint32_t first = std::random_device{}();
    std::printf("  seeds from %u\n", first);
    uint64_t frames = 0;
    for (uint32_t game = 0; game < 200; ++game) {
        Seeded source{std::mt19937(first + game)};
        realtime::testing::EngineGame<Seeded> played(source);
        for (uint32_t step = 0; step < 250; ++step) {
            played.step();
        }
        played.finish();
        frames += played.frames();
    }
    CHECK(frames > 1000);  // otherwise nothing was played
}

TEST(one_whose_deadline_came_and_went_dies_once) {
    Engine engine(SETTINGS, 0);
    put(engine, "a", 0, NOW, "", 10);
    set_ttl(engine, "a", 5, NOW);      // stands at 5 and at 10
    set_ttl(engine, "a", 9, NOW + 1);  // at 5, is to die at 10
    CHECK(engine.expire(NOW + 6, 100).empty());
    CHECK(engine.expire(NOW + 10, 100) == std::vector<std::string>{"a"});
    CHECK(engine.expire(NOW + 10, 100).empty());
    engine.expire(NOW + 50, 100);
    check_is_empty(engine);
}

TEST(as_many_die_as_may) {
    Engine engine(SETTINGS, 0);
    const uint64_t session = look(engine, Encoding::JSON, NOW);
    for (int n = 0; n < 100; ++n) {
        put(engine, "e" + std::to_string(n), 0, NOW, "", 1 + n % 7);
    }
    size_t dead = 0;
    for (size_t few = 3; few == 3; dead += few) {
        few = engine.expire(NOW + 7, 3).size();
        CHECK(few <= 3 && engine.verify().empty());
    }
    CHECK(dead == 100 && engine.statistics().entities == 0);
    engine.close(session);
    engine.expire(NOW + 50, 100);
    check_is_empty(engine);
}

TEST(pieces_are_right_however_often_their_ring_goes_round) {
    Engine engine(SETTINGS, 0);
    constexpr int ENTITIES = 800;
    const uint64_t sessions[] = {look(engine, Encoding::JSON, NOW), look(engine, Encoding::MSGPACK, NOW), look(engine, Encoding::JSON, NOW)};
    double now = NOW;
    for (int round = 0; round < 3; ++round) {
        std::string expected;
        for (int n = 0; n < ENTITIES; ++n) {
            // Of different sizes, so that the ring's end falls elsewhere each time; 24 MB in all for both encodings.
            put(engine, "e" + std::to_string(n), n * 0.125, now, '"' + std::string(8000 + static_cast<size_t>(n * 37 % 15000), 'a' + round) + '"');
        }
        for (int n = 0; n < ENTITIES; ++n) {
            std::string feature;
            CHECK(engine.get("e" + std::to_string(n), feature));
            expected += (n ? "," : "") + feature;
        }
        now += 1;
        for (const uint64_t session : sessions) {
            engine.refresh(session, now);
        }
        std::string frames[3];
        for (int n = 0; n < 3; ++n) {
            CHECK(engine.drain(sessions[n], size_t{1} << 30, now, frames[n]));
        }
        const size_t begin = frames[0].find("\"enter\":[");
        CHECK(begin != std::string::npos && frames[0].compare(begin + 9, expected.size(), expected) == 0);
        CHECK(frames[2].substr(frames[2].find("\"enter\":[")) == frames[0].substr(begin));
        // As msgpack the same entities, by the ids and the ends of their properties; its transcoding is tested elsewhere.
        std::string packed;
        CHECK(transcode('[' + expected + ']', packed));
        CHECK(frames[1].size() > packed.size() && frames[1].compare(frames[1].size() - packed.size() + 3, packed.size() - 3, packed, 3) == 0);
    }
    CHECK(engine.verify().empty());
}

TEST(an_outbox_stays_within_its_view_however_much_happens) {
    Engine engine(SETTINGS, 0);
    for (int n = 0; n < 10; ++n) {
        put(engine, "e" + std::to_string(n), 0, NOW);
    }
    const uint64_t session = look(engine, Encoding::JSON, NOW);
    std::string frame;
    CHECK(engine.drain(session, 1 << 20, NOW, frame));
    uint64_t bytes_max = 0;
    for (int change = 0; change < 30000; ++change) {
        put(engine, "e" + std::to_string(change % 10), change * 0.001, NOW + change * 0.001);
        bytes_max = std::max(bytes_max, engine.statistics(session).bytes);
    }
    CHECK(engine.statistics(session).outbox == 10);
    CHECK(bytes_max < 16384);
    frame.clear();
    CHECK(engine.drain(session, 1 << 20, NOW + 40, frame) && frame.find("\"move\":[") != std::string::npos);
    CHECK(engine.statistics(session).outbox == 0);
    // What came and went in between is not spoken of, and costs nothing either.
    for (int change = 0; change < 5000; ++change) {
        put(engine, "f" + std::to_string(change), 0, NOW + 41);
        remove(engine, "f" + std::to_string(change), NOW + 41);
    }
    CHECK(engine.statistics(session).outbox == 0 && engine.statistics().ghosts == 0 && engine.verify().empty());
}

TEST(an_outbox_that_was_told_in_part_may_get_empty_by_itself) {
    Engine engine(SETTINGS, 0);
    put(engine, "a", 0, NOW);
    put(engine, "b", 0, NOW);
    put(engine, "far", 90, NOW);
    const uint64_t session = look(engine, Encoding::JSON, NOW, {-1, -1, 1, 1});
    std::string frame;
    CHECK(engine.drain(session, 1 << 20, NOW, frame));
    set_hidden(engine, "a", true, NOW);
    set_hidden(engine, "b", true, NOW);
    View view;
    view.boxes[0] = WORLD;
    view.box_count = 1;
    engine.look(session, view, nullptr, 0, false, NOW);
    CHECK(engine.statistics(session).outbox == 3);
    CHECK(engine.drain(session, 1, NOW + 1, frame) && engine.statistics(session).outbox == 2);
    set_hidden(engine, "b", false, NOW + 1);  // its leave was not told yet, and is not to be any more
    CHECK(engine.statistics(session).outbox == 1);
    CHECK(engine.drain(session, 1 << 20, NOW + 2, frame) && engine.statistics(session).outbox == 0);
    Check check;
    CHECK(engine.check(session, check) && check.count == 2 && engine.verify().empty());
}

TEST(nothing_is_left_of_sessions_that_close_with_full_outboxes) {
    Engine engine(SETTINGS, 0);
    std::vector<uint64_t> sessions;
    for (int n = 0; n < 40; ++n) {
        const std::string_view principals[] = {"group:a", n % 2 ? "user:odd" : "user:even"};
        const uint64_t session = engine.open(principals, 2, n % 2 ? Encoding::JSON : Encoding::MSGPACK);
        View view;
        view.boxes[0] = WORLD;
        view.box_count = 1;
        view.filter_key = n % 3 ? "" : R"(["!=",["id"],"e1"])";
        const std::string_view ids[] = {"e5", "nobody"};
        view.ids = ids;
        view.id_count = 2;
        engine.look(session, view, nullptr, 0, false, NOW);
        sessions.push_back(session);
    }
    for (int n = 0; n < 300; ++n) {
        put(engine, "e" + std::to_string(n), 0, NOW);
    }
    std::string frame;
    for (const uint64_t session : sessions) {
        frame.clear();
        CHECK(engine.drain(session, 1 << 20, NOW + 1, frame));
    }
    for (int n = 0; n < 300; ++n) {
        remove(engine, "e" + std::to_string(n), NOW + 2);
    }
    CHECK(engine.statistics().entities == 0 && engine.statistics().ghosts == 300 && engine.verify().empty());
    put(engine, "e7", 1, NOW + 3);  // one of them comes back while its leave is still to be told
    CHECK(engine.statistics().ghosts == 299 && engine.verify().empty());
    for (const uint64_t session : sessions) {
        engine.close(session);
    }
    remove(engine, "e7", NOW + 4);
    engine.expire(NOW + 50, 0);
    check_is_empty(engine);
}

TEST(wrong_arguments_change_nothing) {
    constexpr double NAN_ = std::numeric_limits<double>::quiet_NaN();
    Engine engine(SETTINGS, 0);
    const uint64_t session = look(engine, Encoding::JSON, NOW);
    for (const double bad : {NAN_, NEVER, -NEVER}) {
        CHECK(throws<std::invalid_argument>([&] { put(engine, "a", bad, NOW); }));
        CHECK(throws<std::invalid_argument>([&] { put(engine, "a", 0, bad); }));
        CHECK(throws<std::invalid_argument>([&] { put(engine, "a", 0, NOW, "", bad); }));
        CHECK(throws<std::invalid_argument>([&] { look(engine, Encoding::JSON, NOW, {0, bad, 1, 1}); }));
        CHECK(throws<std::invalid_argument>([&] { look(engine, Encoding::JSON, bad); }));
        std::vector<std::string> features;
        const Box box{bad, 0, 1, 1};
        CHECK(throws<std::invalid_argument>([&] { engine.search(&box, 1, 24, "", features); }));
    }
    CHECK(throws<std::invalid_argument>([&] { put(engine, "", 0, NOW); }));
    CHECK(throws<std::invalid_argument>([&] { put(engine, std::string(129, 'x'), 0, NOW); }));
    CHECK(throws<std::invalid_argument>([&] { look(engine, Encoding::JSON, NOW, {1, 0, 0, 1}); }));
    View view;
    view.filter_key = "[\"explode\"]";
    CHECK(throws<std::invalid_argument>([&] { engine.look(session, view, nullptr, 0, false, NOW); }));
    CHECK(engine.statistics().entities == 0 && engine.statistics().filters == 0 && engine.verify().empty());
}

TEST(a_number_is_of_one_session_for_ever) {
    Engine engine(SETTINGS, 0);
    const uint64_t old = look(engine, Encoding::JSON, NOW);
    engine.close(old);
    const uint64_t fresh = look(engine, Encoding::JSON, NOW);
    CHECK(fresh != old && engine.is_open(fresh) && !engine.is_open(old));
    std::string frame;
    CHECK(throws<std::out_of_range>([&] { engine.drain(old, 1000, NOW, frame); }));
    CHECK(throws<std::out_of_range>([&] { engine.close(old); }));
    CHECK(throws<std::out_of_range>([&] { engine.refresh(~uint64_t{0}, NOW); }));
    Check check;
    CHECK(throws<std::out_of_range>([&] { engine.check(old, check); }));
    std::vector<uint64_t> taken;
    engine.take_dirty(NOW + 1, taken);
    CHECK(taken == std::vector<uint64_t>{fresh});
}
