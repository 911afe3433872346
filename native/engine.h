// The native engine: world, views and outboxes put together, behind the calls of realtime/engine/__init__.py.
//
// Two paths and no third. A change of the world: `match` offers the entity to the sessions that could see the old state or
// can see the new one. A change of what a session may see (view, rights, sample, refresh, resume): `turn` offers the
// entities on which before and after differ. Both fill the outbox; `drain` empties it into a frame.
//
// Law: between any two calls every entity that is not in a session's outbox is held by its client exactly as the session
// sees it. No I/O, no clock, no thread; `now` is seconds since the Unix epoch and never falls. Decoded frames are those of
// the reference engine, realtime/engine/reference, for the same calls.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "faults.h"
#include "feeds.h"
#include "filters.h"
#include "joined.h"
#include "outbox.h"
#include "pieces.h"
#include "rtree.h"
#include "slots.h"
#include "states.h"
#include "types.h"
#include "world.h"

namespace realtime {

// What a session looks at. Throws nothing; `Engine::look` judges it.
struct View {
    Box boxes[2];
    uint8_t box_count = 0;
    double zoom = 24.0;
    std::string_view filter_key;  // empty: no filter; otherwise see filters.h
    const std::string_view* ids = nullptr;  // distinct
    size_t id_count = 0;
    double max_hz = 0.0;           // 0: as often as flush_interval_s allows
    std::string_view id;           // of the view message, as it stands in the session's frames; empty: none
    size_t id_budget_bytes = 0;    // what the id takes of a frame's budget
};

struct Claim {
    std::string_view id;
    uint64_t version;
};

struct Check {
    uint64_t seq;
    uint64_t count;
    uint32_t digest;
    uint64_t pending;
};

struct Explanation {
    bool exists = false, pending = false, has_tombstone = false, is_expired = false;
    uint64_t version = 0, held = 0;
    bool box = false, ids = false, min_zoom = false, rights = false, filter = false, sample = false, sees = false;
};

struct SessionStatistics {
    uint64_t seq, total, shown, outbox, bytes;
};

struct Statistics {
    uint64_t entities, tombstones, sessions, outbox_entities, pairs, ghosts, principals, access_sets, filters, feeds;
};

struct Merged {
    uint64_t accepted = 0, unchanged = 0, stale = 0, bad = 0;
};

class Engine {
   public:
    static constexpr size_t LAG_BOUNDS = 14;
    static const std::array<double, LAG_BOUNDS> LAG_BOUNDS_S;

    Engine(const Settings& settings, uint64_t node_number);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Throws std::invalid_argument for numbers that are not finite and boxes that are none, before anything is changed.
    Verdict apply(const Update& update, double now);
    // Says that an update of this id will be applied some six hints later, so that its memory can be asked for. Nothing
    // follows from a hint that is wrong or missing but time.
    void hint(std::string_view id);
    static constexpr size_t HINTS_AHEAD = 8;
    // The ids of those that died, earliest deadline first.
    std::vector<std::string> expire(double now, size_t deaths_max);
    double next_expiry() const { return world_.next_expiry(); }

    uint64_t open(const std::string_view* principals, size_t count, Encoding encoding);
    Encoding encoding(uint64_t session) const { return session_of(session).encoding; }
    // All of these throw std::out_of_range for a session that is not open.
    void look(uint64_t session, const View& view, const Claim* have, size_t have_count, bool has_have, double now);
    void allow(uint64_t session, const std::string_view* principals, size_t count, double now);
    void refresh(uint64_t session, double now);
    void close(uint64_t session);
    bool is_open(uint64_t session) const { return find_session(session) != nullptr; }

    void take_dirty(double now, std::vector<uint64_t>& taken);
    double next_due();
    // Appends the next delta to `out`; false: there is nothing to say.
    bool drain(uint64_t session, size_t budget, double now, std::string& out);

