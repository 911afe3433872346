// See feeds.h.

#include "feeds.h"

#include "faults.h"
#include "world.h"

namespace realtime {

uint32_t Feeds::open(FeedKind kind) {
    uint32_t feed = 1;
    while (is_open(feed)) {
        ++feed;
    }
    if (feed > FEEDS_MAX) {
        return 0;
    }
    const FeedMask bit = bit_of(feed);
    open_ |= bit;
    applied_ |= kind != FeedKind::ASKED ? bit : 0;
    merged_ |= kind == FeedKind::ALL ? bit : 0;
    local_ |= kind == FeedKind::LOCAL ? bit : 0;
    return feed;
}

void Feeds::close(uint32_t feed, World& world) {
    const FeedMask bit = bit_of(feed);
    Feed& it = feeds_[feed - 1];
    for (size_t n = it.first; n < it.slots.size(); ++n) {
        leave(it.slots[n], bit, world);
    }
    it = Feed();
    for (FeedMask* mask : {&open_, &applied_, &merged_, &local_}) {
        *mask = static_cast<FeedMask>(*mask & ~bit);
    }
}

void Feeds::offer(uint32_t slot, FeedMask missing, World& world) {
    Entity& entity = world[slot];
    if (!entity.feeds && !BROKEN(LOSES_PINS_OF_FEEDS)) {
        world.pin(slot);
    }
    entity.feeds = static_cast<FeedMask>(entity.feeds | missing);
    do {
        feeds_[static_cast<size_t>(__builtin_ctz(missing))].slots.push_back(slot);
        missing = static_cast<FeedMask>(missing & (missing - 1));
    } while (missing);
}

size_t Feeds::size() const {
    size_t all = 0;
    for (const Feed& feed : feeds_) {
        all += feed.slots.size() - feed.first;
    }
    return all;
}

void Feeds::leave(uint32_t slot, FeedMask bit, World& world) {
    Entity& entity = world[slot];
    entity.feeds = static_cast<FeedMask>(entity.feeds & ~bit);
    if (!entity.feeds) {
        world.unpin(slot);
    }
}

void Feeds::drop_first(uint32_t feed, World& world) {
    Feed& it = feeds_[feed - 1];
    leave(it.slots[it.first++], bit_of(feed), world);
    if (it.first == it.slots.size()) {
        it.first = 0;
        it.slots.clear();
        if (it.slots.capacity() > SMALL) {
            it.slots = std::vector<uint32_t>();
        }
    } else if (it.first >= SMALL && it.first * 2 >= it.slots.size()) {
        it.slots.erase(it.slots.begin(), it.slots.begin() + static_cast<std::ptrdiff_t>(it.first));
        it.first = 0;
    }
}

const char* Feeds::check(const World& world) const {
    std::vector<FeedMask> masks(world.slots(), 0);
    for (uint32_t feed = 1; feed <= FEEDS_MAX; ++feed) {
        const Feed& it = feeds_[feed - 1];
        if (it.slots.size() > it.first && !is_open(feed)) {
            return "a closed feed holds something";
        }
        for (size_t n = it.first; n < it.slots.size(); ++n) {
            const uint32_t slot = it.slots[n];
            if (slot >= world.slots() || !world[slot].content) {
                return "a feed names what is not there";
            }
            if (masks[slot] & bit_of(feed)) {
                return "an entity stands twice in a feed";
            }
            masks[slot] = static_cast<FeedMask>(masks[slot] | bit_of(feed));
        }
    }
    for (uint32_t slot = 0; slot < world.slots(); ++slot) {
        if (world[slot].feeds != masks[slot]) {
            return "an entity does not know which feeds it is in";
        }
    }
    return nullptr;
}

}  // namespace realtime
