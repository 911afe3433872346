// What happened to entities since a session's outbox was looked at: notes of 16 bytes, and the log that they are written to.
//
// Law: a log borrows its memory, a kilobyte at a time, from a pool that all sessions share, and gives it back when it is
// cleared: a session that nothing happens to has none, and what was just read is written to next, while it is in the cache.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "memory.h"

namespace realtime {

// What happened to an entity. A thousand logs are written to in turn, so each write may miss the cache.
class Note {
   public:
    enum Kind : uint32_t {
        TOUCHED,   // seen before and after a change; `version`: of what was there before
        APPEARED,  // not seen before a change, and seen after it; `version`: of what is there now
        VANISHED,  // seen before, and not after; `version`: of what was there before
    };
    Note() = default;
    // `ticks` count time, see Engine::ticks_of.
    Note(uint32_t slot, Kind kind, uint64_t version, uint64_t ticks)
        : low_(slot | ticks << 32), high_(version | static_cast<uint64_t>(kind) << 54 | ticks >> 32 << 56) {}

    uint32_t slot() const { return static_cast<uint32_t>(low_); }
    Kind kind() const { return static_cast<Kind>(high_ >> 54 & 3); }
    int64_t version() const { return static_cast<int64_t>(high_ & ((uint64_t{1} << 54) - 1)); }
    uint64_t ticks() const { return low_ >> 32 | high_ >> 56 << 32; }

   private:
    uint64_t low_, high_;
};

// A piece of a log.
struct NoteChunk {
    static constexpr uint32_t NOTES = 63;
    NoteChunk* next;
    uint64_t unused;
    Note notes[NOTES];
};

class NotePool {
   public:
    NoteChunk* take() {
        if (!free_) {
            grow();
        }
        NoteChunk* chunk = free_;
        free_ = chunk->next;
        return chunk;
    }
    void give_back(NoteChunk* chunk) {
        chunk->next = free_;
        free_ = chunk;
    }

   private:
    static constexpr size_t SLAB = 64, LARGE_SLAB = LARGE_PAGE_BYTES / sizeof(NoteChunk);
    static constexpr size_t SLABS = 16;  // that many small ones before the large ones

    void grow() {
        const size_t count = slabs_.size() < SLABS ? SLAB : LARGE_SLAB;
        void* memory = count == SLAB ? std::malloc(SLAB * sizeof(NoteChunk)) : large_memory(LARGE_PAGE_BYTES);
        if (!memory) {
            throw std::bad_alloc();
        }
        slabs_.emplace_back(static_cast<NoteChunk*>(memory));
        for (size_t n = count; n-- > 0;) {
            give_back(slabs_.back().get() + n);
        }
    }

    std::vector<std::unique_ptr<NoteChunk, FreeMemory>> slabs_;
    NoteChunk* free_ = nullptr;
};

// Copying one copies who owns its chunks: whoever holds it sees to it that only one lives on.
class NoteLog {
   public:
    bool empty() const { return size_ == 0; }
    uint32_t size() const { return size_; }
    // What the next note will be written to, so that memory can be asked for it beforehand.
    const void* tail() const { return tail_; }

    void push(const Note& note, NotePool& pool) {
        if (tail_ == end_) {
            grow(pool);
        }
        *tail_++ = note;
        ++size_;
    }

    // Appends the notes to `notes` in their order, and forgets them.
    void move_to(std::vector<Note>& notes, NotePool& pool) {
        uint32_t left = size_;
        for (NoteChunk* chunk = first_; chunk;) {
            NoteChunk* const next = chunk->next;
            const uint32_t count = left < NoteChunk::NOTES ? left : NoteChunk::NOTES;
            notes.insert(notes.end(), chunk->notes, chunk->notes + count);
            left -= count;
            pool.give_back(chunk);
            chunk = next;
        }
        *this = NoteLog();
    }

   private:
    void grow(NotePool& pool) {
        NoteChunk* chunk = pool.take();
        chunk->next = nullptr;
        if (first_) {
            last()->next = chunk;
        } else {
            first_ = chunk;
        }
        tail_ = chunk->notes;
        end_ = chunk->notes + NoteChunk::NOTES;
    }
    NoteChunk* last() const {
        return reinterpret_cast<NoteChunk*>(reinterpret_cast<char*>(end_ - NoteChunk::NOTES) - offsetof(NoteChunk, notes));
    }

    Note* tail_ = nullptr;
    Note* end_ = nullptr;
    NoteChunk* first_ = nullptr;
    uint32_t size_ = 0;
};

}  // namespace realtime
