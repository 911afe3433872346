// A random game on the engine alone: every call of it, in any order, on a world small enough for operations to meet.
//
// Law: after each step the engine's own invariants hold, every frame is one, and at the end nothing is left of what came
// and went. What is played is decided by a `Source` alone (numbers below a bound): a seed in native/tests, bytes in
// native/fuzz.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../engine.h"
#include "../msgpack.h"

namespace realtime::testing {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
}

inline void require(bool holds, const char* what) {
    if (!holds) {
        fail(what);
    }
}

constexpr double START_S = 1700000000.0;

template <class Source>
class EngineGame {
   public:
    static constexpr uint32_t IDS = 14;
    static constexpr size_t SESSIONS_MAX = 6;
    static constexpr size_t BATCHES_MAX = 8;  // of those that were told, the last
    // More tombstones than ids: an entity that is reborn, after its death was forgotten by count, in exactly the version that a
    // client still holds cannot be told from one that never died.
    static constexpr Settings SETTINGS{6, 400, 5, 0.0625, 40.0, 100};

    explicit EngineGame(Source& source)
        : source_(source), engine_(SETTINGS, source.below(3)), other_(SETTINGS, 3), other_feed_(other_.open_feed(FeedKind::LOCAL)) {
        for (uint32_t n = 0; n < IDS; ++n) {
            ids_.push_back(n == 3 ? "z\xC3\xBCrich \"3\"" : n == 4 ? std::string(128, 'e') : "e" + std::to_string(n));
        }
    }

    // One operation, and whether all still holds.
    void step() {
        switch (source_.below(20)) {
            case 0:
            case 1:
            case 2:
                upsert();
                break;
            case 3:
            case 4:
            case 5:
                change();
                break;
            case 6:
                remove();
                break;
            case 7:
                expire();
                break;
            case 8:
                come();
                break;
            case 9:
                look();
                break;
            case 10:
                allow();
                break;
            case 11:
                go();
                break;
            case 12:
                ask();
                break;
            case 13:
                veil();
                break;
            case 14:
                open_or_close();
                break;
            case 15:
                tell();
                break;
            case 16:
            case 17:
                hear();
                break;
            case 18:
                reload();
                break;
            default:
                flush();
        }
        verify();
    }

    // Everybody leaves, everything dies and is forgotten; then nothing is kept.
    void finish() {
        while (!sessions_.empty()) {
            engine_.close(sessions_.back());
            sessions_.pop_back();
            verify();
        }
        while (!feeds_.empty()) {
            engine_.close_feed(feeds_.back());
            feeds_.pop_back();
            verify();
        }
        for (const std::string& id : ids_) {
            Update update;
            update.op = Op::DELETE;
            update.id = id;
            engine_.apply(update, now_);
        }
        engine_.begin_reload();  // what a broken batch gave birth to has another id
        while (!engine_.end_reload(now_, 3)) {
            verify();
        }
        now_ += 41.0;
        engine_.expire(now_, ids_.size());
        verify();
        const Statistics left = engine_.statistics();
        require(left.entities == 0 && left.tombstones == 0 && left.sessions == 0 && left.outbox_entities == 0, "not empty at the end");
        require(left.ghosts == 0 && left.feeds == 0, "ghosts are left");
        require(left.principals == 1 && left.access_sets == 1, "rights are left");
        require(left.filters == 0, "filters are left");
        engine_.expire(std::numeric_limits<double>::max(), ids_.size());  // a broken batch may have named any deadline
        require(engine_.next_due() == NEVER && engine_.next_expiry() == NEVER, "something is still to come");
    }

    uint64_t frames() const { return frames_; }

   private:
    bool maybe() { return source_.below(2) == 1; }
    const std::string& id() { return ids_[source_.below(IDS)]; }
    uint64_t session() { return sessions_[source_.below(static_cast<uint32_t>(sessions_.size()))]; }

    void verify() {
        for (Engine* engine : {&engine_, &other_}) {
            const std::string wrong = engine->verify();
            require(wrong.empty(), wrong.c_str());
        }
    }

    double coordinate(bool is_latitude) {
        static constexpr double LONGITUDES[] = {-180, -179.5, -10, 0, 0.25, 0.5, 10, 179.5, 180};
        static constexpr double LATITUDES[] = {-90, -1, 0, 0.25, 0.5, 45.125, 90, 1, -0.25};
        return (is_latitude ? LATITUDES : LONGITUDES)[source_.below(9)];
    }

