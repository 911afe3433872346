#include "world.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "faults.h"
#include "msgpack.h"

namespace realtime {

namespace {

constexpr size_t POINT_FRAME_BYTES = sizeof(R"({"type":"Point","coordinates":[]})") - 1;
constexpr size_t PROPERTIES_MAX = 0xFFFF;

size_t geometry_bytes(std::string_view text, bool is_point) { return text.size() + (is_point ? POINT_FRAME_BYTES : 0); }

}  // namespace

// What a Content will be made of. All that it names must outlive `make`.
class ContentDraft {
   public:
    struct Item {
        std::string_view name;  // as JSON
        std::string_view json;  // empty: a removed property
        uint64_t version;
    };
    std::string_view id;
    std::string_view kind;
    std::vector<Item> properties;
    std::vector<Item> removed;

    void clear() {
        properties.clear();
        removed.clear();
    }

    Content* make() const {
        size_t text = 0;
        for (const Item& item : properties) {
            text += item.name.size() + 1 + item.json.size() + 1;
        }
        const size_t properties_bytes = text ? text - 1 : 0;
        size_t data = id.size() + kind.size() + properties_bytes;
        for (const Item& item : removed) {
            data += item.name.size();
        }
        void* memory = std::malloc(sizeof(Content) + properties.size() * sizeof(Property) + removed.size() * sizeof(Removed) + data);
        if (!memory) {
            throw std::bad_alloc();
        }
        Content* content = new (memory) Content();
        content->id_bytes_ = static_cast<uint16_t>(id.size());
        content->kind_bytes_ = static_cast<uint16_t>(kind.size());
        content->property_count_ = static_cast<uint16_t>(properties.size());
        content->removed_count_ = static_cast<uint16_t>(removed.size());
        content->properties_bytes_ = static_cast<uint32_t>(properties_bytes);
        Property* property = const_cast<Property*>(content->begin());
        Removed* gone = const_cast<Removed*>(content->removed());
        char* const base = const_cast<char*>(content->data());
        char* to = copy(copy(base, id), kind);
        for (size_t n = 0; n < properties.size(); ++n) {
            const Item& item = properties[n];
            if (n) {
                *to++ = ',';
            }
            *property++ = {item.version, static_cast<uint32_t>(to - base), static_cast<uint32_t>(item.name.size()),
                           static_cast<uint32_t>(item.json.size()), item.name.find('\\') != std::string_view::npos};
            to = copy(to, item.name);
            *to++ = ':';
            to = copy(to, item.json);
        }
        for (const Item& item : removed) {
            *gone++ = {item.version, static_cast<uint32_t>(to - base), static_cast<uint32_t>(item.name.size())};
            to = copy(to, item.name);
        }
        return content;
    }

   private:
    static char* copy(char* to, std::string_view text) {
        if (!text.empty()) {
            std::memcpy(to, text.data(), text.size());
        }
        return to + text.size();
    }
};

bool PropertyReader::find(const void* self, std::string_view name, Value* value) {
    PropertyReader& reader = *const_cast<PropertyReader*>(static_cast<const PropertyReader*>(self));
    const Content& content = *reader.content_;
    size_t n = 0;
    for (const Property& property : content) {
        const std::string_view quoted = content.name(property);
        bool is_it;
        if (!property.is_escaped) {
            is_it = quoted.size() == name.size() + 2 && std::memcmp(quoted.data() + 1, name.data(), name.size()) == 0;
        } else {
            std::string encoded;
            put_json_string(encoded, name);
            is_it = encoded == quoted;
        }
        if (is_it) {
            if (n >= MEMO) {
                *value = value_of(content.json(property));
                return true;
            }
            if (!(reader.parsed_ >> n & 1)) {
                reader.values_[n] = value_of(content.json(property));
                reader.parsed_ |= uint64_t{1} << n;
            }
            *value = reader.values_[n];
            return true;
        }
        ++n;
    }
    return false;
}

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
        const char* at = reinterpret_cast<const char*>(&entities_[slot]);
        for (size_t line = 0; line < sizeof(Entity); line += 64) {
            __builtin_prefetch(at + line, 1);
        }
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
    ids_.insert(slot, hash, IdOf{this});
    return slot;
}

