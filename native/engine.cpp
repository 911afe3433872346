#include "engine.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "hash.h"
#include "msgpack.h"

namespace realtime {

namespace {

constexpr double STATISTICS_INTERVAL_S = 1.0;  // `total` and `sampled` are told again at most this often
constexpr int64_t FRAME_HEAD_BYTES = 256;      // what the members of a delta other than its entities and the view's id take, at most
constexpr double NEAR_DEGREES = 0.5;           // an entity that moved less is searched for once, with a box around old and new
constexpr size_t NOTES_SPARE = 64;             // how many more notes than its view shows a session may have before they are folded
constexpr size_t AHEAD = 6;                    // how far memory is asked for before it is needed

void gate(bool is_right, const char* what) {
    if (!is_right) {
        throw std::invalid_argument(what);
    }
}

bool touches(const Box* boxes, size_t count, const Box& box) {
    for (size_t n = 0; n < count; ++n) {
        if (meet(boxes[n], box)) {
            return true;
        }
    }
    return false;
}

}  // namespace

const std::array<double, Engine::LAG_BOUNDS> Engine::LAG_BOUNDS_S = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                                      0.1,    0.25,  0.5,    1.0,   2.5,  5.0,   10.0};
const std::array<std::string_view, Engine::REASONS> Engine::REASON_NAMES = {"deleted", "expired", "denied", "view", "moved", "filtered"};

Engine::Engine(const Settings& settings, uint64_t node_number) : settings_(settings), world_(settings, node_number) {}

Engine::~Engine() = default;

// Changes of the world

Verdict Engine::apply(const Update& update, double now) {
    for (size_t n = 0; n < update.geometry.box_count; ++n) {
        gate(is_box(update.geometry.boxes[n]), "geometry: a box is finite and ordered");
    }
    gate(update.geometry.box_count <= 2, "geometry: one box or two");
    gate(!update.id.empty() && update.id.size() <= 128, "id: 1 to 128 bytes");
    gate(update.kind.size() <= 128, "kind: at most 128 bytes");
    gate(std::isfinite(update.min_zoom) && std::isfinite(update.rank) && std::isfinite(update.ttl) && update.ttl >= 0.0,
         "min_zoom, rank, ttl: finite numbers");
    gate(std::isfinite(now), "now: a finite number");
    gate(update.op != Op::UPSERT || update.geometry.box_count, "an upsert names everything");
    const Change change = world_.apply(update, now);
    if (change.is_changed) {
        match(change, now);
        world_.settle(change);
    }
    return change.verdict;
}

std::vector<std::string> Engine::expire(double now, size_t deaths_max) {
    std::vector<std::string> ids;
    for (const uint32_t slot : world_.due(now, deaths_max)) {
        ids.emplace_back(world_[slot].id());
        const Change change = world_.expire(slot, now);
        match(change, now);
        world_.settle(change);
    }
    world_.forget_tombstones(now);
    return ids;
}

void Engine::place(uint32_t slot) {
    const Entity& entity = world_[slot];
    for (uint32_t n = 0; n < 2; ++n) {
        const RTree::Handle handle = slot * 2 + n;
        const bool is_there = places_.contains(handle);
        if (n >= entity.box_count) {
            if (is_there) {
                places_.erase(handle);
            }
            continue;
        }
        const Box& box = n ? *entity.second_box : entity.box;
        is_there ? places_.move(handle, box) : places_.insert(handle, box);
    }
}