    // What an update points to lives in the game until the next one.
    void set_geometry(Update& update, bool must_be_point) {
        const double lon = coordinate(false), lat = coordinate(true);
        update.geometry.box_count = 1;
        update.geometry.boxes[0] = {lon, lat, lon, lat};
        update.geometry.is_point = must_be_point || source_.below(4) > 0;
        char text[64];
        std::snprintf(text, sizeof text, "%g,%g", lon, lat);
        text_ = text;
        if (!update.geometry.is_point) {
            const bool is_split = maybe();
            text_ = std::string(R"({"type":"MultiPoint","coordinates":[[)") + text_ + (is_split ? "],[-180,0],[180,0]]}" : "]]}");
            if (is_split) {
                update.geometry.box_count = 2;
                update.geometry.boxes[0] = {-180, std::min(lat, 0.0), lon, std::max(lat, 0.0)};
                update.geometry.boxes[1] = {lon, std::min(lat, 0.0), 180, std::max(lat, 0.0)};
            }
        }
        update.geometry.text = text_;
    }

    void set_properties(Update& update) {
        static constexpr std::string_view NAMES[] = {"a", "b", "speed", "na\"me", "x", "y"};
        static constexpr std::string_view VALUES[] = {"1", "null", "-2.5", "\"x\"", "[1,{\"a\":null}]", "true", "\"\\u0000\"", ""};
        long_ = '"' + std::string(1 + source_.below(500), 'p') + '"';
        properties_.clear();
        for (const std::string_view name : NAMES) {
            if (source_.below(3) == 0) {
                const uint32_t which = source_.below(9);
                const std::string_view json = which < 8 ? VALUES[which] : std::string_view(long_);
                if (update.op == Op::PATCH || !json.empty()) {
                    properties_.push_back({name, json});
                }
            }
        }
        update.has_properties = true;
        update.properties = properties_.data();
        update.property_count = properties_.size();
    }

    void set_rest(Update& update, bool is_all) {
        static constexpr std::string_view KINDS[] = {"", "bus", "tram"};
        static constexpr double ZOOMS[] = {0, 0, 5, 10};
        static constexpr double RANKS[] = {0, 0.25, 0.5, 1};
        static constexpr double TTLS[] = {0, 0, 0.25, 1, 3.5};
        static constexpr std::string_view ACCESSES[][2] = {{"public", ""}, {"public", ""}, {"group:a", ""}, {"group:b", "user:u"}, {"", ""}};
        const uint32_t named = is_all ? 31 : source_.below(32);
        update.has_kind = named & 1;
        update.kind = KINDS[source_.below(3)];
        update.has_min_zoom = named & 2;
        update.min_zoom = ZOOMS[source_.below(4)];
        update.has_rank = named & 4;
        update.rank = RANKS[source_.below(4)];
        update.has_ttl = named & 8;
        update.ttl = TTLS[source_.below(5)];
        update.has_access = named & 16;
        const auto& access = ACCESSES[source_.below(5)];
        update.access = access;
        update.access_count = (access[0].empty() ? 0 : 1) + (access[1].empty() ? 0 : 1);
    }

    void apply(Update& update) {
        update.version = source_.below(4) ? 0 : 1 + source_.below(40);
        if (maybe()) {
            target_->hint(update.id);
        }
        target_->apply(update, now_);
    }

    void upsert() {
        Update update;
        update.id = id();
        set_geometry(update, false);
        set_properties(update);
        set_rest(update, true);
        apply(update);
    }

    // Some of them once, some again and again before anybody is told.
    void change() {
        const std::string& which = id();
        const uint32_t times = source_.below(8) ? 1 + source_.below(3) : 100;
        for (uint32_t n = 0; n < times; ++n) {
            Update update;
            update.id = which;
            update.op = source_.below(3) ? Op::MOVE : Op::PATCH;
            if (update.op == Op::MOVE || source_.below(4) == 0) {
                set_geometry(update, update.op == Op::MOVE);
            }
            if (update.op == Op::PATCH) {
                if (maybe()) {
                    set_properties(update);
                }
                set_rest(update, false);
            }
            apply(update);
        }
    }

    // Some are hidden from everybody or shown again: what is not told yet need not be told any more, as versions stay.
    void veil() {
        static constexpr std::string_view EVERYBODY = "public";
        const bool is_hidden = maybe();
        for (uint32_t n = 1 + source_.below(6), first = source_.below(IDS); n; --n) {
            Update update;
            update.op = Op::PATCH;
            update.id = ids_[(first + n) % IDS];
            update.has_access = true;
            update.access = &EVERYBODY;
            update.access_count = is_hidden ? 0 : 1;
            engine_.apply(update, now_);
        }
    }

    void remove() {
        Update update;
        update.op = Op::DELETE;
        for (uint32_t n = source_.below(4) ? 1 : IDS; n; --n) {
            update.id = id();
            apply(update);
        }
    }

