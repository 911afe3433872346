// Feeds: the outboxes of other nodes and of stores. A feed is a set of entities, in the order of the first offer, whose
// state has still to be told.
//
// Law: a feed names slots and never holds a state: what is told is the entity as it is when it is taken out, so an outage
// of whoever reads a feed costs the names of what changed and nothing else. Each entity says itself which feeds it is in,
// by a bit of each, so that offering what is in them all is one test. As long as it is in any, its slot is pinned once: what
// dies keeps its id as a ghost.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace realtime {

class World;

enum class FeedKind : uint8_t {
    LOCAL,  // is offered what `apply` accepted or found unchanged
    ALL,    // also what `merge` changed, and what `end_reload` let die
    ASKED,  // only what `merge` and `offer_all` name
};

using FeedMask = uint8_t;  // a bit of each feed

class Feeds {
   public:
    static constexpr uint32_t FEEDS_MAX = 8;

    // Returns the lowest number from 1 on that is not open; 0: enough are.
    uint32_t open(FeedKind kind);
    void close(uint32_t feed, World& world);
    bool is_open(uint32_t feed) const { return feed >= 1 && feed <= FEEDS_MAX && (open_ & bit_of(feed)); }
    static FeedMask bit_of(uint32_t feed) { return static_cast<FeedMask>(1u << (feed - 1)); }

    // Which feeds are offered what `apply` took, and what `merge` took.
    FeedMask for_applied() const { return applied_; }
    FeedMask for_merged() const { return merged_; }
    // The LOCAL ones.
    FeedMask local() const { return local_; }

    // Puts the entity into those of the feeds that it is not in: `missing`, which are not none.
    void offer(uint32_t slot, FeedMask missing, World& world);
    size_t size(uint32_t feed) const { return feeds_[feed - 1].slots.size() - feeds_[feed - 1].first; }
    // All feeds together.
    size_t size() const;
    // The slot that stands at this place behind the first; it must be there.
    uint32_t ahead(uint32_t feed, size_t place) const { return feeds_[feed - 1].slots[feeds_[feed - 1].first + place]; }
    // Takes the first out. Its slot is free afterwards, if nothing else speaks of it.
    void drop_first(uint32_t feed, World& world);

    // nullptr, or what is wrong.
    const char* check(const World& world) const;

   private:
    struct Feed {
        std::vector<uint32_t> slots;
        size_t first = 0;  // what is before it was taken
    };
    static constexpr size_t SMALL = 1024;  // slots that were taken are forgotten when there are so many, and half of all

    void leave(uint32_t slot, FeedMask bit, World& world);

    std::array<Feed, FEEDS_MAX> feeds_;
    FeedMask open_ = 0, applied_ = 0, merged_ = 0, local_ = 0;
};

}  // namespace realtime
