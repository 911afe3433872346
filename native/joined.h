// Bytes that are joined from many short pieces.
//
// Law: it grows and keeps its memory. Where pieces come from memory that may be read a little beyond them, they are copied
// in steps of 16 bytes, which for the usual ones is less than the call of a function.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

#include "memory.h"

namespace realtime {

class Joined {
   public:
    static constexpr size_t STEP = 16;

    void clear() { size_ = 0; }
    size_t size() const { return size_; }
    std::string_view view() const { return {bytes_.get(), size_}; }

    void add(std::string_view piece) {
        make_room(piece.size());
        std::memcpy(bytes_.get() + size_, piece.data(), piece.size());
        size_ += piece.size();
    }

    // As many bytes of the piece may be read as it takes to come to a multiple of STEP, and one step at least.
    void add_padded(std::string_view piece) {
        make_room(piece.size() + STEP);
        const char* from = piece.data();
        char* to = bytes_.get() + size_;
        for (char* const end = to + piece.size();;) {
            std::memcpy(to, from, STEP);
            to += STEP;
            from += STEP;
            if (to >= end) {
                break;
            }
        }
        size_ += piece.size();
    }

   private:
    void make_room(size_t bytes) {
        if (size_ + bytes > capacity_) {
            grow(bytes);
        }
    }

    void grow(size_t bytes) {
        const size_t capacity = std::max<size_t>(2 * capacity_, size_ + bytes + 1024);
        void* memory = std::realloc(bytes_.get(), capacity);
        if (!memory) {
            throw std::bad_alloc();
        }
        (void)bytes_.release();
        bytes_.reset(static_cast<char*>(memory));
        capacity_ = capacity;
    }

    std::unique_ptr<char, FreeMemory> bytes_;
    size_t size_ = 0, capacity_ = 0;
};

}  // namespace realtime
