// The world: deadlines, deaths and what is remembered of them. See world.h.

#include <algorithm>
#include <cstdlib>

#include "faults.h"
#include "world.h"

namespace realtime {

// Gives another deadline to an entity that can have one.
void World::schedule(uint32_t slot, double deadline) {
    Entity& entity = entities_[slot];
    Expiry& expiry = *entity.expiry;
    expiry.deadline = BROKEN(NEVER_RENEWS_A_DEADLINE) ? std::min(expiry.deadline, deadline) : deadline;
    if (expiry.deadline < expiry.queued) {
        expiry.queued = expiry.deadline;
        deadlines_.push_back({expiry.deadline, std::string(entity.id()), entity.serial, slot});
        std::push_heap(deadlines_.begin(), deadlines_.end(), std::greater<Deadline>());
    }
}

std::vector<uint32_t> World::due(double now, size_t deaths_max) {
    std::vector<uint32_t> dead;
    while (!deadlines_.empty() && deadlines_.front().due <= now && dead.size() < deaths_max) {
        const Deadline first = deadlines_.front();
        std::pop_heap(deadlines_.begin(), deadlines_.end(), std::greater<Deadline>());
        deadlines_.pop_back();
        Entity& entity = entities_[first.slot];
        if (!entity.is_alive || entity.serial != first.serial || !entity.expiry || entity.expiry->queued != first.due) {
            continue;
        }
        Expiry& expiry = *entity.expiry;
        if (expiry.deadline <= first.due) {  // otherwise others may come before it, even if that has come, too
            expiry.queued = NEVER;  // it may stand in the heap once more with this very time
            dead.push_back(first.slot);
            continue;
        }
        expiry.queued = expiry.deadline;
        if (expiry.deadline < NEVER) {
            deadlines_.push_back({expiry.deadline, first.id, entity.serial, first.slot});
            std::push_heap(deadlines_.begin(), deadlines_.end(), std::greater<Deadline>());
        }
    }
    std::sort(dead.begin(), dead.end(), [&](uint32_t a, uint32_t b) {
        const double left = entities_[a].expiry->deadline;
        const double right = entities_[b].expiry->deadline;
        return left != right ? left < right : entities_[a].id() < entities_[b].id();
    });
    return dead;
}

Change World::let_die(uint32_t slot, bool is_expired, double now) {
    Change change;
    change.slot = slot;
    const Entity& entity = entities_[slot];
    rights_.keep(entity.access);
    bury(entity.id(), IdTable::hash_of(entity.id()), entity.seen, entity.by_publisher, is_expired, now, now, entity.access);
    die(slot, change);
    return change;
}

double World::next_expiry() const {
    double next = deadlines_.empty() ? NEVER : deadlines_.front().due;
    if (oldest_tombstone_ != NO_SLOT && !is_owed(tombstones_[oldest_tombstone_])) {
        next = std::min(next, tombstones_[oldest_tombstone_].buried + settings_.tombstone_s);
    }
    return next;
}

void World::die(uint32_t slot, Change& change) {
    Entity& entity = entities_[slot];
    remember(entity, change.before);
    change.is_changed = change.is_moved = true;
    entity.is_alive = false;
    --alive_;
    ++entity.pins;  // until it is settled
    rights_.leave(entity.access);
    entity.access = Rights::PUBLIC_SET;
    std::free(entity.known);
    entity.known = nullptr;
    delete entity.expiry;
    entity.expiry = nullptr;
    clear_geometry(entity);
    entity.forget_pieces();
}

void World::bury(std::string_view id, uint64_t hash, uint64_t seen, bool by_publisher, bool is_expired, double died, double now,
                 uint32_t access) {
    const uint32_t slot = tombstones_.take();
    Tombstone& tombstone = tombstones_[slot];
    tombstone.id = id;
    tombstone.seen = BROKEN(FORGETS_THE_SEEN_VERSION) ? 1 : seen;
    tombstone.died = died;
    tombstone.buried = now;
    tombstone.access = access;
    tombstone.by_publisher = by_publisher;
    tombstone.is_expired = is_expired;
    tombstone.older = newest_tombstone_;
    (newest_tombstone_ == NO_SLOT ? oldest_tombstone_ : tombstones_[newest_tombstone_].newer) = slot;
    newest_tombstone_ = slot;
    tombstone_ids_.insert(slot, hash);
    while (tombstone_ids_.size() > settings_.tombstones_max) {
        remove_tombstone(oldest_tombstone_, IdTable::hash_of(tombstones_[oldest_tombstone_].id));
    }
}

void World::remove_tombstone(uint32_t slot, uint64_t hash) {
    const Tombstone& tombstone = tombstones_[slot];
    tombstone_ids_.erase(slot, hash);
    rights_.leave(tombstone.access);
    (tombstone.older == NO_SLOT ? oldest_tombstone_ : tombstones_[tombstone.older].newer) = tombstone.newer;
    (tombstone.newer == NO_SLOT ? newest_tombstone_ : tombstones_[tombstone.newer].older) = tombstone.older;
    tombstones_.give_back(slot);
}

// Whether others have still to be told of that death.
bool World::is_owed(const Tombstone& tombstone) const {
    const uint32_t slot = find_any(tombstone.id);
    return slot != NO_SLOT && entities_[slot].feeds && !BROKEN(FORGETS_WHAT_IS_OWED);
}

// In the order of their burial: one that is still to be told keeps those behind it, too.
void World::forget_tombstones(double now) {
    while (oldest_tombstone_ != NO_SLOT) {
        const Tombstone& oldest = tombstones_[oldest_tombstone_];
        if (oldest.buried + settings_.tombstone_s > now || is_owed(oldest)) {
            break;
        }
        remove_tombstone(oldest_tombstone_, IdTable::hash_of(oldest.id));
    }
}

}  // namespace realtime