    // Feeds; see feeds.h. Naming one that is not open throws std::out_of_range, a number of more than NODE_NUMBERS and a
    // feed more than there may be std::invalid_argument.
    void renumber(uint64_t node_number);
    uint32_t open_feed(FeedKind kind);
    void close_feed(uint32_t feed);
    void offer_all(uint32_t feed);
    size_t feed_size(uint32_t feed) const;
    // The batches are good until the next call.
    std::vector<Batch>& take_feed(uint32_t feed, size_t shards, size_t bytes_max);
    Merged merge(std::string_view batch, double now, uint32_t feed);
    void begin_reload();
    bool end_reload(double now, size_t entities_max);

    // False while a reset is on its way.
    bool check(uint64_t session, Check& check);
    void search(const Box* boxes, size_t count, double zoom, std::string_view filter_key, std::vector<std::string>& features);
    bool get(std::string_view id, std::string& feature) const;
    Explanation explain(uint64_t session, std::string_view id);
    SessionStatistics statistics(uint64_t session);
    // Of the outboxes it says what they hold at most: an entity counts once more for each change that was not folded yet.
    Statistics statistics() const;
    // How many deltas lagged up to that bound and beyond the one before; the last: beyond all.
    uint64_t lag_count(size_t bound) const { return bound <= LAG_BOUNDS ? lag_counts_[bound] : 0; }
    double lag_sum() const { return lag_sum_; }
    // Empty, or what is wrong.
    std::string verify();

   private:
    // An interned filter. The first have numbers, by which contents remember what they said; what the others said is known
    // for the change that is being matched.
    struct SharedFilter {
        explicit SharedFilter(std::string_view key) : filter(key) {}
        Filter filter;
        uint64_t uses = 0;
        uint8_t number = NO_NUMBER;
        bool passed[2] = {false, false};  // of the new and the old state
        uint64_t asked[2] = {0, 0};       // the number of the change that it was asked about
        const std::string* key = nullptr;
    };
    static constexpr uint8_t NO_FILTER = Content::VERDICTS_MAX, NO_NUMBER = NO_FILTER + 1;

    // What filters say of the new or the old state of the entity that is being matched: bits by number.
    struct Hearing {
        const Content* content = nullptr;
        PropertyReader* reader = nullptr;
        Content::Verdicts* verdicts = nullptr;
        uint64_t known = 0, passed = 0;
        uint32_t which = 0;  // 0: the new state
    };

    struct alignas(64) Session {
        // What matching reads for each candidate: the first cache line.
        Box box{};
        double zoom = 24.0;
        SharedFilter* filter = nullptr;
        uint64_t stamp = 0;   // the change for which it is a candidate already; + 1: its view names the entity
        uint32_t rights = 0;  // a set of principals
        uint8_t filter_number = NO_FILTER;
        uint8_t box_count = 0;
        bool is_sampled = false;
        bool is_open = false;
        // And for each that is told: the second.
        double flush_due = -NEVER;    // when it may be flushed again
        double queued_due = NEVER;    // when it is to be flushed, as it stands in the queue; TAKEN
        int64_t shown = 0;            // entities that the view matches and the sample includes
        Encoding encoding = Encoding::JSON;
        bool reset_is_owed = true;    // the next delta clears the mirror; so does the first
        bool may_hold = false;        // a delta went out, or a `have` was believed: the client's mirror need not be empty
        bool answer_is_owed = false;  // a view was applied, or `more` was promised
        bool is_urgent = false;       // a right was revoked: max_hz does not delay that
        Outbox outbox;  // begins with its log
        // The rest.
        uint32_t threshold_hash = 0;
        Box second_box{};
        uint64_t number = 0;
        double threshold_rank = 0.0;
        int64_t total = 0;  // entities that the view matches, whatever the sample
        int64_t total_sent = -1, shown_sent = -1;  // as the client knows them
        double statistics_at = -NEVER;
        double last_flush = -NEVER;
        double max_hz = 0.0;
        uint64_t seq = 0;  // of the last delta
        std::string view_id;
        uint32_t view_id_bytes = 0;
        std::vector<std::string> ids;
    };

