// The world: slots, and how an update turns one state into the next. See world.h.

#include "world.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "faults.h"

namespace realtime {

namespace {

constexpr size_t POINT_FRAME_BYTES = sizeof(R"({"type":"Point","coordinates":[]})") - 1;

size_t geometry_bytes(std::string_view text, bool is_point) { return text.size() + (is_point ? POINT_FRAME_BYTES : 0); }

}  // namespace

bool knows(const Entity& entity, uint64_t version) {
    if (version == entity.wire) {
        return true;
    }
    if (entity.known) {
        const uint64_t* begin = entity.known->versions;
        return std::find(begin, begin + entity.known->count, version) != begin + entity.known->count;
    }
    return false;
}

World::~World() {
    for (uint32_t slot = 0; slot < entities_.end(); ++slot) {
        Entity& entity = entities_[slot];
        std::free(entity.content);
        std::free(entity.known);
        delete entity.expiry;
        clear_geometry(entity);
    }
}

uint32_t World::prefetch_entity(uint64_t hash) const {
    const uint32_t slot = ids_.guess(hash);
    if (slot != NO_SLOT) {
        prefetch_slot(slot);
    }
    return slot;
}

void World::prefetch_content(uint32_t slot) const {
    const Entity& entity = entities_[slot];
    const char* content = reinterpret_cast<const char*>(entity.content);
    __builtin_prefetch(content);
    __builtin_prefetch(content + 64);
    __builtin_prefetch(content + 128);
    __builtin_prefetch(entity.known, 1);
}

void World::prefetch_slot(uint32_t slot) const {
    const char* at = reinterpret_cast<const char*>(&entities_[slot]);
    for (size_t line = 0; line < sizeof(Entity); line += 64) {
        __builtin_prefetch(at + line, 1);
    }
}

uint32_t World::find(std::string_view id) const {
    const uint32_t slot = find_slot(id, IdTable::hash_of(id));
    return slot != NO_SLOT && entities_[slot].is_alive ? slot : NO_SLOT;
}

const Tombstone* World::tombstone(std::string_view id) const {
    const uint32_t slot = tombstone_ids_.find(id, IdTable::hash_of(id), TombstoneIdOf{this});
    return slot == NO_SLOT ? nullptr : &tombstones_[slot];
}

uint32_t World::take_slot(std::string_view id, uint64_t hash, Content* content) {
    const uint32_t slot = entities_.take();
    Entity& entity = entities_[slot];
    entity.content = content;
    entity.id_hash = fnv1a32(id);
    ids_.insert(slot, hash);
    return slot;
}

void World::free_slot(uint32_t slot) {
    Entity& entity = entities_[slot];
    ids_.erase(slot, IdTable::hash_of(entity.id()));
    std::free(entity.content);
    std::free(entity.known);
    delete entity.expiry;
    clear_geometry(entity);
    entities_.give_back(slot);
}

uint32_t World::pin(std::string_view id) {
    const uint64_t hash = IdTable::hash_of(id);
    uint32_t slot = find_slot(id, hash);
    if (slot == NO_SLOT) {
        ContentDraft ghost;
        ghost.id = id;
        slot = take_slot(id, hash, ghost.make());
    }
    ++entities_[slot].pins;
    return slot;
}

void World::clear_geometry(Entity& entity) {
    if (entity.text_bytes == 0) {
        std::free(entity.heap.text);
    }
    entity.text_bytes = 0;
    entity.heap = {nullptr, 0};
    delete entity.second_box;
    entity.second_box = nullptr;
    entity.box_count = 0;
}

void World::set_geometry(Entity& entity, const Geometry& geometry) {
    clear_geometry(entity);
    if (geometry.text.size() <= sizeof entity.inline_text) {
        std::memcpy(entity.inline_text, geometry.text.data(), geometry.text.size());
        entity.text_bytes = static_cast<uint16_t>(geometry.text.size());
    } else {
        entity.heap.text = static_cast<char*>(std::malloc(geometry.text.size()));
        if (!entity.heap.text) {
            throw std::bad_alloc();
        }
        std::memcpy(entity.heap.text, geometry.text.data(), geometry.text.size());
        entity.heap.bytes = static_cast<uint32_t>(geometry.text.size());
    }
    entity.is_point = geometry.is_point;
    entity.box = geometry.boxes[0];
    entity.box_count = geometry.box_count;
    if (geometry.box_count == 2) {
        entity.second_box = new Box(geometry.boxes[1]);
    }
}

void World::remember(Entity& entity, Before& before) const {
    before.is_alive = true;
    before.box_count = entity.box_count;
    before.boxes[0] = entity.box;
    if (entity.second_box) {
        before.boxes[1] = *entity.second_box;
    }
    before.content = entity.content;
    before.min_zoom = entity.min_zoom;
    before.rank = entity.rank;
    before.access = entity.access;
    before.wire = entity.wire;
    const_cast<Rights&>(rights_).keep(entity.access);
}

void World::settle(const Change& change) {
    if (change.before.is_alive) {
        rights_.leave(change.before.access);
        Entity& entity = entities_[change.slot];
        if (entity.content != change.before.content) {
            std::free(const_cast<Content*>(change.before.content));
        }
        if (!entity.is_alive) {
            BROKEN(FREES_GHOSTS_TOO_EARLY) ? free_slot(change.slot) : unpin(change.slot);
        }
    }
}

bool World::is_too_big(const Content* content, const Geometry& geometry, Verdict& verdict) const {
    if (content->property_count() > settings_.entity_properties || content->property_count() >= PROPERTIES_MAX) {
        verdict = Verdict::TOO_MANY_PROPERTIES;
        return true;
    }
    // Each property counts with its name, its value, a colon and a comma.
    const size_t properties = content->properties().size() + (content->property_count() ? 1 : 0);
    if (geometry_bytes(geometry.text, geometry.is_point) + properties > settings_.entity_bytes) {
        verdict = Verdict::TOO_MANY_BYTES;
        return true;
    }
    return false;
}

Change World::apply(const Update& update, double now) {
    Change change;
    const uint64_t hash = IdTable::hash_of(update.id);
    uint32_t slot = find_slot(update.id, hash);
    const bool is_alive = slot != NO_SLOT && entities_[slot].is_alive;
    const uint32_t dead = is_alive ? NO_SLOT : tombstone_ids_.find(update.id, hash, TombstoneIdOf{this});
    uint64_t seen = 0;
    bool by_publisher = false;
    if (is_alive) {
        seen = entities_[slot].seen;
        by_publisher = entities_[slot].by_publisher;
    } else if (dead != NO_SLOT) {
        seen = tombstones_[dead].seen;
        by_publisher = tombstones_[dead].by_publisher;
    }
    uint64_t version = update.version;
    if (version) {
        if (version <= seen) {
            change.verdict = Verdict::STALE;
            return change;
        }
        by_publisher = true;
    } else if (by_publisher) {
        version = seen + 1;
    } else {
        const double milliseconds = std::max((now - VERSION_EPOCH_S) * 1000.0, 0.0);
        const uint64_t floor = std::max(seen + 1, static_cast<uint64_t>(milliseconds) * NODE_NUMBERS);
        version = floor + (node_number_ - floor) % NODE_NUMBERS;
    }
    if (version > VERSION_MAX) {
        change.verdict = Verdict::NO_VERSION_LEFT;
        return change;
    }
    if (update.op == Op::DELETE) {
        const uint32_t access = is_alive ? entities_[slot].access : dead != NO_SLOT ? tombstones_[dead].access : Rights::PUBLIC_SET;
        rights_.keep(access);
        if (dead != NO_SLOT) {
            remove_tombstone(dead, hash);
        }
        bury(update.id, hash, version, by_publisher, false, now, now, access);
        if (is_alive) {
            change.slot = slot;
            die(slot, change);
        }
        return change;
    }
    if (!is_alive) {
        if (update.op != Op::UPSERT) {
            change.verdict = Verdict::UNKNOWN_ENTITY;
            return change;
        }
        change.verdict = create(update, version, hash, slot);
        if (change.verdict != Verdict::ACCEPTED) {
            return change;
        }
        change.is_changed = change.is_moved = true;
        if (dead != NO_SLOT) {
            remove_tombstone(dead, hash);
        }
    } else {
        change.slot = slot;
        change.verdict = alter(update, version, change);
        if (change.verdict > Verdict::UNCHANGED) {
            return change;
        }
    }
    change.slot = slot;
    Entity& entity = entities_[slot];
    entity.seen = version;
    entity.by_publisher = by_publisher;
    if (entity.expiry) {
        schedule(slot, entity.expiry->ttl > 0.0 ? now + entity.expiry->ttl : NEVER);
    }
    return change;
}

Verdict World::create(const Update& update, uint64_t version, uint64_t hash, uint32_t& slot) {
    Content* content = maker_.first(update, version);
    if (!content) {
        return Verdict::TOO_MANY_PROPERTIES;
    }
    Verdict verdict = Verdict::ACCEPTED;
    if (is_too_big(content, update.geometry, verdict)) {
        std::free(content);
        return verdict;
    }
    if (slot == NO_SLOT) {
        slot = take_slot(update.id, hash, content);
    } else {
        std::free(entities_[slot].content);  // a ghost's
        entities_[slot].content = content;
    }
    Entity& entity = entities_[slot];
    entity.is_alive = true;
    ++alive_;
    entity.serial = ++last_serial_;
    entity.wire = entity.since = entity.move_since = entity.geometry_version = version;
    entity.min_zoom = entity.rank = 0.0;
    entity.access = Rights::PUBLIC_SET;
    entity.is_public = true;
    rights_.keep(Rights::PUBLIC_SET);
    entity.key_hash = fmix32(entity.id_hash);
    set_geometry(entity, update.geometry);
    set_unseen(entity, update);
    return verdict;
}

Verdict World::alter(const Update& update, uint64_t version, Change& change) {
    Entity& entity = entities_[change.slot];
    const bool is_moved = update.geometry.box_count && (update.geometry.is_point != entity.is_point || update.geometry.text != entity.geometry_text());
    uint64_t dropped = 0;
    Content* content = maker_.next(*entity.content, update, version, dropped);
    if (!is_moved && !content) {
        const bool is_told_apart = (update.has_min_zoom && update.min_zoom != entity.min_zoom) ||
                                   (update.has_rank && update.rank != entity.rank) ||
                                   (update.has_access && rights_.find(update.access, update.access_count) != entity.access);
        if (BROKEN(BUMPS_THE_VERSION_OF_NOTHING)) {
            remember(entity, change.before);
            change.is_changed = true;
            know(entity, entity.wire++);
        } else if (is_told_apart) {
            remember(entity, change.before);
            change.is_changed = true;
        }
        set_unseen(entity, update);
        return Verdict::UNCHANGED;
    }
    const bool is_kind_changed = content && content->kind() != entity.content->kind();
    bool are_properties_changed = false;
    if (content) {
        are_properties_changed = content->properties() != entity.content->properties();
    }
    Verdict verdict = Verdict::ACCEPTED;
    if (are_properties_changed || update.geometry.box_count) {
        Geometry geometry = update.geometry;
        if (!geometry.box_count) {
            geometry.text = entity.geometry_text();
            geometry.is_point = entity.is_point;
        }
        if (is_too_big(content ? content : entity.content, geometry, verdict)) {
            std::free(content);
            return verdict;
        }
    }
    remember(entity, change.before);
    change.is_changed = true;
    know(entity, entity.wire);
    const bool was_point = entity.is_point;
    entity.wire = version;
    entity.since = std::max(entity.since, dropped);
    if (content) {
        entity.content = content;
    }
    if (is_kind_changed && !BROKEN(TELLS_A_CHANGED_KIND_BY_A_PATCH)) {
        entity.since = version;
    }
    if (is_moved) {
        set_geometry(entity, update.geometry);
        entity.geometry_version = version;
        change.is_moved = true;
    }
    if (are_properties_changed || !(entity.is_point && was_point)) {
        entity.move_since = version;
    }
    if (!BROKEN(BELIEVES_STALE_PIECES)) {
        entity.forget_pieces();
    }
    set_unseen(entity, update);
    return verdict;
}

void World::set_unseen(Entity& entity, const Update& update) {
    if (update.has_min_zoom) {
        entity.min_zoom = update.min_zoom;
    }
    if (update.has_rank) {
        entity.rank = update.rank;
    }
    if (update.has_access) {
        const uint32_t access = rights_.enter(update.access, update.access_count);
        rights_.leave(entity.access);
        entity.access = access;
        entity.is_public = rights_.is_public(access) || (entity.is_public && BROKEN(STAYS_PUBLIC));
    }
    if (update.has_ttl && (update.ttl > 0.0 || entity.expiry)) {
        if (!entity.expiry) {
            entity.expiry = new Expiry();
        }
        entity.expiry->ttl = update.ttl;
    }
}

void World::know(Entity& entity, uint64_t version) {
    Known* known = entity.known;
    if (!known || known->count == known->capacity) {
        constexpr uint8_t most = KNOWN_MAX - 1;
        if (known && known->capacity == most) {
            std::memmove(known->versions, known->versions + 1, (most - 1) * sizeof(uint64_t));
            --known->count;
        } else {
            const uint8_t capacity = known ? std::min<uint8_t>(known->capacity * 2 + 1, most) : 1;
            Known* larger = static_cast<Known*>(std::malloc(sizeof(Known) + (capacity - 1) * sizeof(uint64_t)));
            if (!larger) {
                throw std::bad_alloc();
            }
            larger->count = known ? known->count : 0;
            larger->capacity = capacity;
            if (known) {
                std::memcpy(larger->versions, known->versions, known->count * sizeof(uint64_t));
                std::free(known);
            }
            entity.known = known = larger;
        }
    }
    known->versions[known->count++] = version;
}

}  // namespace realtime
