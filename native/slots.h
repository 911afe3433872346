// What numbers things: a pool whose members never move, and a table of ids.
//
// Law: a slot is a small integer that is given again after it was freed; whoever keeps one across calls sees to it that
// it is not freed meanwhile. Nothing here knows what the slots are for.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

#include "memory.h"

namespace realtime {

constexpr uint32_t NO_SLOT = 0xFFFFFFFFu;

// A growing array of T in chunks: members keep their place in memory.
template <class T, uint32_t CHUNK_BITS = 10>
class SlotPool {
   public:
    SlotPool() = default;
    SlotPool(const SlotPool&) = delete;
    SlotPool& operator=(const SlotPool&) = delete;
    ~SlotPool() {
        for (uint32_t slot = 0; slot < end_; ++slot) {
            (*this)[slot].~T();
        }
    }
    T& operator[](uint32_t slot) { return chunks_[slot >> CHUNK_BITS].get()[slot & MASK]; }
    const T& operator[](uint32_t slot) const { return chunks_[slot >> CHUNK_BITS].get()[slot & MASK]; }

    // Returns a slot whose T is as its constructor made it.
    uint32_t take() {
        if (!free_.empty()) {
            const uint32_t slot = free_.back();
            free_.pop_back();
            return slot;
        }
        if ((end_ & MASK) == 0) {
            chunks_.emplace_back(allocate());
        }
        new (&(*this)[end_]) T();
        return end_++;
    }

    void give_back(uint32_t slot) {
        (*this)[slot] = T();
        free_.push_back(slot);
    }

    // One more than the highest slot ever taken.
    uint32_t end() const { return end_; }

   private:
    static constexpr uint32_t MASK = (1u << CHUNK_BITS) - 1;
    static constexpr size_t CHUNK_BYTES = sizeof(T) << CHUNK_BITS;

    static T* allocate() {
        if constexpr (CHUNK_BYTES > LARGE_PAGE_BYTES / 2) {
            return static_cast<T*>(large_memory(CHUNK_BYTES));
        }
        void* memory = std::aligned_alloc(64, (CHUNK_BYTES + 63) / 64 * 64);
        if (!memory) {
            throw std::bad_alloc();
        }
        return static_cast<T*>(memory);
    }

    std::vector<std::unique_ptr<T, FreeMemory>> chunks_;  // of which members were made up to `end_`
    std::vector<uint32_t> free_;
    uint32_t end_ = 0;
};

// From an id to a slot. The ids themselves stay with the slots: `id_of(slot)` returns them. Of each the table keeps half
// of the hash, which says where it belongs: neither growing nor erasing looks at an id.
class IdTable {
   public:
    static uint64_t hash_of(std::string_view id) {
        // Eight bytes at a time, multiplied and folded; ids are at most 128 bytes.
        uint64_t state = 0x9E3779B97F4A7C15ull ^ id.size();
        const char* at = id.data();
        size_t left = id.size();
        while (left >= 8) {
            uint64_t part;
            std::memcpy(&part, at, 8);
            state = fold(state ^ part);
            at += 8;
            left -= 8;
        }
        uint64_t part = 0;
        if (left) {
            std::memcpy(&part, at, left);
        }
        return fold(state ^ part);
    }

    // Ask for the memory that `find` reads first.
    void prefetch(uint64_t hash) const {
        if (!cells_.empty()) {
            __builtin_prefetch(&cells_[tag_of(hash) & mask_]);
        }
    }

    // The slot that `find` will most likely return; no id is looked at.
    uint32_t guess(uint64_t hash) const {
        if (cells_.empty()) {
            return NO_SLOT;
        }
        const uint32_t tag = tag_of(hash);
        for (size_t at = tag & mask_;; at = (at + 1) & mask_) {
            if (cells_[at].slot == NO_SLOT || cells_[at].tag == tag) {
                return cells_[at].slot;
            }
        }
    }

    template <class IdOf>
    uint32_t find(std::string_view id, uint64_t hash, IdOf&& id_of) const {
        if (cells_.empty()) {
            return NO_SLOT;
        }
        const uint32_t tag = tag_of(hash);
        for (size_t at = tag & mask_;; at = (at + 1) & mask_) {
            const Cell& cell = cells_[at];
            if (cell.slot == NO_SLOT) {
                return NO_SLOT;
            }
            if (cell.tag == tag && id_of(cell.slot) == id) {
                return cell.slot;
            }
        }
    }

    void insert(uint32_t slot, uint64_t hash) {
        if ((size_ + 1) * 3 > cells_.size() * 2) {
            std::vector<Cell> old(cells_.empty() ? 64 : cells_.size() * 2, Cell{NO_SLOT, 0});
            old.swap(cells_);
            mask_ = cells_.size() - 1;
            for (const Cell& cell : old) {
                if (cell.slot != NO_SLOT) {
                    put(cell);
                }
            }
        }
        put({slot, tag_of(hash)});
        ++size_;
    }

    void erase(uint32_t slot, uint64_t hash) {
        size_t at = tag_of(hash) & mask_;
        while (cells_[at].slot != slot) {
            at = (at + 1) & mask_;
        }
        --size_;
        for (size_t next = (at + 1) & mask_; cells_[next].slot != NO_SLOT; next = (next + 1) & mask_) {
            const size_t home = cells_[next].tag & mask_;
            if (((next - home) & mask_) >= ((next - at) & mask_)) {
                cells_[at] = cells_[next];
                at = next;
            }
        }
        cells_[at].slot = NO_SLOT;
    }

    size_t size() const { return size_; }

   private:
    struct Cell {
        uint32_t slot;
        uint32_t tag;
    };

    static uint64_t fold(uint64_t state) {
        const unsigned __int128 product = static_cast<unsigned __int128>(state) * 0xD6E8FEB86659FD93ull;
        return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    }

    static uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

    void put(const Cell& cell) {
        size_t at = cell.tag & mask_;
        while (cells_[at].slot != NO_SLOT) {
            at = (at + 1) & mask_;
        }
        cells_[at] = cell;
    }

    std::vector<Cell> cells_;
    size_t size_ = 0;
    size_t mask_ = 0;
};

}  // namespace realtime