// Offers the entity to the sessions that could see what it was or can see what it is, and keeps their counts.
void Engine::match(const Change& change, double now) {
    const uint32_t slot = change.slot;
    Entity& entity = world_[slot];
    const Before& old = change.before;
    if (change.is_moved) {
        place(slot);
    }
    Box now_boxes[2];
    if (entity.box_count) {
        now_boxes[0] = entity.box;
        if (entity.second_box) {
            now_boxes[1] = *entity.second_box;
        }
    }
    const size_t now_count = entity.box_count;
    change_ += 2;
    candidates_.clear();
    uint32_t seconds = 0;  // whether a viewport's second box was met
    const auto find_at = [&](const Box& box) {
        viewports_.search(box, [&](RTree::Handle handle) {
            seconds |= handle & 1;
            candidates_.push_back(handle >> 1);
        });
    };
    bool is_once = false;
    if (!change.is_moved) {
        for (size_t n = 0; n < now_count; ++n) {
            find_at(now_boxes[n]);
        }
        is_once = now_count == 1;
    } else {
        if (old.is_alive && old.box_count == 1 && now_count == 1) {
            const Box& a = old.boxes[0];
            const Box& b = now_boxes[0];
            const Box around{std::min(a.min_x, b.min_x), std::min(a.min_y, b.min_y), std::max(a.max_x, b.max_x), std::max(a.max_y, b.max_y)};
            if (around.max_x - around.min_x < NEAR_DEGREES && around.max_y - around.min_y < NEAR_DEGREES) {
                find_at(around);
                is_once = true;
            }
        }
        if (!is_once) {
            for (size_t n = 0; n < old.box_count; ++n) {
                find_at(old.boxes[n]);
            }
            for (size_t n = 0; n < now_count; ++n) {
                find_at(now_boxes[n]);
            }
            is_once = old.box_count + now_count == 1;
        }
    }
    bool has_followers = false;
    if (!is_once || seconds || !followers_.empty()) {
        size_t kept = 0;
        for (const uint32_t candidate : candidates_) {
            Session& session = sessions_[candidate];
            if (session.stamp != change_) {
                session.stamp = change_;
                candidates_[kept++] = candidate;
            }
        }
        candidates_.resize(kept);
        if (!followers_.empty()) {
            const auto found = followers_.find(entity.id());
            if (found != followers_.end()) {
                has_followers = true;
                for (const uint32_t follower : found->second) {
                    Session& session = sessions_[follower];
                    if (session.stamp != change_) {
                        candidates_.push_back(follower);
                    }
                    session.stamp = change_ + 1;
                }
            }
        }
    }
    pairs_ += candidates_.size();
    reader_.read(entity.content);
    const Subject subject{entity.id(), entity.content->kind(), &reader_, PropertyReader::find};
    const bool is_same_content = old.is_alive && entity.is_alive && old.content == entity.content;
    const bool is_moved_only = is_same_content && old.min_zoom == entity.min_zoom && old.access == entity.access;
    Subject old_subject = subject;
    if (old.is_alive && !is_same_content) {
        old_reader_.read(old.content);
        old_subject = {old.content->id(), old.content->kind(), &old_reader_, PropertyReader::find};
    }
    const bool was_public = old.is_alive && world_.rights().is_public(old.access);
    const auto lets_through = [&](Session& session) {
        if (entity.min_zoom > session.zoom || !(entity.is_public || world_.rights().allows(entity.access, session.principals))) {
            return false;
        }
        SharedFilter* filter = session.filter;
        if (!filter) {
            return true;
        }
        if (filter->asked_new != change_) {
            filter->asked_new = change_;
            filter->passed_new = filter->filter.passes(subject);
        }
        return filter->passed_new;
    };
    const auto let_through = [&](Session& session) {
        if (old.min_zoom > session.zoom || !(was_public || world_.rights().allows(old.access, session.principals))) {
            return false;
        }
        SharedFilter* filter = session.filter;
        if (!filter) {
            return true;
        }
        if (is_same_content && filter->asked_new == change_) {
            return filter->passed_new;
        }
        if (filter->asked_old != change_) {
            filter->asked_old = change_;
            filter->passed_old = filter->filter.passes(old_subject);
        }
        return filter->passed_old;
    };
    const uint64_t held = old.is_alive ? old.wire : 0;
    const bool is_visible = entity.is_alive && entity.wire != held;
    const uint64_t wire = entity.is_alive ? entity.wire : 0;
    for (size_t n = 0; n < candidates_.size(); ++n) {
        if (n + AHEAD < candidates_.size()) {
            const Session* ahead = &sessions_[candidates_[n + AHEAD]];
            __builtin_prefetch(ahead);
            __builtin_prefetch(reinterpret_cast<const char*>(ahead) + 64);
        }
        if (n + AHEAD / 2 < candidates_.size()) {
            __builtin_prefetch(sessions_[candidates_[n + AHEAD / 2]].outbox.tail(), 1);
        }
        Session& session = sessions_[candidates_[n]];
        const bool is_named = has_followers && session.stamp == change_ + 1;
        bool was = old.is_alive && (is_named || reaches(session, old.boxes, old.box_count));
        bool is = entity.is_alive && (!change.is_moved && old.is_alive ? was : (is_named || reaches(session, now_boxes, now_count)));
        if (is_moved_only) {
            if (!was && !is) {
                continue;
            }
            const bool passes = lets_through(session);
            was = was && passes;
            is = is && passes;
        } else {
            is = is && lets_through(session);
            was = was && let_through(session);
        }
        if (was != is || session.is_sampled) {
            count(session, change, was, is);
        }
        if (was != is) {
            note(session, entity, {slot, is ? Note::APPEARED : Note::VANISHED, static_cast<int64_t>(is ? wire : held), now});
        } else if (!is || !is_visible) {
            continue;
        } else {
            note(session, entity, {slot, Note::TOUCHED, static_cast<int64_t>(held), now});
        }
        if (session.flush_due < session.queued_due) {
            queue(session, session.flush_due);
        }
        if (must_choose(session, session.shown)) {
            turn(session, Turn(), now);  // at once, and not when it is drained: a stalled session's outbox is bounded, too
        }
    }
    if (old.is_alive && entity.is_alive && old.access != entity.access) {
        tell_revoked(change);
    }
}

// A right was revoked: also those that only have its leave still to send must be told at once.
void Engine::tell_revoked(const Change& change) {
    const Entity& entity = world_[change.slot];
    const Before& old = change.before;
    for (uint32_t n = 0; n < sessions_.end(); ++n) {
        Session& session = sessions_[n];
        if (!session.is_open || !world_.rights().allows(old.access, session.principals) || allows(session, entity)) {
            continue;
        }
        bool was_shown = old.min_zoom <= session.zoom && (reaches(session, old.boxes, old.box_count) || names(session, entity.id()));
        if (was_shown && session.filter) {
            old_reader_.read(old.content);
            was_shown = session.filter->filter.passes({old.content->id(), old.content->kind(), &old_reader_, PropertyReader::find});
        }
        hurry(session, change.slot, was_shown);
    }
}

// Keeps the session's counts after a change that it matched before (`was`) or matches now (`is`); turns them into whether
// it saw or sees the entity.
void Engine::count(Session& session, const Change& change, bool& was, bool& is) {
    const Entity& entity = world_[change.slot];
    const int total = static_cast<int>(is) - static_cast<int>(was);
    const bool saw = was && samples(session, change.before.rank, entity.key_hash);
    const bool sees = is && samples(session, entity.rank, entity.key_hash);
    session.total += total;
    session.shown += static_cast<int>(sees) - static_cast<int>(saw);
    if (total) {
        owe_statistics(session);
    }
    was = saw;
    is = sees;
}

void Engine::note(Session& session, Entity& entity, const Note& note) {
    std::vector<Note>& log = session.outbox.log;
    if (log.size() >= NOTES_SPARE + static_cast<uint64_t>(session.shown)) {
        fold(session);
    }
    log.push_back(note);
    ++entity.pins;
}

