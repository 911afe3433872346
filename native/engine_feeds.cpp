// The engine: what other nodes and stores are told, and what they tell. See feeds.h and states.h.

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine.h"
#include "engine_parts.h"
#include "faults.h"
#include "hash.h"

namespace realtime {

void Engine::renumber(uint64_t node_number) {
    gate(node_number < NODE_NUMBERS, "node number: 0 to 4095");
    world_.renumber(node_number);
}

// Feeds

void Engine::gate_feed(uint32_t feed) const {
    if (!feeds_.is_open(feed)) {
        throw std::out_of_range("no such feed");
    }
}

uint32_t Engine::open_feed(FeedKind kind) {
    const uint32_t feed = feeds_.open(kind);
    gate(feed != 0, "feed: enough are open");
    return feed;
}

void Engine::close_feed(uint32_t feed) {
    gate_feed(feed);
    feeds_.close(feed, world_);
}

size_t Engine::feed_size(uint32_t feed) const {
    gate_feed(feed);
    return feeds_.size(feed);
}

// Puts an entity into feeds. Without a slot it is not alive.
void Engine::offer(std::string_view id, uint32_t slot, FeedMask feeds) {
    if (slot != NO_SLOT) {
        offer(slot, feeds);
    } else if (feeds) {
        slot = world_.pin(id);
        offer(slot, feeds);
        world_.unpin(slot);
    }
}

void Engine::offer(uint32_t slot, FeedMask feeds) {
    const FeedMask missing = static_cast<FeedMask>(feeds & ~world_[slot].feeds);
    if (missing) {
        feeds_.offer(slot, missing, world_);
    }
}

// `apply` or `merge` named it.
void Engine::name(uint32_t slot) {
    if (slot != NO_SLOT) {
        world_[slot].named = reload_;
    }
}

void Engine::offer_all(uint32_t feed) {
    gate_feed(feed);
    std::vector<Standing> line;
    line_up(line);
    for (const Standing& standing : line) {
        offer(standing.slot, Feeds::bit_of(feed));
    }
    world_.visit_tombstones([&](std::string_view id) { offer(id, NO_SLOT, Feeds::bit_of(feed)); });
}

std::vector<Batch>& Engine::take_feed(uint32_t feed, size_t shards, size_t bytes_max) {
    gate_feed(feed);
    gate(shards >= 1, "shards: one at least");
    batches_.resize(shards);
    for (Batch& batch : batches_) {
        batch.clear();
    }
    const size_t size = feeds_.size(feed);
    size_t bytes = 0;
    for (size_t taken = 0; taken < size && (bytes < bytes_max || taken == 0); ++taken) {
        if (taken + 3 * AHEAD < size) {
            world_.prefetch_slot(feeds_.ahead(feed, 3 * AHEAD));
        }
        if (taken + AHEAD < size) {
            world_.prefetch_content(feeds_.ahead(feed, AHEAD));
        }
        const uint32_t slot = feeds_.ahead(feed, 0);
        bytes += world_.tell(slot, batches_[fmix32(world_[slot].id_hash) % shards]);
        feeds_.drop_first(feed, world_);
    }
    return batches_;
}

// What others tell

Merged Engine::merge(std::string_view batch, double now, uint32_t feed) {
    if (feed) {
        gate_feed(feed);
    }
    gate(std::isfinite(now), "now: a finite number");
    const FeedMask asked = feed ? Feeds::bit_of(feed) : 0;
    Merged merged;
    BatchReader reader(batch);
    // States are read some steps before they are taken over, so that the memory they need can be asked for.
    State states[HINTS_AHEAD];
    size_t read = 0, taken = 0;
    BatchReader::Found found = BatchReader::Found::STATE;
    while (found != BatchReader::Found::NOTHING || taken < read) {
        if (found != BatchReader::Found::NOTHING && read - taken < HINTS_AHEAD) {
            State& state = states[read % HINTS_AHEAD];
            found = reader.next(state);
            if (found == BatchReader::Found::STATE) {
                hint(state.id_hash);
                ++read;
            }
            merged.bad += found == BatchReader::Found::BAD;
            continue;
        }
        take_over(states[taken++ % HINTS_AHEAD], now, asked, merged);
    }
    merged.bad += !reader.is_whole();
    return merged;
}

void Engine::take_over(const State& state, double now, FeedMask asked, Merged& merged) {
    Change change;
    if (!world_.merge(state, now, change)) {
        ++merged.bad;
        return;
    }
    const bool is_stale = change.verdict == Verdict::STALE;
    ++(is_stale ? merged.stale : change.verdict == Verdict::UNCHANGED ? merged.unchanged : merged.accepted);
    const FeedMask feeds = is_stale || BROKEN(KEEPS_WHAT_IT_WAS_TOLD_TO_ITSELF) ? FeedMask{0} : feeds_.for_merged();
    offer(state.id, change.slot, static_cast<FeedMask>(feeds | asked));
    name(change.slot);
    if (change.is_changed) {
        match(change, now);
        world_.settle(change);
    }
}

// Reloads

// The living line up in the order of their birth.
void Engine::line_up(std::vector<Standing>& line) const {
    line.clear();
    line.reserve(world_.alive());
    bool is_in_order = true;
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        if (world_[slot].is_alive) {
            is_in_order = is_in_order && (line.empty() || line.back().serial < world_[slot].serial);
            line.push_back({world_[slot].serial, slot});
        }
    }
    if (!is_in_order) {
        std::sort(line.begin(), line.end(), [](const Standing& a, const Standing& b) { return a.serial < b.serial; });
    }
}

void Engine::begin_reload() {
    ++reload_;
    is_reloading_ = true;
    is_lined_up_ = false;
}

bool Engine::end_reload(double now, size_t entities_max) {
    gate(std::isfinite(now), "now: a finite number");
    if (!is_reloading_) {
        return true;
    }
    if (!is_lined_up_) {
        line_up(line_);
        is_lined_up_ = true;
        looked_at_ = 0;
    }
    const size_t end = looked_at_ + std::min(entities_max, line_.size() - looked_at_);
    for (; looked_at_ < end; ++looked_at_) {
        const Standing standing = line_[looked_at_];
        const Entity& entity = world_[standing.slot];
        const bool is_untold = (entity.feeds & feeds_.local()) && !BROKEN(KILLS_WHAT_IS_NOT_TOLD_YET);
        if (!entity.is_alive || entity.serial != standing.serial || entity.named == reload_ || is_untold) {
            continue;
        }
        const Change change = world_.let_die(standing.slot, false, now);
        offer(standing.slot, feeds_.for_merged());
        match(change, now);
        world_.settle(change);
    }
    if (looked_at_ < line_.size()) {
        return false;
    }
    is_reloading_ = false;
    line_ = std::vector<Standing>();
    return true;
}

}  // namespace realtime