    void expire() {
        static constexpr double WAITS[] = {0, 0.015625, 0.25, 0.5, 1, 4, 50};
        now_ += WAITS[source_.below(7)];
        const size_t deaths_max = maybe() ? IDS : 1 + source_.below(3);
        std::vector<std::string> dead = engine_.expire(now_, deaths_max);
        require(dead.size() <= deaths_max, "more died than might");
        std::sort(dead.begin(), dead.end());
        require(std::adjacent_find(dead.begin(), dead.end()) == dead.end(), "one died twice");
    }

    // Feeds: another node has entities of the same ids, and what either tells is told again, twice, in part and broken.

    uint32_t feed() { return feeds_[source_.below(static_cast<uint32_t>(feeds_.size()))]; }

    void open_or_close() {
        if (feeds_.size() < 4 && (feeds_.empty() || maybe())) {
            feeds_.push_back(engine_.open_feed(static_cast<FeedKind>(source_.below(3))));
            require(engine_.feed_size(feeds_.back()) == 0, "a new feed is not empty");
        } else if (maybe()) {
            engine_.offer_all(feed());
        } else {
            engine_.close_feed(feeds_.back());
            feeds_.pop_back();
        }
    }

    void take(Engine& engine, uint32_t feed) {
        static constexpr size_t BUDGETS[] = {0, 1, 200, 1000000};
        const size_t budget = BUDGETS[source_.below(4)];
        const size_t size = engine.feed_size(feed);
        bool is_any = false;
        for (Batch& batch : engine.take_feed(feed, 1 + source_.below(3), budget)) {
            if (!batch.bytes().empty()) {
                is_any = true;
                batches_.emplace_back(batch.bytes());
            }
        }
        require(is_any == (size > 0) && (size == 0 || engine.feed_size(feed) < size), "nothing was taken");
        require(budget > 1 || engine.feed_size(feed) + 1 >= size, "more was taken than was asked for");
        batches_.erase(batches_.begin(), batches_.end() - static_cast<std::ptrdiff_t>(std::min(batches_.size(), BATCHES_MAX)));
    }

    void tell() {
        if (!feeds_.empty() && source_.below(3)) {
            take(engine_, feed());
            return;
        }
        target_ = &other_;
        maybe() ? upsert() : maybe() ? change() : remove();
        target_ = &engine_;
        take(other_, other_feed_);
    }

    void hear() {
        if (batches_.empty()) {
            return;
        }
        std::string batch = batches_[source_.below(static_cast<uint32_t>(batches_.size()))];
        if (source_.below(4) == 0) {
            batch[source_.below(static_cast<uint32_t>(batch.size()))] = static_cast<char>(source_.below(256));
        }
        if (source_.below(8) == 0) {
            batch.resize(source_.below(static_cast<uint32_t>(batch.size())));
        }
        const std::unique_ptr<char[]> exact(new char[batch.size()]);
        std::copy(batch.begin(), batch.end(), exact.get());
        Engine& engine = source_.below(4) ? engine_ : other_;
        engine.merge({exact.get(), batch.size()}, now_, &engine == &other_ ? other_feed_ : feeds_.empty() || maybe() ? 0 : feed());
    }

    void reload() {
        maybe() ? engine_.begin_reload() : static_cast<void>(engine_.end_reload(now_, source_.below(6)));
        engine_.renumber(source_.below(3));
    }

    size_t set_principals() {
        static constexpr std::string_view PRINCIPALS[] = {"group:a", "group:b", "user:u", "group:a", "public"};
        names_.clear();
        for (uint32_t n = source_.below(4); n; --n) {
            names_.push_back(PRINCIPALS[source_.below(5)]);
        }
        return names_.size();
    }

    void come() {
        if (sessions_.size() < SESSIONS_MAX) {
            const size_t count = set_principals();
            sessions_.push_back(engine_.open(names_.data(), count, maybe() ? Encoding::JSON : Encoding::MSGPACK));
            if (source_.below(4)) {
                look(sessions_.back());
            }
        }
    }

    void look() {
        if (!sessions_.empty()) {
            look(session());
        }
    }