// Folds the log into the map: the first note of an entity says what the client holds, the later ones only whether it is
// seen now.
void Engine::fold(Session& session) {
    Outbox& outbox = session.outbox;
    if (outbox.log.empty()) {
        return;
    }
    outbox.expect(outbox.log.size() + outbox.size());
    const uint64_t mark = ++mark_;
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        outbox.tidy(list);
        for (const Entry* entry = outbox.begin(list); entry != outbox.end(list); ++entry) {
            if (entry->slot != NO_SLOT) {
                Entity& entity = world_[entry->slot];
                entity.mark = mark;
                entity.place = outbox.place_of(entry, list);
            }
        }
    }
    const std::vector<Note>& log = outbox.log;
    const size_t size = log.size();
    for (size_t n = 0; n < size; ++n) {
        if (n + 2 * AHEAD < size) {
            __builtin_prefetch(&world_[log[n + 2 * AHEAD].slot], 1);
        }
        const Note& note = log[n];
        Entity& entity = world_[note.slot];
        const bool is_there = entity.mark == mark && entity.place != NO_SLOT;
        if (note.kind == Note::TOUCHED) {
            if (is_there) {
                world_.unpin(note.slot);
            } else {  // the note's pin is the entry's
                entity.mark = mark;
                entity.place = outbox.add(Outbox::SHOWING, {note.slot, 0, note.version, note.since});
            }
            continue;
        }
        const bool is_seen = note.kind == Note::APPEARED;
        Entry entry{note.slot, 0, is_seen ? 0 : note.version, note.since};
        if (is_there) {
            entry = outbox.remove(entity.place);
            --entity.pins;
        }
        entity.mark = mark;
        entity.place = NO_SLOT;
        if (entry.held == (is_seen ? note.version : 0)) {
            world_.unpin(note.slot);
        } else {
            entity.place = outbox.add(is_seen ? Outbox::SHOWING : Outbox::LEAVING, entry);
        }
    }
    outbox.log.clear();
}

// Returns the entry of an entity, or nullptr.
const Entry* Engine::find_entry(Session& session, uint32_t slot, Outbox::List* found) {
    fold(session);
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
            if (entry->slot == slot) {
                *found = list;
                return entry;
            }
        }
    }
    return nullptr;
}

// See to it that a revoked right is told without regard to `max_hz`, if the client may hold what it was about. While a
// reset is on its way the outbox does not say; then whether the view showed it decides. What the client only claims to
// hold is none of its business, and neither is when that changes.
void Engine::hurry(Session& session, uint32_t slot, bool was_shown) {
    if (session.is_urgent) {
        return;
    }
    Outbox::List list = Outbox::SHOWING;
    const Entry* entry = world_[slot].pins ? find_entry(session, slot, &list) : nullptr;
    if ((was_shown && session.reset_is_owed && session.may_hold) || (entry && list == Outbox::LEAVING && entry->held > 0)) {
        session.is_urgent = true;
        wake(session);
    }
}

// Changes of what a session may see

Engine::Session* Engine::find_session(uint64_t number) const {
    const uint64_t slot = number & ((uint64_t{1} << SLOT_BITS) - 1);
    if (slot >= sessions_.end()) {
        return nullptr;
    }
    Session& session = const_cast<Session&>(sessions_[static_cast<uint32_t>(slot)]);
    return session.is_open && session.number == number ? &session : nullptr;
}

Engine::Session& Engine::session_of(uint64_t number) const {
    Session* session = find_session(number);
    if (!session) {
        throw std::out_of_range("no such session");
    }
    return *session;
}

uint64_t Engine::open(const std::string_view* principals, size_t count, Encoding encoding) {
    gate(sessions_open_ < (uint64_t{1} << SLOT_BITS) - 1, "too many sessions");
    const uint32_t slot = sessions_.take();
    Session& session = sessions_[slot];
    session.is_open = true;
    session.number = ++sessions_ever_ << SLOT_BITS | slot;
    session.encoding = encoding;
    session.principals = world_.rights().principals(principals, count);
    ++sessions_open_;
    return session.number;
}

void Engine::look(uint64_t number, const View& view, const Claim* have, size_t have_count, bool has_have, double now) {
    Session& session = session_of(number);
    gate(view.box_count <= 2, "view: at most two boxes");
    for (size_t n = 0; n < view.box_count; ++n) {
        gate(is_box(view.boxes[n]), "view: a box is finite and ordered");
    }
    gate(std::isfinite(view.zoom) && std::isfinite(view.max_hz) && view.max_hz >= 0.0 && std::isfinite(now), "view: finite numbers");
    Turn what;
    what.view = &view;
    what.have = have;
    what.have_count = have_count;
    what.has_have = has_have;
    turn(session, what, now);
}

void Engine::allow(uint64_t number, const std::string_view* principals, size_t count, double now) {
    Session& session = session_of(number);
    const Principals allowed = world_.rights().principals(principals, count);
    Turn what;
    what.principals = &allowed;
    turn(session, what, now);
}

void Engine::refresh(uint64_t number, double now) {
    Turn what;
    what.is_reset = true;
    turn(session_of(number), what, now);
}

void Engine::close(uint64_t number) {
    Session& session = session_of(number);
    show(session, View());
    fold(session);
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
            if (entry->slot != NO_SLOT) {
                world_.unpin(entry->slot);
            }
        }
    }
    world_.rights().forget(session.principals);
    sessions_.give_back(static_cast<uint32_t>(number & ((uint64_t{1} << SLOT_BITS) - 1)));
    --sessions_open_;
}

Engine::SharedFilter* Engine::intern(std::string_view key) {
    if (key.empty()) {
        return nullptr;
    }
    std::string owned(key);
    auto found = filters_.find(owned);
    if (found == filters_.end()) {
        auto filter = std::make_unique<SharedFilter>(key);
        found = filters_.emplace(std::move(owned), std::move(filter)).first;
        found->second->key = &found->first;
    }
    ++found->second->uses;
    return found->second.get();
}

void Engine::release(SharedFilter* filter) {
    if (filter && --filter->uses == 0) {
        filters_.erase(std::string(*filter->key));
    }
}

void Engine::unfollow(Session& session) {
    const uint32_t slot = static_cast<uint32_t>(session.number & ((uint64_t{1} << SLOT_BITS) - 1));
    for (const std::string& id : session.ids) {
        const auto found = followers_.find(id);
        std::vector<uint32_t>& all = found->second;
        all.erase(std::find(all.begin(), all.end(), slot));
        if (all.empty()) {
            followers_.erase(found);
        }
    }
    session.ids.clear();
}

