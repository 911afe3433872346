// The world: states that other nodes tell, and the telling of its own. See world.h and states.h.

#include <algorithm>
#include <cstring>

#include "faults.h"
#include "geometries.h"
#include "msgpack.h"
#include "world.h"

namespace realtime {

namespace {

constexpr std::string_view POINT_HEAD = R"({"type":"Point","coordinates":[)";
constexpr std::string_view POINT_TAIL = "]}";

// Whether `json` is the geometry that the entity has.
bool is_same_geometry(const Entity& entity, std::string_view json) {
    const std::string_view text = entity.geometry_text();
    if (!entity.is_point) {
        return json == text;
    }
    return json.size() == POINT_HEAD.size() + text.size() + POINT_TAIL.size() && json.substr(POINT_HEAD.size(), text.size()) == text &&
           json.substr(0, POINT_HEAD.size()) == POINT_HEAD && json.substr(json.size() - POINT_TAIL.size()) == POINT_TAIL;
}

// Whether `json` is the object of the entity's properties, in their order.
bool are_same_properties(const Entity& entity, std::string_view json) {
    const std::string_view text = entity.content->properties();
    return json.size() == text.size() + 2 && json.front() == '{' && json.back() == '}' && json.substr(1, text.size()) == text;
}

char* put(char* out, std::string_view text) {
    if (!text.empty()) {
        std::memcpy(out, text.data(), text.size());
    }
    return out + text.size();
}

char* put_access(char* out, const Rights& rights, uint32_t set) {
    out = msgpack::write_array_head(out, rights.size_of(set));
    std::string_view key = rights.key_of(set);
    while (!key.empty()) {
        const size_t bytes = key.find(Rights::END);
        out = states::put_text(out, key.substr(0, bytes));
        key.remove_prefix(bytes + 1);
    }
    return out;
}

// Room for a set: each name in the key has its END, and here a head of up to 3 bytes.
size_t access_bytes_max(const Rights& rights, uint32_t set) { return rights.key_of(set).size() + 2 * rights.size_of(set); }

}  // namespace

// Makes an upsert of a state, as far as it says something else than what is there already. False: its geometry or its
// properties are not what they should be.
bool World::read_parts(const State& state, const Entity* entity, Update& update) {
    const bool has_properties = !entity || !are_same_properties(*entity, state.properties);
    if (has_properties) {
        if (!properties_.read(state.properties, std::min<size_t>(settings_.entity_properties, PROPERTIES_MAX - 1))) {
            return false;
        }
        update.has_properties = true;
        update.properties = properties_.properties().data();
        update.property_count = properties_.properties().size();
    }
    // Each property counts with its name, its value, a colon and a comma.
    if (state.geometry.size() + (state.properties.size() > 2 ? state.properties.size() - 1 : 0) > settings_.entity_bytes) {
        return false;
    }
    if ((!entity || !is_same_geometry(*entity, state.geometry)) && !read_geometry(state.geometry, update.geometry)) {
        return false;
    }
    update.op = Op::UPSERT;
    update.id = state.id;
    update.has_kind = update.has_min_zoom = update.has_rank = true;
    update.kind = state.kind;
    update.min_zoom = state.min_zoom;
    update.rank = state.rank;
    return true;
}

bool World::merge(const State& state, double now, Change& change) {
    uint32_t slot = find_slot(state.id, state.id_hash);
    const bool is_alive = slot != NO_SLOT && entities_[slot].is_alive;
    Update update;
    if (state.form == State::Form::ALIVE && !read_parts(state, is_alive ? &entities_[slot] : nullptr, update)) {
        return false;
    }
    change.slot = slot;
    change.verdict = Verdict::STALE;
    const uint32_t dead = is_alive ? NO_SLOT : tombstone_ids_.find(state.id, state.id_hash, TombstoneIdOf{this});
    const uint64_t seen = is_alive ? entities_[slot].seen : dead != NO_SLOT ? tombstones_[dead].seen : 0;
    if (state.form == State::Form::UNKNOWN || state.seen <= seen) {
        return true;
    }
    if (state.form == State::Form::DEAD) {
        bury_told(state, state.is_expired, state.died, now, dead, change);
        return true;
    }
    if (state.deadline != 0.0 && state.deadline <= now) {
        bury_told(state, true, state.deadline, now, dead, change);
        return true;
    }
    name_access(state, access_);
    if (!is_alive || !rights_.is(entities_[slot].access, access_.data(), access_.size())) {
        update.has_access = true;
        update.access = access_.data();
        update.access_count = access_.size();
    }
    // Its own wire version, if that is above all that a client can have held.
    const bool is_above = state.wire > (is_alive ? entities_[slot].wire : seen);
    const bool is_broken = is_alive ? BROKEN(TAKES_OVER_LOWER_WIRE_VERSIONS) : BROKEN(BRINGS_THE_DEAD_BACK_OLDER);
    const uint64_t wire = is_above || is_broken ? state.wire : state.seen;
    if (!is_alive) {
        change.verdict = create(update, wire, state.id_hash, slot);
        change.is_changed = change.is_moved = true;
        change.slot = slot;
        if (dead != NO_SLOT) {
            remove_tombstone(dead, state.id_hash);
        }
    } else {
        change.verdict = alter(update, wire, change);
    }
    Entity& entity = entities_[slot];
    entity.seen = state.seen;
    entity.by_publisher = state.by_publisher;
    if (state.ttl > 0.0 || state.deadline != 0.0 || entity.expiry) {
        if (!entity.expiry) {
            entity.expiry = new Expiry();
        }
        entity.expiry->ttl = state.ttl;
        schedule(slot, state.deadline != 0.0 ? state.deadline : NEVER);
    }
    return true;
}

// A death that happened elsewhere.
void World::bury_told(const State& state, bool is_expired, double died, double now, uint32_t dead, Change& change) {
    const bool is_alive = change.slot != NO_SLOT && entities_[change.slot].is_alive;
    if (!is_alive && dead == NO_SLOT && died + settings_.tombstone_s <= now) {
        return;  // everybody has forgotten it
    }
    change.verdict = Verdict::ACCEPTED;
    name_access(state, access_);
    const uint32_t access = rights_.enter(access_.data(), access_.size());
    if (dead != NO_SLOT) {
        remove_tombstone(dead, state.id_hash);
    }
    bury(state.id, state.id_hash, state.seen, state.by_publisher, is_expired, died, now, access);
    if (is_alive) {
        die(change.slot, change);
    }
}

size_t World::tell(uint32_t slot, Batch& out) const {
    const Entity& entity = entities_[slot];
    const std::string_view id = entity.id();
    if (!entity.is_alive) {
        const Tombstone* tombstone = this->tombstone(id);
        const size_t access_bytes = tombstone ? access_bytes_max(rights_, tombstone->access) : 0;
        char* to = states::put_head(out.room(states::FIXED_BYTES_MAX + id.size() + access_bytes), tombstone ? 6 : 1, id);
        if (tombstone) {
            to = states::put_bool(msgpack::write_uint(to, tombstone->seen), tombstone->by_publisher);
            to = states::put_bool(msgpack::write_double(to, tombstone->died), tombstone->is_expired);
            to = put_access(to, rights_, tombstone->access);
        }
        return out.take(to);
    }
    const std::string_view kind = entity.content->kind(), geometry = entity.geometry_text(), properties = entity.content->properties();
    const Expiry* const expiry = entity.expiry;
    char* to = out.room(states::FIXED_BYTES_MAX + id.size() + kind.size() + access_bytes_max(rights_, entity.access) + geometry.size() +
                        properties.size());
    to = states::put_bool(msgpack::write_uint(states::put_head(to, 12, id), entity.seen), entity.by_publisher);
    to = msgpack::write_uint(to, entity.wire);
    to = msgpack::write_double(to, expiry ? expiry->ttl : 0.0);
    to = states::put_text(msgpack::write_double(to, expiry && expiry->deadline < NEVER ? expiry->deadline : 0.0), kind);
    to = msgpack::write_double(msgpack::write_double(to, entity.min_zoom), entity.rank);
    to = put_access(to, rights_, entity.access);
    if (entity.is_point) {
        to = states::put_bytes_head(to, POINT_HEAD.size() + geometry.size() + POINT_TAIL.size());
        to = put(put(put(to, POINT_HEAD), geometry), POINT_TAIL);
    } else {
        to = put(states::put_bytes_head(to, geometry.size()), geometry);
    }
    *(to = states::put_bytes_head(to, properties.size() + 2)) = '{';
    to = put(to + 1, properties);
    *to = '}';
    return out.take(to + 1);
}

}  // namespace realtime
