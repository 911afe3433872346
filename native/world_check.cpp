// The world: whether all of it still holds together. See world.h.

#include "world.h"

namespace realtime {

const char* World::check_entity(const Entity& entity) const {
    if (tombstone(entity.id())) {
        return "dead and alive";
    }
    if (!(entity.since <= entity.wire && entity.wire <= entity.seen)) {
        return "versions out of order";
    }
    if (entity.move_since > entity.wire || entity.geometry_version > entity.wire) {
        return "changed after its wire version";
    }
    if (entity.content->removed_count() > REMOVED_MAX) {
        return "remembers too much";
    }
    for (const Property& property : *entity.content) {
        if (property.version > entity.wire) {
            return "a property changed after the wire version";
        }
    }
    if (entity.box_count < 1 || !is_box(entity.box)) {
        return "no box";
    }
    if (entity.is_public != rights_.is_public(entity.access)) {
        return "is_public is wrong";
    }
    if (entity.expiry && entity.expiry->deadline < entity.expiry->queued) {
        return "would never expire";
    }
    return nullptr;
}

const char* World::check() const {
    size_t alive = 0;
    size_t ghosts = 0;
    for (uint32_t slot = 0; slot < entities_.end(); ++slot) {
        const Entity& entity = entities_[slot];
        if (!entity.content) {
            continue;
        }
        if (find_slot(entity.id(), IdTable::hash_of(entity.id())) != slot) {
            return "an id leads to another slot";
        }
        if (!entity.is_alive) {
            ++ghosts;
            if (!entity.pins) {
                return "a ghost that nobody speaks of";
            }
            continue;
        }
        ++alive;
        if (const char* wrong = check_entity(entity)) {
            return wrong;
        }
    }
    if (alive != alive_ || alive + ghosts != ids_.size()) {
        return "miscounted";
    }
    size_t dead = 0;
    double buried = -NEVER;
    for (uint32_t slot = oldest_tombstone_; slot != NO_SLOT; slot = tombstones_[slot].newer) {
        ++dead;
        if (tombstones_[slot].buried < buried) {
            return "tombstones out of order";
        }
        buried = tombstones_[slot].buried;
    }
    if (dead != tombstone_ids_.size() || dead > settings_.tombstones_max) {
        return "tombstones miscounted";
    }
    return nullptr;
}

}  // namespace realtime