// Sets the session's view where changes are matched with it.
void Engine::show(Session& session, const View& view) {
    SharedFilter* filter = intern(view.filter_key);  // first, as it may throw
    release(session.filter);
    session.filter = filter;
    const uint32_t slot = static_cast<uint32_t>(session.number & ((uint64_t{1} << SLOT_BITS) - 1));
    unfollow(session);
    for (size_t n = 0; n < view.id_count; ++n) {
        session.ids.emplace_back(view.ids[n]);
        followers_[session.ids.back()].push_back(slot);
    }
    if (session.ids.empty()) {
        session.ids = std::vector<std::string>();
    }
    for (uint32_t n = 0; n < 2; ++n) {
        const RTree::Handle handle = slot * 2 + n;
        const bool is_there = viewports_.contains(handle);
        if (n < view.box_count) {
            is_there ? viewports_.move(handle, view.boxes[n]) : viewports_.insert(handle, view.boxes[n]);
        } else if (is_there) {
            viewports_.erase(handle);
        }
    }
    session.box_count = view.box_count;
    session.box = view.boxes[0];
    session.second_box = view.boxes[1];
    session.zoom = view.zoom;
    session.max_hz = view.max_hz;
    session.view_id = view.id;
    session.view_id_bytes = static_cast<uint32_t>(view.id_budget_bytes);
}

// The living entities whose box may meet one of the boxes, and those that are named, by age.
void Engine::collect(const Box* boxes, size_t box_count, const std::vector<std::string>& ids, std::vector<uint32_t>& slots) {
    slots.clear();
    for (size_t n = 0; n < box_count; ++n) {
        places_.search(boxes[n], [&](RTree::Handle handle) { slots.push_back(handle >> 1); });
    }
    for (const std::string& id : ids) {
        const uint32_t slot = world_.find(id);
        if (slot != NO_SLOT) {
            slots.push_back(slot);
        }
    }
    by_age_.clear();
    for (const uint32_t slot : slots) {
        by_age_.push_back({world_[slot].serial, slot});
    }
    std::sort(by_age_.begin(), by_age_.end());
    slots.clear();
    for (const auto& [serial, slot] : by_age_) {
        if (slots.empty() || slots.back() != slot) {
            slots.push_back(slot);
        }
    }
}

void Engine::collect(const Session& session, std::vector<uint32_t>& slots) {
    const Box boxes[2] = {session.box, session.second_box};
    collect(boxes, session.box_count, session.ids, slots);
}

bool Engine::reaches(const Session& session, const Box* boxes, size_t count) {
    return (session.box_count > 0 && touches(boxes, count, session.box)) || (session.box_count > 1 && touches(boxes, count, session.second_box));
}

bool Engine::reaches(const Session& session, const Entity& entity) {
    return reaches(session, &entity.box, 1) || (entity.second_box && reaches(session, entity.second_box, 1));
}

bool Engine::names(const Session& session, std::string_view id) const {
    return std::find(session.ids.begin(), session.ids.end(), id) != session.ids.end();
}

// Whether the view shows the entity, whatever the rights and the sample.
bool Engine::shows(const Session& session, const Entity& entity) {
    if (entity.min_zoom > session.zoom || !(reaches(session, entity) || names(session, entity.id()))) {
        return false;
    }
    if (!session.filter) {
        return true;
    }
    view_reader_.read(entity.content);
    return session.filter->filter.passes({entity.id(), entity.content->kind(), &view_reader_, PropertyReader::find});
}

bool Engine::matches(const Session& session, const Entity& entity) {
    return allows(session, entity) && shows(session, entity);
}

void Engine::keep_matching(const Session& session, std::vector<uint32_t>& slots) {
    size_t kept = 0;
    for (size_t n = 0; n < slots.size(); ++n) {
        if (n + AHEAD < slots.size()) {
            __builtin_prefetch(&world_[slots[n + AHEAD]]);
            __builtin_prefetch(reinterpret_cast<const char*>(&world_[slots[n + AHEAD]]) + 64);
        }
        if (matches(session, world_[slots[n]])) {
            slots[kept++] = slots[n];
        }
    }
    slots.resize(kept);
}

void Engine::keep_sampled(const Session& session, std::vector<uint32_t>& slots) const {
    if (!session.is_sampled) {
        return;
    }
    const auto is_hidden = [&](uint32_t slot) { return !samples(session, world_[slot].rank, world_[slot].key_hash); };
    slots.erase(std::remove_if(slots.begin(), slots.end(), is_hidden), slots.end());
}

bool Engine::must_choose(const Session& session, int64_t shown) const {
    const int64_t most = settings_.entities_per_view;
    return shown > most || (session.is_sampled && shown * 2 < most);
}

// The threshold below which three quarters of what may be shown lie; none if there are no more.
void Engine::choose(Session& session, const std::vector<uint32_t>& matched) {
    const size_t target = std::max<size_t>(1, size_t{settings_.entities_per_view} * 3 / 4);
    session.is_sampled = matched.size() > target;
    if (!session.is_sampled) {
        return;
    }
    std::vector<std::pair<double, uint32_t>> keys;
    keys.reserve(matched.size());
    for (const uint32_t slot : matched) {
        keys.emplace_back(world_[slot].rank, world_[slot].key_hash);
    }
    std::nth_element(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(target), keys.end());
    session.threshold_rank = keys[target].first;
    session.threshold_hash = keys[target].second;
}

