// The memory of the R-tree: arrays that are addressed by 32-bit numbers instead of pointers.
//
// Law: an element keeps its number for ever and its address only until the array grows.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

namespace realtime::rtree_parts {

// An array that grows without a copy where the system can move pages (realloc). Begins at a cache line.
template <class T>
class Pool {
    static_assert(std::is_trivially_copyable_v<T>);

 public:
    Pool() = default;
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    ~Pool() { std::free(raw_); }

    T& operator[](size_t i) { return items_[i]; }
    const T& operator[](size_t i) const { return items_[i]; }
    size_t size() const { return size_; }
    // What it has touched since it was empty: more may be reserved, but is not resident.
    size_t bytes() const { return size_max_ * sizeof(T); }

    // Make it `size` long; what is new is not initialised.
    void grow(size_t size) {
        if (size > capacity_) {
            reserve(size);
        }
        size_ = size;
        size_max_ = size > size_max_ ? size : size_max_;
    }

    void release() {
        std::free(raw_);
        raw_ = nullptr;
        items_ = nullptr;
        size_ = size_max_ = capacity_ = 0;
    }

 private:
    static constexpr size_t LINE = 64;

    void reserve(size_t size) {
        const size_t capacity = size < 16 ? 16 : size + size / 2;
        const size_t offset = items_ ? static_cast<size_t>(reinterpret_cast<char*>(items_) - static_cast<char*>(raw_)) : 0;
        void* raw = std::realloc(raw_, capacity * sizeof(T) + LINE);
        if (!raw) {
            throw std::bad_alloc();
        }
        char* bytes = static_cast<char*>(raw);
        const size_t aligned = (LINE - reinterpret_cast<uintptr_t>(raw) % LINE) % LINE;
        if (aligned != offset && size_) {
            std::memmove(bytes + aligned, bytes + offset, size_ * sizeof(T));
        }
        raw_ = raw;
        items_ = reinterpret_cast<T*>(bytes + aligned);
        capacity_ = capacity;
    }

    void* raw_ = nullptr;
    T* items_ = nullptr;
    size_t size_ = 0, size_max_ = 0, capacity_ = 0;
};

}  // namespace realtime::rtree_parts