    void look(uint64_t number) {
        static constexpr std::string_view FILTERS[] = {
            "", "", R"(["==",["kind"],"bus"])", R"([">",["get","a"],0.0])", R"(["!",["has","b"]])", R"(["!=",["id"],"e1"])"};
        static constexpr Box BOXES[] = {
            {-180, -90, 180, 90}, {-180, -90, 180, 90}, {-11, -90, 11, 90}, {0, 0, 0, 0}, {0.25, -1, 10, 46}, {170, -10, 180, 10},
            {-180, -10, -170, 10}};
        static constexpr double RATES[] = {0, 0, 0.5, 8};
        View view;
        view.box_count = static_cast<uint8_t>(source_.below(3));
        for (Box& box : view.boxes) {
            box = BOXES[source_.below(7)];
        }
        view.zoom = maybe() ? 12.0 : 3.0;
        view.filter_key = FILTERS[source_.below(6)];
        std::vector<std::string_view> ids;
        for (uint32_t n = source_.below(4), first = source_.below(IDS); n; --n) {
            ids.push_back(ids_[(first + n) % IDS]);
        }
        view.ids = ids.data();
        view.id_count = ids.size();
        view.max_hz = RATES[source_.below(4)];
        const bool is_json = engine_.encoding(number) == Encoding::JSON;
        view.id = source_.below(2) ? std::string_view() : is_json ? "\"v\"" : "\xA1v";
        view.id_budget_bytes = 3;
        std::vector<Claim> have;
        const bool has_have = source_.below(3) == 0;
        if (has_have) {
            for (uint32_t n = source_.below(5), first = source_.below(IDS); n; --n) {
                const Explanation truth = engine_.explain(number, ids_[(first + n) % IDS]);
                have.push_back({ids_[(first + n) % IDS], truth.version && maybe() ? truth.version : 1 + source_.below(40)});
            }
        }
        engine_.look(number, view, have.data(), have.size(), has_have, now_);
    }

    void allow() {
        if (sessions_.empty()) {
            return;
        }
        if (maybe()) {
            engine_.refresh(session(), now_);
        } else {
            const size_t count = set_principals();
            engine_.allow(session(), names_.data(), count, now_);
        }
    }

    void go() {
        if (!sessions_.empty() && source_.below(3) == 0) {
            const uint64_t number = session();
            engine_.close(number);
            sessions_.erase(std::find(sessions_.begin(), sessions_.end(), number));
            require(!engine_.is_open(number), "a closed session is open");
        }
    }

    void ask() {
        std::vector<std::string> features;
        const Box everywhere{-180, -90, 180, 90};
        engine_.search(&everywhere, 1, 24.0, maybe() ? R"(["has","a"])" : "", features);
        for (const std::string& feature : features) {
            require_json(feature);
        }
        std::string feature;
        if (engine_.get(id(), feature)) {
            require_json(feature);
        }
        if (!sessions_.empty()) {
            const uint64_t number = session();
            Check check;
            const bool is_known = engine_.check(number, check);
            const SessionStatistics numbers = engine_.statistics(number);
            require(numbers.shown <= numbers.total && numbers.shown <= 6, "a view shows more than it may");
            require(!is_known || check.pending == numbers.outbox, "the check and the statistics differ");
            engine_.explain(number, id());
        }
    }

    // Whoever is due and is not held up reads; sometimes one reads that is not due.
    void flush() {
        static constexpr size_t BUDGETS[] = {0, 1, 300, 450, 1000, 1000000};
        const size_t budget = BUDGETS[source_.below(6)];
        now_ += 0.0625;
        std::vector<uint64_t> taken;
        engine_.take_dirty(now_, taken);
        if (!sessions_.empty() && source_.below(4) == 0) {
            taken.push_back(session());
        }
        for (const uint64_t number : taken) {
            if (source_.below(4) == 0 || !engine_.is_open(number)) {
                continue;  // it is drained some other time, or closed undrained
            }
            frame_.clear();
            if (engine_.drain(number, budget, now_, frame_)) {
                ++frames_;
                if (engine_.encoding(number) == Encoding::JSON) {
                    require_json(frame_);
                } else {
                    require((static_cast<uint8_t>(frame_[0]) & 0xF0) == 0x80 && frame_.compare(1, 11, "\xA4type\xA5""delta") == 0, "no frame");
                }
            } else {
                require(frame_.empty(), "bytes without a delta");
            }
        }
    }

    void require_json(std::string_view json) {
        scratch_.clear();
        require(json.front() == '{' && transcode(json, scratch_), "no JSON");
    }

    Source& source_;
    Engine engine_, other_;
    const uint32_t other_feed_;
    Engine* target_ = &engine_;  // whom updates go to
    double now_ = START_S;
    std::vector<std::string> ids_;
    std::vector<uint64_t> sessions_;
    std::vector<uint32_t> feeds_;
    std::vector<std::string> batches_;
    uint64_t frames_ = 0;
    std::string text_, long_, frame_, scratch_;
    std::vector<NamedProperty> properties_;
    std::vector<std::string_view> names_;
};

}  // namespace realtime::testing
