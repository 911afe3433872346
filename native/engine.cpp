// The engine: changes of the world, matched with what sessions see.

#include "engine.h"

#include <algorithm>
#include <cmath>

#include "engine_parts.h"
#include "faults.h"

namespace realtime {

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
    if (change.verdict <= Verdict::UNCHANGED) {
        if (change.verdict == Verdict::ACCEPTED || !BROKEN(KEEPS_UNCHANGED_UPDATES_TO_ITSELF)) {
            offer(update.id, change.slot, feeds_.for_applied());
        }
        name(change.slot);
    }
    if (change.is_changed) {
        match(change, now);
        world_.settle(change);
    }
    return change.verdict;
}

void Engine::hint(std::string_view id) { hint(IdTable::hash_of(id)); }

void Engine::hint(uint64_t hash) {
    const auto before = [&](uint64_t steps) -> Hint& { return hints_[(hints_given_ - steps) % hints_.size()]; };
    before(0) = {hash, NO_SLOT};
    world_.prefetch_id(hash);
    Hint& second = before(2);
    second.slot = world_.prefetch_entity(second.hash);
    if (second.slot != NO_SLOT) {
        places_.prefetch_place(second.slot * 2);
    }
    const Hint& third = before(5);
    if (third.slot != NO_SLOT && third.slot < world_.slots()) {
        world_.prefetch_content(third.slot);
        places_.prefetch_leaf(third.slot * 2);
    }
    ++hints_given_;
}

std::vector<std::string> Engine::expire(double now, size_t deaths_max) {
    std::vector<std::string> ids;
    for (const uint32_t slot : world_.due(now, deaths_max)) {
        ids.emplace_back(world_[slot].id());
        const Change change = world_.let_die(slot, true, now);
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
        if (n >= entity.box_count || (n && BROKEN(INDEXES_ONE_BOX_OF_AN_ENTITY))) {
            if (is_there) {
                places_.erase(handle);
            }
            continue;
        }
        const Box& box = n ? *entity.second_box : entity.box;
        is_there ? places_.move(handle, box) : places_.insert(handle, box);
    }
}