    struct Due {
        double due;
        uint64_t number;
        bool operator>(const Due& other) const { return due != other.due ? due > other.due : number > other.number; }
    };

    struct Held {
        uint32_t slot;
        int64_t version;
        double since = 0.0;
    };

    // A living entity, and which life of its slot that is.
    struct Standing {
        uint64_t serial;
        uint32_t slot;
    };

    struct Turn {
        const View* view = nullptr;
        const uint32_t* rights = nullptr;
        const Claim* have = nullptr;
        size_t have_count = 0;
        bool has_have = false;
        bool is_reset = false;
    };

    static constexpr double TAKEN = -NEVER;
    static constexpr size_t NOTES_SPARE = 64;  // how many more notes than its view shows a session may have before they are folded
    static constexpr double TICKS_PER_S = 8192.0;
    static constexpr double TICKS_MAX = static_cast<double>((uint64_t{1} << 40) - 1);
    static constexpr uint64_t SLOT_BITS = 24;  // of a session's number; above it the count of all sessions ever

    Session* find_session(uint64_t number) const;
    Session& session_of(uint64_t number) const;

    void hint(uint64_t id_hash);
    void take_over(const State& state, double now, FeedMask asked, Merged& merged);
    void offer(std::string_view id, uint32_t slot, FeedMask feeds);
    void offer(uint32_t slot, FeedMask feeds);
    void name(uint32_t slot);
    void gate_feed(uint32_t feed) const;
    void line_up(std::vector<Standing>& line) const;
    void match(const Change& change, double now);
    void find_candidates(const Change& change, const Box* now_boxes, bool& has_followers);
    Hearing hear(const Content* content, PropertyReader& reader, uint32_t which);
    bool ask(Hearing& hearing, SharedFilter& filter);
    bool passes(Hearing& hearing, const Session& session) {
        if (hearing.known >> session.filter_number & 1) {
            return hearing.passed >> session.filter_number & 1;
        }
        return ask(hearing, *session.filter);
    }
    void place(uint32_t slot);
    void count(Session& session, const Change& change, bool& was, bool& is);
    void note(Session& session, Entity& entity, const Note& note) {
        NoteLog& log = session.outbox.log;
        if (log.size() >= NOTES_SPARE + static_cast<uint64_t>(session.shown)) {
            fold(session);
        }
        if (BROKEN(LOSES_OFFERS)) {
            return;
        }
        log.push(note, notes_);
        entity.pins += !BROKEN(LOSES_PINS);
    }
    void fold(Session& session);
    uint64_t ticks_of(double now);
    double time_of(uint64_t ticks) const;
    const Entry* find_entry(Session& session, uint32_t slot, Outbox::List* list);
    void hurry(Session& session, uint32_t slot, bool was_shown);
    void tell_revoked(const Change& change);

    void turn(Session& session, const Turn& what, double now);
    void refill(Session& session, double now);
    void show(Session& session, const View& view);
    void unfollow(Session& session);
    void collect(const Session& session, std::vector<uint32_t>& slots);
    void collect(const Box* boxes, size_t box_count, const std::vector<std::string>& ids, std::vector<uint32_t>& slots);
    void keep_matching(const Session& session, std::vector<uint32_t>& slots);
    void keep_sampled(const Session& session, std::vector<uint32_t>& slots) const;
    void choose(Session& session, const std::vector<uint32_t>& matched);
    bool must_choose(const Session& session, int64_t shown) const;
    SharedFilter* intern(std::string_view key);
    void release(SharedFilter* filter);

