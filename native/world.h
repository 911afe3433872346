// The world: what is there now, what died lately, and how an update turns the one state into the next.
//
// Law: an entity keeps its slot while it lives or somebody has pinned it, and changes in place; what it was before the
// change stays readable as `Before` until `settle`. Bytes are canonical JSON, made once by whoever decoded the update.
// The world knows nothing of sessions. Its rules are those of realtime/engine/reference/world.py.

#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "content.h"
#include "feeds.h"
#include "hash.h"
#include "rights.h"
#include "slots.h"
#include "states.h"
#include "types.h"

namespace realtime {

constexpr uint64_t VERSION_MAX = (uint64_t{1} << 53) - (uint64_t{1} << 32);
constexpr double VERSION_EPOCH_S = 1577836800.0;  // 2020-01-01T00:00:00Z
constexpr uint64_t NODE_NUMBERS = 4096;
constexpr size_t KNOWN_MAX = 8;    // wire versions remembered per entity: which versions of a client's `have` can be believed
constexpr double NEVER = std::numeric_limits<double>::infinity();

struct Settings {
    uint32_t entities_per_view;
    uint32_t entity_bytes;
    uint32_t entity_properties;
    double flush_interval_s;
    double tombstone_s;
    uint64_t tombstones_max;
};

struct Expiry {
    double ttl = 0.0;        // seconds; 0: none
    double deadline = NEVER; // seconds since the Unix epoch
    double queued = NEVER;   // the earliest time at which it stands in the heap
};

// The wire versions before the present one, newest last.
struct Known {
    uint8_t count = 0;
    uint8_t capacity = 0;
    uint64_t versions[1];
};

// A slot of the world: an entity, or the mere id of one that died and that outboxes or feeds still speak of.
struct alignas(64) Entity {
    // What matching and draining read: one cache line.
    uint64_t wire = 0;               // the version of the last change that a client could see
    uint64_t since = 0;              // the oldest wire version from which a patch can be told
    uint64_t move_since = 0;         // the oldest wire version since which only the coordinates of a Point changed
    uint32_t pieces[2] = {0, 0};     // where its move or patch may be, by encoding: see pieces.h
    uint32_t access = 0;
    uint32_t pins = 0;  // what speaks of it in outboxes; all feeds together are one
    bool is_alive = false;
    bool is_public = false;  // everybody may see it
    bool is_point = false;   // a Point of two coordinates
    bool by_publisher = false;  // the publisher counts this entity's versions
    uint8_t box_count = 0;
    FeedMask feeds = 0;       // those that it is in: see feeds.h
    uint16_t text_bytes = 0;  // of `inline_text`; 0: the text is on the heap
    uint32_t place = 0;       // scratch of whoever set the mark
    uint32_t named = 0;       // the reload in which `apply` or `merge` named it last
    uint64_t mark = 0;        // scratch: what it was seen by last
    // What is needed less often.
    uint64_t seen = 0;  // the newest accepted version
    Box box{};
    Box* second_box = nullptr;
    double min_zoom = 0.0;
    double rank = 0.0;
    uint64_t serial = 0;  // of its birth; orders entities
    uint64_t geometry_version = 0;  // the wire version that last changed it
    uint32_t enters[2] = {0, 0};    // where its Feature may be, by encoding
    uint32_t id_hash = 0;  // FNV-1a-32 of its id
    uint32_t key_hash = 0; // for sampling, behind the rank
    Content* content = nullptr;
    Known* known = nullptr;
    Expiry* expiry = nullptr;
    union {
        char inline_text[40];
        struct {
            char* text;
            uint32_t bytes;
        } heap;
    };

    Entity() { heap = {nullptr, 0}; }
    void forget_pieces() { pieces[0] = pieces[1] = enters[0] = enters[1] = 0; }
    std::string_view id() const { return content->id(); }
    std::string_view geometry_text() const {
        return text_bytes ? std::string_view(inline_text, text_bytes) : std::string_view(heap.text, heap.bytes);
    }
};

// What is remembered of a dead entity.
struct Tombstone {
    std::string id;
    uint64_t seen = 0;
    double died = 0.0;    // wherever that was; all nodes tell the same
    double buried = 0.0;  // when this engine learned of it; it is remembered so long from then on
    uint32_t access = 0;  // who could see it: nobody else may learn that it was there
    bool by_publisher = false;
    bool is_expired = false;  // it was not deleted
    uint32_t older = NO_SLOT, newer = NO_SLOT;  // the list of all, by burial
};

// An entity as it was before a change, as far as views can tell.
struct Before {
    bool is_alive = false;
    uint8_t box_count = 0;
    Box boxes[2];
    const Content* content = nullptr;
    double min_zoom = 0.0;
    double rank = 0.0;
    uint32_t access = 0;
    uint64_t wire = 0;
};

struct Change {
    Verdict verdict = Verdict::ACCEPTED;
    uint32_t slot = NO_SLOT;
    bool is_changed = false;  // something that a view may tell apart; then `before` says what it was
    bool is_moved = false;    // its boxes changed, or it was born
    Before before;
};

class World {
   public:
    World(const Settings& settings, uint64_t node_number) : settings_(settings), node_number_(node_number) {}
    ~World();
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    // Applies one update. If `is_changed`, `settle` must follow once the change has been matched.
    Change apply(const Update& update, double now);
    // Takes over a state that another node tells, if it is newer than what is known; the higher seen version wins whole.
    // False: it is malformed or out of its bounds, and nothing was done. If `is_changed`, `settle` must follow. The slot is
    // NO_SLOT if there is none.
    bool merge(const State& state, double now, Change& change);
    // Writes the state of whatever has that slot: of the living, the remembered, or the unknown. Returns its bytes.
    size_t tell(uint32_t slot, Batch& out) const;
    // Lets a living entity die in the version that it has: its time has come, or it is nowhere else. `settle` must follow.
    Change let_die(uint32_t slot, bool is_expired, double now);
    // Versions are given as this node from now on.
    void renumber(uint64_t node_number) { node_number_ = node_number; }

