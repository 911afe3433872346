// The engine: changes of what a session may see.

#include "engine.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine_parts.h"
#include "faults.h"

namespace realtime {

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
    session.rights = world_.rights().enter_session(principals, count);
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
    const uint32_t allowed = world_.rights().enter_session(principals, count);
    Turn what;
    what.rights = &allowed;
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
    world_.rights().leave(session.rights);
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
        if (const uint32_t left = ~numbers_) {
            const uint32_t number = static_cast<uint32_t>(__builtin_ctz(left)), bit = 1u << number;
            term_ += (numbers_ever_ & bit) != 0;  // contents remember what another filter of this number said
            numbers_ |= bit;
            numbers_ever_ |= bit;
            found->second->number = static_cast<uint8_t>(number);
        }
    }
    ++found->second->uses;
    return found->second.get();
}

void Engine::release(SharedFilter* filter) {
    if (filter && --filter->uses == 0) {
        numbers_ &= filter->number < NO_FILTER ? ~(1u << filter->number) : ~0u;
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
    session.filter_number = filter ? filter->number : NO_FILTER;
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
        if (n < view.box_count && !(n && BROKEN(INDEXES_ONE_BOX_OF_A_VIEW))) {
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
    Hearing hearing = hear(entity.content, view_reader_, 0);
    return passes(hearing, session);
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
    return shown > most || (session.is_sampled && shown * 2 < most && !BROKEN(KEEPS_A_STALE_SAMPLE));
}

// The threshold below which three quarters of what may be shown lie; none if there are no more.
void Engine::choose(Session& session, const std::vector<uint32_t>& matched) {
    const size_t target = std::max<size_t>(1, size_t{settings_.entities_per_view} * 3 / 4);
    if (session.is_sampled && matched.size() > target && BROKEN(KEEPS_THE_OLD_THRESHOLD)) {
        return;
    }
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
    if (what.rights) {
        world_.rights().leave(session.rights);
        session.rights = *what.rights;
        if (BROKEN(OFFERS_NOTHING_WHEN_RIGHTS_CHANGE)) {
            return;
        }
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
            hold(slot, is_known || BROKEN(BELIEVES_ALL_OF_HAVE) ? version : -version);
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
    if (what.rights) {
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

}  // namespace realtime