    bool allows(const Session& session, const Entity& entity) const {
        return entity.is_public || world_.rights().allows(entity.access, session.rights);
    }
    static bool reaches(const Session& session, const Box* boxes, size_t count) {
        for (size_t n = 0; n < count; ++n) {
            if ((session.box_count > 0 && meet_evenly(boxes[n], session.box)) ||
                (session.box_count > 1 && meet_evenly(boxes[n], session.second_box))) {
                return true;
            }
        }
        return false;
    }
    static bool reaches(const Session& session, const Entity& entity);
    bool names(const Session& session, std::string_view id) const;
    bool shows(const Session& session, const Entity& entity);
    bool matches(const Session& session, const Entity& entity);
    bool samples(const Session& session, double rank, uint32_t hash) const {
        return !session.is_sampled || rank < session.threshold_rank ||
               (rank == session.threshold_rank && hash < session.threshold_hash);
    }

    void wake(Session& session);
    void space(Session& session) const;
    void queue(Session& session, double due);
    void owe_statistics(Session& session);
    void observe_lag(double lag_s);

    // The arrays of the delta that is being made.
    struct Array {
        Joined bytes;
        uint32_t count = 0;
        void clear() {
            bytes.clear();
            count = 0;
        }
    };
    enum Reason : uint32_t { DELETED, EXPIRED, DENIED, VIEW, MOVED, FILTERED, REASONS };
    static const std::array<std::string_view, REASONS> REASON_NAMES;
    void take(Session& session, int64_t budget);
    Reason reason(const Session& session, const Entry& entry);
    void put_delta(const Session& session, bool has_statistics, bool more, bool has_lag, double lag_s, std::string& out) const;

    const char* check_session(Session& session);

    const Settings settings_;
    World world_;
    RTree places_;     // entity slot * 2 + box -> box
    RTree viewports_;  // session slot * 2 + box -> box
    SlotPool<Session, 6> sessions_;
    uint64_t sessions_ever_ = 0;
    uint64_t sessions_open_ = 0;
    std::map<std::string, std::vector<uint32_t>, std::less<>> followers_;  // entity id -> the sessions whose view names it
    std::unordered_map<std::string, std::unique_ptr<SharedFilter>> filters_;
    uint32_t numbers_ = 0, numbers_ever_ = 0;  // of filters: those given, those given ever
    uint32_t term_ = 1;                        // in which each number means one filter
#ifdef REALTIME_FAULTS
    Content::Verdicts passed_before_;
#endif
    std::vector<Due> queue_;  // a heap
    NotePool notes_;
    Pieces pieces_;
    uint64_t pairs_ = 0;    // (change, session) pairs matched, ever
    uint64_t change_ = 0;   // the number of the change that is being matched, times two
    double origin_ = -1.0;  // seconds since the Unix epoch: where ticks begin
    uint64_t mark_ = 0;     // the last that was given to entities
    std::array<uint64_t, LAG_BOUNDS + 1> lag_counts_{};
    double lag_sum_ = 0.0;

    struct Hint {
        uint64_t hash = 0;
        uint32_t slot = NO_SLOT;
    };
    std::array<Hint, 16> hints_{};
    uint64_t hints_given_ = 0;

    Feeds feeds_;
    std::vector<Batch> batches_;
    uint32_t reload_ = 0;  // counts reloads; entities say in which they were named last
    bool is_reloading_ = false, is_lined_up_ = false;
    std::vector<Standing> line_;  // those that a reload has to look at, and how far it is
    size_t looked_at_ = 0;

    // Memory of a single call, kept for the next one.
    PropertyReader reader_, old_reader_;  // of the change that is being matched
    PropertyReader view_reader_;          // of views
    std::vector<uint32_t> candidates_;
    std::vector<uint8_t> sights_;  // of each candidate that is told: whether it could see, can see
    std::vector<Note> log_;
    std::vector<uint32_t> matched_, held_slots_, claimed_;
    std::vector<std::pair<uint64_t, uint32_t>> by_age_;
    std::vector<Held> held_;
    std::vector<double> fresh_;
    std::array<Array, 3> arrays_;
    std::array<Array, REASONS> leaves_;
    size_t size_ = 0;          // of the pieces in arrays_ and leaves_
    Outbox spare_;             // whose memory outboxes borrow while they are drained
    double oldest_ = NEVER;    // since when the oldest of them waited
    std::string piece_;
};

}  // namespace realtime