// The sessions that may see the old or the new state, each once, become `candidates_`.
void Engine::find_candidates(const Change& change, const Box* now_boxes, bool& has_followers) {
    const Entity& entity = world_[change.slot];
    const Before& old = change.before;
    const size_t now_count = entity.box_count;
    candidates_.clear();
    uint32_t seconds = 0;  // whether a viewport's second box was met
    const auto find_at = [&](const Box& box) {
        viewports_.search(box, [&](RTree::Handle handle) {
            seconds |= handle & 1;
            candidates_.push_back(handle >> 1);
            const char* session = reinterpret_cast<const char*>(&sessions_[handle >> 1]);
            __builtin_prefetch(session);
            __builtin_prefetch(session + 64);
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
    if (is_once && !seconds && followers_.empty()) {
        return;
    }
    size_t kept = 0;
    for (const uint32_t candidate : candidates_) {
        Session& session = sessions_[candidate];
        if (session.stamp != change_) {
            session.stamp = change_;
            candidates_[kept++] = candidate;
        }
    }
    candidates_.resize(kept);
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

// What is known of what filters say of a content; the reader reads it already.
Engine::Hearing Engine::hear(const Content* content, PropertyReader& reader, uint32_t which) {
    Content::Verdicts& verdicts = content->verdicts(term_);
    constexpr uint64_t none = uint64_t{1} << NO_FILTER;
    return {content, &reader, &verdicts, verdicts.known | none, verdicts.passed | none, which};
}

// Asks a filter that has not said it yet.
bool Engine::ask(Hearing& hearing, SharedFilter& filter) {
    const auto says = [&] {
        return filter.filter.passes({hearing.content->id(), hearing.content->kind(), hearing.reader, PropertyReader::find});
    };
    if (filter.number == NO_NUMBER) {
        if (hearing.reader == &view_reader_) {
            return says();
        }
        if (filter.asked[hearing.which] != change_) {
            filter.asked[hearing.which] = change_;
            filter.passed[hearing.which] = says();
        }
        return filter.passed[hearing.which];
    }
    const bool passes = says();
    const uint32_t bit = 1u << filter.number;
    hearing.verdicts->known |= bit;
    hearing.verdicts->passed |= passes ? bit : 0;
    hearing.known |= bit;
    hearing.passed |= passes ? bit : 0;
    return passes;
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
    bool has_followers = false;
    find_candidates(change, now_boxes, has_followers);
    pairs_ += candidates_.size();
    reader_.read(entity.content);
    Hearing hearing = hear(entity.content, reader_, 0);
#ifdef REALTIME_FAULTS
    if (BROKEN(REMEMBERS_WHAT_A_FILTER_SAID)) {
        hearing.known = passed_before_.known | uint64_t{1} << NO_FILTER;
        hearing.passed = passed_before_.passed | uint64_t{1} << NO_FILTER;
        hearing.verdicts = &passed_before_;
    }
#endif
    const bool is_same_content = old.is_alive && entity.is_alive && old.content == entity.content;
    const bool is_moved_only = is_same_content && old.min_zoom == entity.min_zoom && old.access == entity.access;
    Hearing old_hearing;
    if (old.is_alive && !is_same_content) {
        old_reader_.read(old.content);
        old_hearing = hear(old.content, old_reader_, 1);
    }
    const bool was_public = old.is_alive && world_.rights().is_public(old.access);
    const auto lets_through = [&](const Session& session) {
        return entity.min_zoom <= session.zoom && (entity.is_public || world_.rights().allows(entity.access, session.rights)) &&
               passes(hearing, session);
    };
    const auto let_through = [&](const Session& session) {
        return old.min_zoom <= session.zoom && (was_public || world_.rights().allows(old.access, session.rights)) &&
               passes(is_same_content ? hearing : old_hearing, session);
    };
    // First who is told, which reads one cache line of each; then they are told, and what that writes to is known ahead.
    sights_.resize(candidates_.size());
    size_t told = 0;
    const bool is_simple = is_moved_only && !has_followers && change.is_moved && old.box_count == 1 && now_count == 1 &&
                           !BROKEN(SKIPS_THE_OLD_BOX) && !BROKEN(SKIPS_THE_NEW_BOX);
    if (is_simple) {
        const Box old_box = old.boxes[0], new_box = now_boxes[0];
        const double min_zoom = entity.min_zoom;
        const bool is_public = entity.is_public;
        for (const uint32_t candidate : candidates_) {
            const Session& session = sessions_[candidate];
            bool was = meet_evenly(session.box, old_box), is = meet_evenly(session.box, new_box);
            if (session.box_count > 1) {
                was = was || meet_evenly(session.second_box, old_box);
                is = is || meet_evenly(session.second_box, new_box);
            }
            const bool is_allowed = is_public || world_.rights().allows(entity.access, session.rights);
            const bool is_wanted = passes(hearing, session);
            candidates_[told] = candidate;
            sights_[told] = static_cast<uint8_t>(was << 1 | is);
            told += (was | is) & is_allowed & is_wanted & (min_zoom <= session.zoom);
        }
        candidates_.resize(told);
    }
    for (size_t n = told; n < candidates_.size(); ++n) {
        const uint32_t candidate = candidates_[n];
        const Session& session = sessions_[candidate];
        const bool is_named = has_followers && session.stamp == change_ + 1;
        bool was = old.is_alive && (is_named || reaches(session, old.boxes, old.box_count));
        bool is = entity.is_alive && (!change.is_moved && old.is_alive ? was : (is_named || reaches(session, now_boxes, now_count)));
        if ((was && !is && entity.is_alive && BROKEN(SKIPS_THE_OLD_BOX)) || (is && !was && old.is_alive && BROKEN(SKIPS_THE_NEW_BOX))) {
            continue;
        }
        if (is_moved_only) {
            const bool passes = (was || is) && lets_through(session);
            was = was && passes;
            is = is && passes;
        } else {
            is = is && lets_through(session);
            was = was && let_through(session);
        }
        candidates_[told] = candidate;
        sights_[told] = static_cast<uint8_t>(was << 1 | is);
        told += was || is;
    }
    const uint64_t held = old.is_alive ? old.wire : 0;
    const bool is_visible = entity.is_alive && entity.wire != held;
    const uint64_t ticks = ticks_of(now);
    for (size_t n = 0; n < std::min(AHEAD, told); ++n) {
        __builtin_prefetch(sessions_[candidates_[n]].outbox.log.tail(), 1);
    }
    for (size_t n = 0; n < told; ++n) {
        if (n + AHEAD < told) {
            __builtin_prefetch(sessions_[candidates_[n + AHEAD]].outbox.log.tail(), 1);
        }
        Session& session = sessions_[candidates_[n]];
        bool was = sights_[n] >> 1, is = sights_[n] & 1;
        if (was != is || session.is_sampled) {
            count(session, change, was, is);
        }
        if (was != is) {
            note(session, entity, {slot, is ? Note::APPEARED : Note::VANISHED, is ? entity.wire : held, ticks});
        } else if (!is || !is_visible) {
            continue;
        } else {
            note(session, entity, {slot, Note::TOUCHED, held, ticks});
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
        if (!session.is_open || !world_.rights().allows(old.access, session.rights) || allows(session, entity)) {
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

// Ticks are what is left of time in a note: 1/8192 s since the engine began to count, for some four years.
uint64_t Engine::ticks_of(double now) {
    if (origin_ < 0.0) {
        origin_ = std::floor(now);
    }
    const double ticks = (now - origin_) * TICKS_PER_S;
    return ticks <= 0.0 ? 0 : static_cast<uint64_t>(std::min(ticks, TICKS_MAX));
}

double Engine::time_of(uint64_t ticks) const { return origin_ + static_cast<double>(ticks) / TICKS_PER_S; }

// Folds the log into the map: the first note of an entity says what the client holds, the later ones only whether it is
// seen now.
void Engine::fold(Session& session) {
    Outbox& outbox = session.outbox;
    if (outbox.log.empty()) {
        return;
    }
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
    log_.clear();
    outbox.log.move_to(log_, notes_);
    const std::vector<Note>& log = log_;
    const size_t size = log.size();
    for (size_t n = 0; n < size; ++n) {
        if (n + 2 * AHEAD < size) {
            __builtin_prefetch(&world_[log[n + 2 * AHEAD].slot()], 1);
        }
        const Note note = log[n];
        const uint32_t slot = note.slot();
        Entity& entity = world_[slot];
        const bool is_there = entity.mark == mark && entity.place != NO_SLOT;
        if (note.kind() == Note::TOUCHED) {
            if (is_there) {
                if (BROKEN(LOSES_THE_HELD_VERSION)) {
                    outbox.at(entity.place).held = note.version();
                }
                world_.unpin(slot);
            } else {  // the note's pin is the entry's
                pieces_.prefetch(entity, session.encoding);  // most folds are a drain's
                entity.mark = mark;
                entity.place = outbox.add(Outbox::SHOWING, {slot, 0, note.version(), time_of(note.ticks())});
            }
            continue;
        }
        const bool is_seen = note.kind() == Note::APPEARED;
        Entry entry{slot, 0, is_seen ? 0 : note.version(), time_of(note.ticks())};
        if (is_there) {
            entry = outbox.remove(entity.place);
            --entity.pins;
        }
        entity.mark = mark;
        entity.place = NO_SLOT;
        if (entry.held == (is_seen ? note.version() : 0) && (is_seen || !BROKEN(ANNOUNCES_WHAT_CAME_AND_WENT))) {
            world_.unpin(slot);
        } else {
            entity.place = outbox.add(is_seen ? Outbox::SHOWING : Outbox::LEAVING, entry);
        }
    }
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

}  // namespace realtime