// Changes what the session may see, and offers everything on which before and after differ.
void Engine::turn(Session& session, const Turn& what, double now) {
    // What the client holds, by the world and the outbox.
    fold(session);
    held_.clear();
    uint64_t mark = ++mark_;
    const auto hold = [&](uint32_t slot, int64_t version) {
        Entity& entity = world_[slot];
        if (entity.mark == mark) {
            held_[entity.place].version = version;
        } else {
            entity.mark = mark;
            entity.place = static_cast<uint32_t>(held_.size());
            held_.push_back({slot, version});
        }
    };
    if (!what.is_reset && !session.reset_is_owed) {
        collect(session, held_slots_);
        keep_matching(session, held_slots_);
        keep_sampled(session, held_slots_);
        for (const uint32_t slot : held_slots_) {
            hold(slot, static_cast<int64_t>(world_[slot].wire));
        }
        for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
            for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
                if (entry->slot != NO_SLOT) {
                    hold(entry->slot, entry->held);
                }
            }
        }
    }
    if (what.view) {
        show(session, *what.view);  // throws before it changes anything
    }
    if (what.principals) {
        world_.rights().forget(session.principals);
        session.principals = *what.principals;
    }
    claimed_.clear();
    if (what.has_have) {
        session.reset_is_owed = false;
        session.may_hold = true;
        held_.clear();
        mark = ++mark_;
        for (size_t n = 0; n < what.have_count; ++n) {
            const uint32_t slot = world_.pin(what.have[n].id);
            claimed_.push_back(slot);
            const Entity& entity = world_[slot];
            const int64_t version = static_cast<int64_t>(what.have[n].version);
            const bool is_known = entity.is_alive && knows(entity, what.have[n].version) && allows(session, entity);
            hold(slot, is_known ? version : -version);
        }
    }
    session.reset_is_owed = session.reset_is_owed || what.is_reset;
    collect(session, matched_);
    keep_matching(session, matched_);
    session.total = static_cast<int64_t>(matched_.size());
    // What the sample includes is counted first, as the sample may have to be chosen anew.
    int64_t shown = session.total;
    if (session.is_sampled) {
        shown = std::count_if(matched_.begin(), matched_.end(),
                              [&](uint32_t slot) { return samples(session, world_[slot].rank, world_[slot].key_hash); });
    }
    if (must_choose(session, shown)) {
        choose(session, matched_);
    }
    keep_sampled(session, matched_);
    session.shown = static_cast<int64_t>(matched_.size());
    refill(session, now);
    for (const uint32_t slot : claimed_) {
        world_.unpin(slot);
    }
    session.answer_is_owed = true;
    if (what.principals) {
        session.is_urgent = session.is_urgent || (session.reset_is_owed && session.may_hold);
        const Outbox& outbox = session.outbox;
        for (const Entry* entry = outbox.begin(Outbox::LEAVING); entry != outbox.end(Outbox::LEAVING); ++entry) {
            if (entry->slot != NO_SLOT && world_[entry->slot].is_alive && !allows(session, world_[entry->slot])) {
                hurry(session, entry->slot, false);
            }
        }
    }
    wake(session);
}

// Starts the outbox anew: the client holds `held_`, the view shows `matched_`; all that differs is a fill.
void Engine::refill(Session& session, double now) {
    Outbox before;
    std::swap(before, session.outbox);
    Outbox& outbox = session.outbox;
    // What is still to be told keeps the time since which it waited.
    const uint64_t waiting = ++mark_;
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = before.begin(list); entry != before.end(list); ++entry) {
            if (entry->slot != NO_SLOT) {
                world_[entry->slot].mark = waiting;
                world_[entry->slot].place = before.place_of(entry, list);
            }
        }
    }
    for (Held& held : held_) {
        const Entity& entity = world_[held.slot];
        held.since = entity.mark == waiting ? before.at(entity.place).since : now;
    }
    fresh_.clear();
    for (const uint32_t slot : matched_) {
        const Entity& entity = world_[slot];
        fresh_.push_back(entity.mark == waiting ? before.at(entity.place).since : now);
    }
    const uint64_t seen = ++mark_;
    for (const uint32_t slot : matched_) {
        world_[slot].mark = seen;
        world_[slot].place = NO_SLOT;
    }
    for (size_t n = 0; n < held_.size(); ++n) {
        const Held& held = held_[n];
        Entity& entity = world_[held.slot];
        if (entity.mark == seen) {
            entity.place = static_cast<uint32_t>(n);
        } else if (held.version) {
            outbox.add(Outbox::LEAVING, {held.slot, 1, held.version, held.since});
            world_.pin(held.slot);
        }
    }
    for (size_t n = 0; n < matched_.size(); ++n) {
        const uint32_t slot = matched_[n];
        const Entity& entity = world_[slot];
        const int64_t version = entity.place == NO_SLOT ? 0 : held_[entity.place].version;
        if (version != static_cast<int64_t>(entity.wire)) {
            outbox.add(Outbox::SHOWING, {slot, 1, version, fresh_[n]});
            world_.pin(slot);
        }
    }
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = before.begin(list); entry != before.end(list); ++entry) {
            if (entry->slot != NO_SLOT) {
                world_.unpin(entry->slot);
            }
        }
    }
}

// Flushing

void Engine::space(Session& session) const {
    double period = settings_.flush_interval_s;
    if (session.max_hz > 0.0 && !session.is_urgent) {
        period = std::max(period, 1.0 / session.max_hz);
    }
    session.flush_due = session.last_flush + period;
}

void Engine::wake(Session& session) {
    space(session);
    queue(session, session.flush_due);
}

void Engine::owe_statistics(Session& session) {
    if ((session.total_sent != session.total || session.shown_sent != session.shown) && session.seq) {
        queue(session, std::max(session.flush_due, session.statistics_at + STATISTICS_INTERVAL_S));
    }
}

void Engine::queue(Session& session, double due) {
    if (due < session.queued_due) {
        session.queued_due = due;
        queue_.push_back({due, session.number});
        std::push_heap(queue_.begin(), queue_.end(), std::greater<Due>());
    }
}

void Engine::take_dirty(double now, std::vector<uint64_t>& taken) {
    while (!queue_.empty() && queue_.front().due <= now) {
        const Due first = queue_.front();
        std::pop_heap(queue_.begin(), queue_.end(), std::greater<Due>());
        queue_.pop_back();
        Session* session = find_session(first.number);
        if (session && session->queued_due == first.due) {
            session->queued_due = TAKEN;
            taken.push_back(first.number);
        }
    }
}

