// Memory in large pieces that is read and written here and there.
//
// Law: whoever asks for less than a few megabytes, or only once in a while, has no business here. Where the system has
// pages of 2 MiB it is asked for those: with pages of 4 KiB most of such accesses would miss the table of translations.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace realtime {

constexpr size_t LARGE_PAGE_BYTES = size_t{1} << 21;

// Not initialised; costs nothing before it is written to. To be given to std::free.
inline void* large_memory(size_t bytes) {
    bytes = (bytes + LARGE_PAGE_BYTES - 1) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    void* memory = std::aligned_alloc(LARGE_PAGE_BYTES, bytes);
    if (!memory) {
        throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    ::madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: where it is not granted, all is the same but slower
#endif
    return memory;
}

struct FreeMemory {
    void operator()(void* at) const { std::free(at); }
};

}  // namespace realtime
