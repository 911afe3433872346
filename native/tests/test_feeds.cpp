// Feeds: what is offered to which, the order in which it is taken, and what stays known of the dead until it was.

#include <stdexcept>
#include <string>
#include <vector>

#include "../engine.h"
#include "../hash.h"
#include "check.h"

using namespace realtime;

namespace {

constexpr double NOW = 1700000000.0;
constexpr Settings SETTINGS{100000, 65536, 64, 0.0625, 40.0, 1000};

Verdict put(Engine& engine, const std::string& id, double now = NOW, double ttl = 0.0) {
    const std::string_view everybody = "public";
    Update update;
    update.id = id;
    update.geometry.text = "1,2";
    update.geometry.boxes[0] = {1, 2, 1, 2};
    update.geometry.box_count = 1;
    update.geometry.is_point = true;
    update.has_properties = update.has_kind = update.has_min_zoom = update.has_rank = update.has_ttl = update.has_access = true;
    update.access = &everybody;
    update.access_count = 1;
    update.ttl = ttl;
    return engine.apply(update, now);
}

Verdict remove(Engine& engine, const std::string& id, double now = NOW) {
    Update update;
    update.op = Op::DELETE;
    update.id = id;
    return engine.apply(update, now);
}

std::string ids_of(std::string_view batch) {
    std::vector<std::pair<std::string_view, std::string_view>> states;
    CHECK(batch.empty() || split_states(batch, states));
    std::string ids;
    for (const auto& [id, state] : states) {
        // Whether it lives, is dead or unknown: 12, 6 or 1 members.
        ids.append(id).append(state[0] == '\x9C' ? " " : state[0] == '\x96' ? "+ " : "? ");
    }
    return ids;
}

std::string take(Engine& engine, uint32_t feed, size_t bytes_max = 1 << 30) {
    const std::string ids = ids_of(engine.take_feed(feed, 1, bytes_max)[0].bytes());
    CHECK(engine.verify().empty());
    return ids;
}

template <class Call>
bool throws_out_of_range(Call&& call) {
    try {
        call();
    } catch (const std::out_of_range&) {
        return true;
    }
    return false;
}

}  // namespace

TEST(eight_feeds_are_open_at_once) {
    Engine engine(SETTINGS, 0);
    for (uint32_t feed = 1; feed <= 8; ++feed) {
        CHECK(engine.open_feed(FeedKind::ALL) == feed);
    }
    bool is_refused = false;
    try {
        engine.open_feed(FeedKind::ALL);
    } catch (const std::invalid_argument&) {
        is_refused = true;
    }
    CHECK(is_refused);
    put(engine, "a");
    CHECK(engine.statistics().feeds == 8);
    engine.close_feed(3);
    CHECK(engine.statistics().feeds == 7 && engine.open_feed(FeedKind::ASKED) == 3 && engine.feed_size(3) == 0);
    engine.close_feed(8);
    for (uint32_t feed : {0u, 8u, 9u, 4000000000u}) {
        CHECK(throws_out_of_range([&] { engine.feed_size(feed); }));
        CHECK(throws_out_of_range([&] { engine.close_feed(feed); }));
        CHECK(throws_out_of_range([&] { engine.take_feed(feed, 1, 1); }));
        CHECK(throws_out_of_range([&] { engine.offer_all(feed); }));
        CHECK(feed == 0 || throws_out_of_range([&] { engine.merge("", NOW, feed); }));
    }
    CHECK(engine.verify().empty());
}

TEST(a_feed_is_told_the_present_in_the_order_of_the_first_offer) {
    Engine engine(SETTINGS, 0);
    const uint32_t local = engine.open_feed(FeedKind::LOCAL), asked = engine.open_feed(FeedKind::ASKED);
    for (const char* id : {"a", "b", "c", "a", "b"}) {
        put(engine, id);
    }
    remove(engine, "b");
    remove(engine, "unknown");
    CHECK(engine.feed_size(local) == 4 && engine.feed_size(asked) == 0);
    CHECK(take(engine, local, 0) == "a ");
    put(engine, "a");
    CHECK(take(engine, local) == "b+ c unknown+ a ");
    CHECK(take(engine, local).empty());
    engine.offer_all(asked);
    engine.offer_all(asked);
    CHECK(take(engine, asked) == "a c b+ unknown+ ");
}