double Engine::next_due() {
    while (!queue_.empty()) {
        const Due first = queue_.front();
        const Session* session = find_session(first.number);
        if (session && session->queued_due == first.due) {
            return first.due;
        }
        std::pop_heap(queue_.begin(), queue_.end(), std::greater<Due>());
        queue_.pop_back();
    }
    return NEVER;
}

void Engine::observe_lag(double lag_s) {
    const auto bound = std::lower_bound(LAG_BOUNDS_S.begin(), LAG_BOUNDS_S.end(), lag_s);
    ++lag_counts_[static_cast<size_t>(bound - LAG_BOUNDS_S.begin())];
    lag_sum_ += lag_s;
}

bool Engine::drain(uint64_t number, size_t budget, double now, std::string& out) {
    Session& session = session_of(number);
    session.queued_due = NEVER;
    fold(session);
    const bool was_fill = session.outbox.fills() > 0;
    const int64_t left = static_cast<int64_t>(std::min<size_t>(budget, size_t{1} << 40)) - FRAME_HEAD_BYTES - session.view_id_bytes;
    take(session, left);
    const bool more = session.outbox.fills() > 0;
    const bool is_fill_over = session.answer_is_owed && !more;
    const bool are_counts_new = session.total_sent != session.total || session.shown_sent != session.shown;
    const bool has_statistics =
        !more && (is_fill_over || (are_counts_new && now >= session.statistics_at + STATISTICS_INTERVAL_S));
    if (has_statistics) {
        session.total_sent = session.total;
        session.shown_sent = session.shown;
        session.statistics_at = now;
    }
    const bool is_told = session.reset_is_owed || more || has_statistics || session.answer_is_owed || size_ > 0;
    if (is_told) {
        ++session.seq;
        if (size_ > 0) {
            observe_lag(now - oldest_);
        }
        put_delta(session, has_statistics, more, size_ > 0, now - oldest_, out);
        session.last_flush = now;
        session.may_hold = true;
        session.reset_is_owed = false;
        session.answer_is_owed = more;
    }
    session.is_urgent = session.is_urgent && !session.outbox.is_empty(Outbox::LEAVING);
    session.outbox.trim(was_fill);
    space(session);
    if (session.outbox.size() || session.answer_is_owed) {
        queue(session, session.flush_due);
    } else if (session.seq) {
        owe_statistics(session);
    }
    return is_told;
}

// Takes entries out of the outbox, leaves first, until the budget is used; at least one.
void Engine::take(Session& session, int64_t budget) {
    for (Array& array : arrays_) {
        array.clear();
    }
    for (Array& array : leaves_) {
        array.clear();
    }
    size_ = 0;
    oldest_ = NEVER;
    Outbox& outbox = session.outbox;
    const Encoding encoding = session.encoding;
    const auto fits = [&](size_t bytes) { return size_ == 0 || static_cast<int64_t>(size_ + bytes) <= budget; };
    const auto add = [&](Array& array, std::string_view piece, double since) {
        array.add(piece, encoding);
        size_ += piece.size() + 1;
        oldest_ = std::min(oldest_, since);
    };
    if (!outbox.is_empty(Outbox::LEAVING)) {
        const Entry* const begin = outbox.begin(Outbox::LEAVING);
        const Entry* entry = begin;
        for (; entry != outbox.end(Outbox::LEAVING); ++entry) {
            if (entry->slot == NO_SLOT) {
                continue;
            }
            piece_.clear();
            const std::string_view id = world_[entry->slot].id();
            encoding == Encoding::JSON ? put_json_string(piece_, id) : put_string(piece_, id);
            if (!fits(piece_.size())) {
                break;
            }
            add(leaves_[reason(session, *entry)], piece_, entry->since);
        }
        for (const Entry* told = begin; told != entry; ++told) {
            if (told->slot != NO_SLOT) {
                world_.unpin(told->slot);
            }
        }
        outbox.take(Outbox::LEAVING, entry);
        if (!outbox.is_empty(Outbox::LEAVING)) {
            return;
        }
    }
    if (outbox.is_empty(Outbox::SHOWING)) {
        return;
    }
    const Entry* entry = outbox.begin(Outbox::SHOWING);
    const Entry* const end = outbox.end(Outbox::SHOWING);
    for (; entry != end; ++entry) {
        if (entry + 2 * AHEAD < end && entry[2 * AHEAD].slot != NO_SLOT) {
            __builtin_prefetch(&world_[entry[2 * AHEAD].slot]);
        }
        if (entry + AHEAD < end && entry[AHEAD].slot != NO_SLOT) {
            pieces_.prefetch(world_[entry[AHEAD].slot], encoding);
        }
        if (entry->slot == NO_SLOT) {
            continue;
        }
        Entity& entity = world_[entry->slot];
        if (!allows(session, entity)) {
            throw std::logic_error("an entity that the session may not see is about to be sent");
        }
        // A version that is only claimed is not known here.
        const How how = entry->held > 0 ? Pieces::how(entity, static_cast<uint64_t>(entry->held)) : How::ENTER;
        const std::string_view piece = pieces_.get(entity, how, static_cast<uint64_t>(entry->held), encoding);
        if (!fits(piece.size())) {
            break;
        }
        add(arrays_[static_cast<size_t>(how)], piece, entry->since);
        --entity.pins;  // it lives, so nothing else is to be done
    }
    outbox.take(Outbox::SHOWING, entry);
}

// Why the session does not see an entity that its client holds.
Engine::Reason Engine::reason(const Session& session, const Entry& entry) {
    const Entity& entity = world_[entry.slot];
    if (!entity.is_alive) {
        const Tombstone* tombstone = world_.tombstone(entity.id());
        const bool may_know = tombstone && (entry.held > 0 || world_.rights().allows(tombstone->access, session.principals));
        return may_know && tombstone->is_expired ? EXPIRED : DELETED;
    }
    if (!allows(session, entity)) {
        return entry.held > 0 ? DENIED : DELETED;
    }
    if (static_cast<uint64_t>(std::abs(entry.held)) == entity.wire) {
        return VIEW;
    }
    return reaches(session, entity) || names(session, entity.id()) ? FILTERED : MOVED;
}