void World::free_slot(uint32_t slot) {
    Entity& entity = entities_[slot];
    ids_.erase(slot, IdTable::hash_of(entity.id()), IdOf{this});
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
        bury(update.id, hash, version, by_publisher, false, now, access);
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
    schedule(slot, now);
    return change;
}

Verdict World::create(const Update& update, uint64_t version, uint64_t hash, uint32_t& slot) {
    ContentDraft draft;
    draft.id = update.id;
    draft.kind = update.kind;
    names_.clear();
    std::vector<size_t> ends;
    for (size_t n = 0; n < update.property_count; ++n) {
        put_json_string(names_, update.properties[n].name);
        ends.push_back(names_.size());
    }
    for (size_t n = 0, begin = 0; n < update.property_count; begin = ends[n++]) {
        if (!update.properties[n].json.empty()) {
            draft.properties.push_back({std::string_view(names_).substr(begin, ends[n] - begin), update.properties[n].json, version});
        }
    }
    if (draft.properties.size() > settings_.entity_properties || draft.properties.size() >= PROPERTIES_MAX) {
        return Verdict::TOO_MANY_PROPERTIES;
    }
    Content* content = draft.make();
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

Content* World::next_content(const Entity& entity, const Update& update, uint64_t version, uint64_t& dropped) {
    const Content& old = *entity.content;
    const bool is_kind_changed = update.has_kind && update.kind != old.kind();
    dropped = 0;
    if (!update.has_properties && !is_kind_changed) {
        return nullptr;
    }
    names_.clear();
    std::vector<size_t> ends;
    for (size_t n = 0; n < update.property_count; ++n) {
        put_json_string(names_, update.properties[n].name);
        ends.push_back(names_.size());
    }
    const auto named = [&](size_t n) {
        const size_t begin = n ? ends[n - 1] : 0;
        return std::string_view(names_).substr(begin, ends[n] - begin);
    };
    // Publishers name properties in the same order each time: the one behind the last found is tried first.
    size_t hint = 0;
    const auto find_named = [&](std::string_view name) {
        for (size_t tried = 0; tried < update.property_count; ++tried) {
            const size_t n = hint + tried < update.property_count ? hint + tried : hint + tried - update.property_count;
            if (named(n) == name) {
                hint = n + 1 < update.property_count ? n + 1 : 0;
                return n;
            }
        }
        return update.property_count;
    };
    ContentDraft draft;
    draft.id = old.id();
    draft.kind = is_kind_changed ? update.kind : old.kind();
    bool is_changed = false;
    std::vector<bool> is_old(update.property_count, false);
    std::vector<ContentDraft::Item> gone;
    for (const Property& property : old) {
        const size_t n = update.has_properties ? find_named(old.name(property)) : update.property_count;
        if (n == update.property_count) {
            if (update.has_properties && update.op == Op::UPSERT) {
                gone.push_back({old.name(property), {}, version});
            } else {
                draft.properties.push_back({old.name(property), old.json(property), property.version});
            }
            continue;
        }
        is_old[n] = true;
        const std::string_view json = update.properties[n].json;
        if (json.empty()) {
            gone.push_back({old.name(property), {}, version});
        } else if (json == old.json(property)) {
            draft.properties.push_back({old.name(property), json, property.version});
        } else {
            is_changed = true;
            draft.properties.push_back({old.name(property), json, version});
        }
    }
    for (size_t n = 0; n < update.property_count; ++n) {
        if (!is_old[n] && !update.properties[n].json.empty()) {
            is_changed = true;
            draft.properties.push_back({named(n), update.properties[n].json, version});
        }
    }
    if (!is_changed && gone.empty() && !is_kind_changed) {
        return nullptr;
    }
    for (const Removed* removed = old.removed(); removed != old.removed() + old.removed_count(); ++removed) {
        const std::string_view name = old.name(*removed);
        const size_t n = find_named(name);
        if (n == update.property_count || update.properties[n].json.empty()) {
            draft.removed.push_back({name, {}, removed->version});
        }
    }
    draft.removed.insert(draft.removed.end(), gone.begin(), gone.end());
    if (draft.removed.size() > REMOVED_MAX) {
        const auto keep = draft.removed.end() - static_cast<std::ptrdiff_t>(REMOVED_MAX);
        for (auto item = draft.removed.begin(); item != keep; ++item) {
            dropped = std::max(dropped, item->version);
        }
        draft.removed.erase(draft.removed.begin(), keep);
    }
    if (draft.properties.size() >= PROPERTIES_MAX) {
        draft.properties.resize(PROPERTIES_MAX);  // refused right away, by its count
    }
    return draft.make();
}

Verdict World::alter(const Update& update, uint64_t version, Change& change) {
    Entity& entity = entities_[change.slot];
    const bool is_moved = update.geometry.box_count && (update.geometry.is_point != entity.is_point || update.geometry.text != entity.geometry_text());
    uint64_t dropped = 0;
    Content* content = next_content(entity, update, version, dropped);
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

void World::schedule(uint32_t slot, double now) {
    Entity& entity = entities_[slot];
    if (!entity.expiry) {
        return;
    }
    Expiry& expiry = *entity.expiry;
    const double renewed = expiry.ttl > 0.0 ? now + expiry.ttl : NEVER;
    expiry.deadline = BROKEN(NEVER_RENEWS_A_DEADLINE) ? std::min(expiry.deadline, renewed) : renewed;
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

Change World::expire(uint32_t slot, double now) {
    Change change;
    change.slot = slot;
    const Entity& entity = entities_[slot];
    rights_.keep(entity.access);
    bury(entity.id(), IdTable::hash_of(entity.id()), entity.seen, entity.by_publisher, true, now, entity.access);
    die(slot, change);
    return change;
}

double World::next_expiry() const {
    double next = deadlines_.empty() ? NEVER : deadlines_.front().due;
    if (oldest_tombstone_ != NO_SLOT) {
        next = std::min(next, tombstones_[oldest_tombstone_].died + settings_.tombstone_s);
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

void World::bury(std::string_view id, uint64_t hash, uint64_t seen, bool by_publisher, bool is_expired, double now, uint32_t access) {
    const uint32_t slot = tombstones_.take();
    Tombstone& tombstone = tombstones_[slot];
    tombstone.id = id;
    tombstone.seen = BROKEN(FORGETS_THE_SEEN_VERSION) ? 1 : seen;
    tombstone.died = now;
    tombstone.access = access;
    tombstone.by_publisher = by_publisher;
    tombstone.is_expired = is_expired;
    tombstone.older = newest_tombstone_;
    (newest_tombstone_ == NO_SLOT ? oldest_tombstone_ : tombstones_[newest_tombstone_].newer) = slot;
    newest_tombstone_ = slot;
    tombstone_ids_.insert(slot, hash, TombstoneIdOf{this});
    while (tombstone_ids_.size() > settings_.tombstones_max) {
        remove_tombstone(oldest_tombstone_, IdTable::hash_of(tombstones_[oldest_tombstone_].id));
    }
}

void World::remove_tombstone(uint32_t slot, uint64_t hash) {
    const Tombstone& tombstone = tombstones_[slot];
    tombstone_ids_.erase(slot, hash, TombstoneIdOf{this});
    rights_.leave(tombstone.access);
    (tombstone.older == NO_SLOT ? oldest_tombstone_ : tombstones_[tombstone.older].newer) = tombstone.newer;
    (tombstone.newer == NO_SLOT ? newest_tombstone_ : tombstones_[tombstone.newer].older) = tombstone.older;
    tombstones_.give_back(slot);
}

void World::forget_tombstones(double now) {
    while (oldest_tombstone_ != NO_SLOT && tombstones_[oldest_tombstone_].died + settings_.tombstone_s <= now) {
        remove_tombstone(oldest_tombstone_, IdTable::hash_of(tombstones_[oldest_tombstone_].id));
    }
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
    }
    if (alive != alive_ || alive + ghosts != ids_.size()) {
        return "miscounted";
    }
    size_t dead = 0;
    double died = -NEVER;
    for (uint32_t slot = oldest_tombstone_; slot != NO_SLOT; slot = tombstones_[slot].newer) {
        ++dead;
        if (tombstones_[slot].died < died) {
            return "tombstones out of order";
        }
        died = tombstones_[slot].died;
    }
    if (dead != tombstone_ids_.size() || dead > settings_.tombstones_max) {
        return "tombstones miscounted";
    }
    return nullptr;
}

}  // namespace realtime