TEST(a_shard_gets_what_its_hash_says) {
    Engine engine(SETTINGS, 0);
    const uint32_t feed = engine.open_feed(FeedKind::LOCAL);
    for (int n = 0; n < 3000; ++n) {
        put(engine, "entity-" + std::to_string(n));
    }
    size_t count = 0;
    while (engine.feed_size(feed)) {
        std::vector<Batch>& batches = engine.take_feed(feed, 5, 10000);
        for (uint32_t shard = 0; shard < 5; ++shard) {
            std::vector<std::pair<std::string_view, std::string_view>> states;
            CHECK(batches[shard].bytes().empty() || split_states(batches[shard].bytes(), states));
            for (const auto& [id, state] : states) {
                CHECK(fmix32(fnv1a32(id)) % 5 == shard);
            }
            count += states.size();
        }
    }
    CHECK(count == 3000 && engine.verify().empty());
}

TEST(a_death_is_remembered_until_it_was_told) {
    Engine engine(SETTINGS, 0);
    const uint32_t feed = engine.open_feed(FeedKind::LOCAL);
    put(engine, "a");
    remove(engine, "a");
    put(engine, "b", NOW, 1.0);
    CHECK(take(engine, feed, 0) == "a+ ");
    CHECK(engine.expire(NOW + 1.0, 10).size() == 1);  // not offered, and yet in the feed since it was born
    remove(engine, "a", NOW + 1.0);
    CHECK(engine.next_expiry() == NEVER);
    CHECK(engine.expire(NOW + 100.0, 10).empty());
    CHECK(engine.statistics().tombstones == 2);
    CHECK(take(engine, feed) == "b+ a+ ");
    CHECK(engine.next_expiry() == NOW + 41.0);
    engine.expire(NOW + 100.0, 10);
    CHECK(engine.statistics().tombstones == 0 && engine.statistics().ghosts == 0);
}

TEST(what_is_not_remembered_is_told_as_unknown) {
    Settings few = SETTINGS;
    few.tombstones_max = 1;
    Engine engine(few, 0);
    const uint32_t feed = engine.open_feed(FeedKind::LOCAL);
    remove(engine, "a");
    remove(engine, "b");
    CHECK(take(engine, feed) == "a? b+ ");
    CHECK(engine.statistics().ghosts == 0);
}

TEST(a_reload_lets_die_what_nobody_named) {
    Engine engine(SETTINGS, 0), other(SETTINGS, 1);
    const uint32_t told = other.open_feed(FeedKind::LOCAL);
    put(other, "told");
    for (const char* id : {"b", "a", "told", "local", "applied"}) {
        put(engine, id);
    }
    const uint32_t all = engine.open_feed(FeedKind::ALL), local = engine.open_feed(FeedKind::LOCAL);
    put(engine, "local", NOW + 1.0);
    CHECK(engine.end_reload(NOW, 1));
    engine.begin_reload();
    put(engine, "applied", NOW + 1.0);
    put(engine, "born", NOW + 1.0);
    CHECK(take(engine, all) == "local applied born " && take(engine, local, 0) == "local ");
    put(engine, "local", NOW + 2.0);
    engine.begin_reload();
    put(engine, "born", NOW + 2.0);
    engine.merge(other.take_feed(told, 1, 1000)[0].bytes(), NOW + 2.0, 0);
    take(engine, all);
    CHECK(!engine.end_reload(NOW + 2.0, 1));
    CHECK(take(engine, all) == "b+ ");
    CHECK(!engine.end_reload(NOW + 2.0, 4));
    CHECK(engine.end_reload(NOW + 2.0, 1000));
    CHECK(take(engine, all) == "a+ ");
    CHECK(take(engine, local) == "applied born local ");
    CHECK(engine.statistics().entities == 4);
}