void Engine::put_delta(const Session& session, bool has_statistics, bool more, bool has_lag, double lag_s, std::string& out) const {
    static constexpr std::string_view ARRAY_NAMES[] = {"enter", "move", "patch"};
    const bool is_json = session.encoding == Encoding::JSON;
    uint32_t members = 2;  // type, seq
    uint32_t reasons = 0;
    for (const Array& array : leaves_) {
        reasons += array.count > 0;
    }
    for (const Array& array : arrays_) {
        members += array.count > 0;
    }
    members += !session.view_id.empty();
    members += session.reset_is_owed;
    members += more;
    members += has_statistics ? 2 : 0;
    members += has_lag;
    members += reasons > 0;
    const auto name = [&](std::string_view text) {
        if (is_json) {
            out += ",\"";
            out += text;
            out += "\":";
        } else {
            put_string(out, text);
        }
    };
    const auto put_array = [&](const Array& array) {
        if (is_json) {
            out += '[';
            out.append(array.bytes, 0, array.bytes.size() - 1);
            out += ']';
        } else {
            put_array_head(out, array.count);
            out += array.bytes;
        }
    };
    const auto put_number = [&](uint64_t value) { is_json ? put_json_uint(out, value) : put_uint(out, value); };
    const auto put_real = [&](double value) { is_json ? put_json_double(out, value) : put_double(out, value); };
    const auto put_true = [&] { is_json ? out.append("true") : out.append("\xc3"); };
    if (is_json) {
        out += R"({"type":"delta")";
    } else {
        put_map_head(out, members);
        put_string(out, "type");
        put_string(out, "delta");
    }
    name("seq");
    put_number(session.seq);
    if (!session.view_id.empty()) {
        name("view");
        out += session.view_id;
    }
    if (session.reset_is_owed) {
        name("reset");
        put_true();
    }
    if (more) {
        name("more");
        put_true();
    }
    if (has_statistics) {
        name("total");
        put_number(static_cast<uint64_t>(session.total));
        name("sampled");
        session.total == 0
            ? put_number(1)
            : put_real(static_cast<double>(session.shown) / static_cast<double>(session.total));
    }
    if (has_lag) {
        name("lag_ms");
        put_real(std::nearbyint(lag_s * 10000.0) / 10.0);
    }
    for (size_t n = 0; n < arrays_.size(); ++n) {
        if (arrays_[n].count) {
            name(ARRAY_NAMES[n]);
            put_array(arrays_[n]);
        }
    }
    if (reasons) {
        name("leave");
        if (is_json) {
            out += '{';
        } else {
            put_map_head(out, reasons);
        }
        bool is_first = true;
        for (size_t n = 0; n < leaves_.size(); ++n) {
            if (!leaves_[n].count) {
                continue;
            }
            if (is_json) {
                out += is_first ? "\"" : ",\"";
                out += REASON_NAMES[n];
                out += "\":";
            } else {
                put_string(out, REASON_NAMES[n]);
            }
            is_first = false;
            put_array(leaves_[n]);
        }
        if (is_json) {
            out += '}';
        }
    }
    if (is_json) {
        out += '}';
    }
}

// Looking without a session's part

bool Engine::check(uint64_t number, Check& check) {
    Session& session = session_of(number);
    if (session.reset_is_owed && session.may_hold) {
        return false;
    }
    fold(session);
    check = {session.seq, 0, 0, session.outbox.size()};
    collect(session, matched_);
    keep_matching(session, matched_);
    keep_sampled(session, matched_);
    const uint64_t pending = ++mark_;
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
            if (entry->slot != NO_SLOT) {
                world_[entry->slot].mark = pending;
            }
        }
    }
    for (const uint32_t slot : matched_) {
        if (world_[slot].mark != pending) {
            ++check.count;
            check.digest ^= digest_from(world_[slot].id_hash, world_[slot].wire);
        }
    }
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
            if (entry->slot != NO_SLOT && entry->held) {
                ++check.count;
                check.digest ^= digest_from(world_[entry->slot].id_hash, static_cast<uint64_t>(std::abs(entry->held)));
            }
        }
    }
    return true;
}

void Engine::search(const Box* boxes, size_t count, double zoom, std::string_view filter_key, std::vector<std::string>& features) {
    for (size_t n = 0; n < count; ++n) {
        gate(is_box(boxes[n]), "box: finite and ordered");
    }
    gate(count <= 2 && std::isfinite(zoom), "search: at most two boxes and a finite zoom");
    Session nobody;
    SharedFilter* filter = intern(filter_key);
    nobody.filter = filter;
    nobody.zoom = zoom;
    nobody.box_count = static_cast<uint8_t>(count);
    nobody.box = count > 0 ? boxes[0] : Box{};
    nobody.second_box = count > 1 ? boxes[1] : Box{};
    collect(nobody, matched_);
    matched_.erase(std::remove_if(matched_.begin(), matched_.end(), [&](uint32_t slot) { return !shows(nobody, world_[slot]); }),
                   matched_.end());
    release(filter);
    std::sort(matched_.begin(), matched_.end(), [&](uint32_t a, uint32_t b) { return world_[a].id() < world_[b].id(); });
    features.resize(matched_.size());
    for (size_t n = 0; n < matched_.size(); ++n) {
        features[n].clear();
        Pieces::put_feature(features[n], world_[matched_[n]]);
    }
}

bool Engine::get(std::string_view id, std::string& feature) const {
    const uint32_t slot = world_.find(id);
    if (slot == NO_SLOT) {
        return false;
    }
    feature.clear();
    Pieces::put_feature(feature, world_[slot]);
    return true;
}