    // The slots of the entities whose deadline has come, at most so many, earliest first, then by id.
    std::vector<uint32_t> due(double now, size_t deaths_max);
    void forget_tombstones(double now);
    void settle(const Change& change);
    // When `due` or `forget_tombstones` will have something to do; NEVER.
    double next_expiry() const;

    Entity& operator[](uint32_t slot) { return entities_[slot]; }
    const Entity& operator[](uint32_t slot) const { return entities_[slot]; }
    // Returns the slot of a living entity; NO_SLOT.
    uint32_t find(std::string_view id) const;
    // Also that of a ghost.
    uint32_t find_any(std::string_view id) const { return find_slot(id, IdTable::hash_of(id)); }
    const Tombstone* tombstone(std::string_view id) const;

    // Asking for memory ahead of an update, a step each: the table, the entity, what it points to. All that is known is a hash.
    void prefetch_id(uint64_t hash) const { ids_.prefetch(hash); }
    uint32_t prefetch_entity(uint64_t hash) const;
    void prefetch_content(uint32_t slot) const;
    void prefetch_slot(uint32_t slot) const;

    // A slot for an id, alive or not, that stays until it is unpinned as often.
    uint32_t pin(std::string_view id);
    void pin(uint32_t slot) { ++entities_[slot].pins; }
    void unpin(uint32_t slot) {
        Entity& entity = entities_[slot];
        if (--entity.pins == 0 && !entity.is_alive) {
            free_slot(slot);
        }
    }

    Rights& rights() { return rights_; }
    const Rights& rights() const { return rights_; }
    size_t alive() const { return alive_; }
    // The ids of all tombstones, first buried first.
    template <class Visit>
    void visit_tombstones(Visit&& visit) const {
        for (uint32_t slot = oldest_tombstone_; slot != NO_SLOT; slot = tombstones_[slot].newer) {
            visit(std::string_view(tombstones_[slot].id));
        }
    }
    size_t tombstone_count() const { return tombstone_ids_.size(); }
    uint32_t slots() const { return entities_.end(); }
    // Ghosts: slots of the dead that are pinned.
    size_t ghosts() const { return ids_.size() - alive_; }

    // nullptr, or what is wrong.
    const char* check() const;

   private:
    struct Deadline {
        double due;
        std::string id;  // of those with the same deadline the first by id dies first
        uint64_t serial;
        uint32_t slot;
        bool operator>(const Deadline& other) const {
            return due != other.due ? due > other.due : id != other.id ? id > other.id : serial > other.serial;
        }
    };
    struct IdOf {
        const World* world;
        std::string_view operator()(uint32_t slot) const { return world->entities_[slot].id(); }
    };
    struct TombstoneIdOf {
        const World* world;
        std::string_view operator()(uint32_t slot) const { return world->tombstones_[slot].id; }
    };

    uint32_t find_slot(std::string_view id, uint64_t hash) const { return ids_.find(id, hash, IdOf{this}); }
    uint32_t take_slot(std::string_view id, uint64_t hash, Content* content);
    void free_slot(uint32_t slot);
    bool is_too_big(const Content* content, const Geometry& geometry, Verdict& verdict) const;
    Verdict create(const Update& update, uint64_t version, uint64_t hash, uint32_t& slot);
    Verdict alter(const Update& update, uint64_t version, Change& change);
    bool read_parts(const State& state, const Entity* entity, Update& update);
    void bury_told(const State& state, bool is_expired, double died, double now, uint32_t dead, Change& change);
    void set_unseen(Entity& entity, const Update& update);
    void set_geometry(Entity& entity, const Geometry& geometry);
    void clear_geometry(Entity& entity);
    void remember(Entity& entity, Before& before) const;
    void know(Entity& entity, uint64_t version);
    void schedule(uint32_t slot, double deadline);
    bool is_owed(const Tombstone& tombstone) const;
    const char* check_entity(const Entity& entity) const;
    void die(uint32_t slot, Change& change);
    void bury(std::string_view id, uint64_t hash, uint64_t seen, bool by_publisher, bool is_expired, double died, double now,
              uint32_t access);
    void remove_tombstone(uint32_t slot, uint64_t hash);

    const Settings settings_;
    uint64_t node_number_;
    Rights rights_;
    SlotPool<Entity, 13> entities_;
    IdTable ids_;  // of the living and of the ghosts
    size_t alive_ = 0;
    uint64_t last_serial_ = 0;
    SlotPool<Tombstone> tombstones_;
    IdTable tombstone_ids_;
    uint32_t oldest_tombstone_ = NO_SLOT, newest_tombstone_ = NO_SLOT;
    std::vector<Deadline> deadlines_;  // a heap; an entity stands in it at or before its deadline
    ContentMaker maker_;
    PropertiesReader properties_;           // of the state that is being merged
    std::vector<std::string_view> access_;  // of it
};

// Whether version `version` is the present one or one of the last before.
bool knows(const Entity& entity, uint64_t version);

}  // namespace realtime