Explanation Engine::explain(uint64_t number, std::string_view id) {
    Session& session = session_of(number);
    Explanation answer;
    const uint32_t slot = world_.find_any(id);
    Outbox::List list = Outbox::SHOWING;
    const Entry* entry = slot == NO_SLOT ? nullptr : find_entry(session, slot, &list);
    answer.pending = entry != nullptr;
    answer.held = entry ? static_cast<uint64_t>(std::abs(entry->held)) : 0;
    if (slot == NO_SLOT || !world_[slot].is_alive) {
        const Tombstone* tombstone = world_.tombstone(id);
        answer.has_tombstone = tombstone != nullptr;
        answer.is_expired = tombstone && tombstone->is_expired;
        return answer;
    }
    const Entity& entity = world_[slot];
    answer.exists = true;
    answer.version = entity.wire;
    answer.box = reaches(session, entity);
    answer.ids = names(session, id);
    answer.min_zoom = entity.min_zoom <= session.zoom;
    answer.rights = allows(session, entity);
    reader_.read(entity.content);
    answer.filter = !session.filter || session.filter->filter.passes({entity.id(), entity.content->kind(), &reader_, PropertyReader::find});
    answer.sample = samples(session, entity.rank, entity.key_hash);
    answer.sees = answer.sample && matches(session, entity);
    if (!entry) {
        answer.held = answer.sees ? entity.wire : 0;
    }
    return answer;
}

SessionStatistics Engine::statistics(uint64_t number) {
    Session& session = session_of(number);
    fold(session);
    return {session.seq, static_cast<uint64_t>(session.total), static_cast<uint64_t>(session.shown), session.outbox.size(),
            sizeof(Session) + session.outbox.bytes()};
}

Statistics Engine::statistics() {
    Statistics all{world_.alive(), world_.tombstone_count(), sessions_open_, 0, pairs_, world_.ghosts(), world_.rights().principal_count(),
                   world_.rights().set_count(), filters_.size()};
    for (uint32_t slot = 0; slot < sessions_.end(); ++slot) {
        if (sessions_[slot].is_open) {
            fold(sessions_[slot]);
            all.outbox_entities += sessions_[slot].outbox.size();
        }
    }
    return all;
}

std::string Engine::verify() {
    if (const char* wrong = world_.check()) {
        return wrong;
    }
    if (const char* wrong = places_.check()) {
        return std::string("places: ") + wrong;
    }
    if (const char* wrong = viewports_.check()) {
        return std::string("viewports: ") + wrong;
    }
    size_t boxes = 0;
    std::vector<uint64_t> pins(world_.slots(), 0);
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        const Entity& entity = world_[slot];
        boxes += entity.box_count;
        for (uint32_t n = 0; n < 2; ++n) {
            if (places_.contains(slot * 2 + n) != (n < entity.box_count)) {
                return "the index has other entities than the world";
            }
        }
    }
    if (boxes != places_.size()) {
        return "the index has other boxes than the world";
    }
    size_t open = 0, viewports = 0, follows = 0;
    std::unordered_map<const SharedFilter*, uint64_t> uses;
    for (uint32_t slot = 0; slot < sessions_.end(); ++slot) {
        Session& session = sessions_[slot];
        if (!session.is_open) {
            continue;
        }
        ++open;
        viewports += session.box_count;
        uses[session.filter] += 1;
        for (uint32_t n = 0; n < 2; ++n) {
            if (viewports_.contains(slot * 2 + n) != (n < session.box_count)) {
                return "the index has other viewports than the sessions";
            }
        }
        for (const std::string& id : session.ids) {
            ++follows;
            const auto found = followers_.find(id);
            if (found == followers_.end() || std::find(found->second.begin(), found->second.end(), slot) == found->second.end()) {
                return "the followers are not those of the views";
            }
        }
        if (session.outbox.log.size() > NOTES_SPARE + static_cast<uint64_t>(session.shown)) {
            return "the log is longer than its bound";
        }
        fold(session);
        if (const char* wrong = check_session(session)) {
            return wrong;
        }
        for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
            for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
                pins[entry->slot == NO_SLOT ? 0 : entry->slot] += entry->slot != NO_SLOT;
            }
        }
    }
    for (const auto& [id, all] : followers_) {
        follows -= all.size();
    }
    if (open != sessions_open_ || viewports != viewports_.size() || follows) {
        return "the sessions are miscounted";
    }
    for (const auto& [key, filter] : filters_) {
        if (uses[filter.get()] != filter->uses) {
            return "the uses of a filter are miscounted";
        }
    }
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        if (world_[slot].pins != pins[slot]) {
            return "the pins of an entity are miscounted";
        }
    }
    return "";
}

const char* Engine::check_session(Session& session) {
    if (const char* wrong = session.outbox.check()) {
        return wrong;
    }
    int64_t total = 0, shown = 0;
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        const Entity& entity = world_[slot];
        Outbox::List list = Outbox::SHOWING;
        const Entry* entry = find_entry(session, slot, &list);
        const bool is_matched = entity.is_alive && matches(session, entity);
        const bool is_seen = is_matched && samples(session, entity.rank, entity.key_hash);
        total += is_matched;
        shown += is_seen;
        if (!entry) {
            continue;
        }
        if (is_seen != (list == Outbox::SHOWING)) {
            return is_seen ? "an entity leaves that is seen" : "an entity shows that is not seen";
        }
        if (list == Outbox::LEAVING && !entry->held) {
            return "an entity leaves that is not held";
        }
        if (list == Outbox::SHOWING && entry->held == static_cast<int64_t>(entity.wire)) {
            return "an entry has nothing to say";
        }
        if (session.reset_is_owed && entry->held) {
            return "an empty mirror holds something";
        }
    }
    if (total != session.total || shown != session.shown) {
        return "the counts are not those of the view";
    }
    if (session.outbox.size() || session.answer_is_owed) {
        const auto is_it = [&](const Due& due) { return due.number == session.number && due.due == session.queued_due; };
        if (session.queued_due != TAKEN && std::none_of(queue_.begin(), queue_.end(), is_it)) {
            return "a dirty session is not queued";
        }
    }
    return nullptr;
}

}  // namespace realtime
