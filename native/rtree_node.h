// A node of the R-tree, and how its entries are searched, chosen from and divided.
//
// Law: an entry that is not used is NaN, which touches nothing and grows least for nothing; so nothing here needs to know how
// many are used. Used slots come first.

#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "rtree_bounds.h"

namespace realtime::rtree_parts {

constexpr uint32_t NONE = 0xffffffffu;

// More entries to a node make the tree lower and every search and insertion cheaper; 32 is the most that one mask holds, and
// measured better than 16 in everything.
constexpr uint32_t FAN = 32;
constexpr uint32_t ALL = FAN + 1;     // what a split divides
constexpr uint32_t LEAST = 8;         // with fewer, a node is dissolved and its entries are inserted anew
constexpr uint32_t SPLIT_LEAST = 12;  // a split leaves at least so many on either side; more lopsided ones made searches slower

struct alignas(64) Node {
    float low[4][FAN];    // as `Bounds`, an array for each number; two cache lines each
    uint32_t child[FAN];  // a node, or in a leaf a handle

    Bounds bounds_at(uint32_t slot) const { return {{low[0][slot], low[1][slot], low[2][slot], low[3][slot]}}; }

    void set_bounds(uint32_t slot, const Bounds& bounds) {
        for (int d = 0; d < 4; ++d) {
            low[d][slot] = bounds.low[d];
        }
    }

    void blank(uint32_t slot) {
        for (int d = 0; d < 4; ++d) {
            low[d][slot] = std::numeric_limits<float>::quiet_NaN();
        }
        child[slot] = NONE;
    }

    void prefetch() const {
        for (size_t at = 0; at < sizeof(Node); at += 64) {
            __builtin_prefetch(reinterpret_cast<const char*>(this) + at, 0, 3);
        }
    }

    // The slot of a child, which the node must have.
    uint32_t slot_of(uint32_t wanted) const {
#if defined(__SSE2__)
        const __m128i four_wanted = _mm_set1_epi32(static_cast<int>(wanted));
        for (uint32_t slot = 0; slot < FAN; slot += 4) {
            const __m128i four = _mm_load_si128(reinterpret_cast<const __m128i*>(child + slot));
            if (const int hit = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(four, four_wanted)))) {
                return slot + static_cast<uint32_t>(__builtin_ctz(static_cast<unsigned>(hit)));
            }
        }
#else
        for (uint32_t slot = 0; slot < FAN; ++slot) {
            if (child[slot] == wanted) {
                return slot;
            }
        }
#endif
        assert(false);
        return 0;
    }

    // A bit for each entry of the node that has at most `most` in all four numbers.
    uint32_t touching(const Bounds& most) const {
        uint32_t mask = 0;
#if defined(__SSE2__)
        const __m128 all = load(most);
        const __m128 most_0 = _mm_shuffle_ps(all, all, 0x00), most_1 = _mm_shuffle_ps(all, all, 0x55);
        const __m128 most_2 = _mm_shuffle_ps(all, all, 0xaa), most_3 = _mm_shuffle_ps(all, all, 0xff);
        for (uint32_t slot = 0; slot < FAN; slot += 16) {
            __m128i four[4];
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t at = slot + 4 * i;
                const __m128 x = _mm_and_ps(_mm_cmple_ps(_mm_load_ps(low[0] + at), most_0), _mm_cmple_ps(_mm_load_ps(low[2] + at), most_2));
                const __m128 y = _mm_and_ps(_mm_cmple_ps(_mm_load_ps(low[1] + at), most_1), _mm_cmple_ps(_mm_load_ps(low[3] + at), most_3));
                four[i] = _mm_castps_si128(_mm_and_ps(x, y));
            }
            const __m128i bytes = _mm_packs_epi16(_mm_packs_epi32(four[0], four[1]), _mm_packs_epi32(four[2], four[3]));
            mask |= static_cast<uint32_t>(_mm_movemask_epi8(bytes)) << slot;
        }
#else
        for (uint32_t slot = 0; slot < FAN; ++slot) {
            const bool touches = low[0][slot] <= most.low[0] && low[1][slot] <= most.low[1] &&
                                 low[2][slot] <= most.low[2] && low[3][slot] <= most.low[3];
            mask |= static_cast<uint32_t>(touches) << slot;
        }
#endif
        return mask;
    }

    // The least bounds that cover what the node holds.
    Bounds least_bounds() const {
        Bounds least;
        for (int d = 0; d < 4; ++d) {
#if defined(__SSE2__)
            // MINPS gives its second operand where the first is NaN: unused entries count for nothing.
            __m128 four = _mm_set1_ps(std::numeric_limits<float>::infinity());
            for (uint32_t slot = 0; slot < FAN; slot += 4) {
                four = _mm_min_ps(_mm_load_ps(low[d] + slot), four);
            }
            four = _mm_min_ps(four, _mm_movehl_ps(four, four));
            four = _mm_min_ss(four, _mm_shuffle_ps(four, four, 1));
            least.low[d] = _mm_cvtss_f32(four);
#else
            least.low[d] = std::numeric_limits<float>::infinity();
            for (uint32_t slot = 0; slot < FAN; ++slot) {
                least.low[d] = low[d][slot] < least.low[d] ? low[d][slot] : least.low[d];
            }
#endif
        }
        return least;
    }

    // The entry whose area grows least if it is to cover the bounds; of equal ones that with the least area.
    uint32_t choose(const Bounds& bounds) const {
#if defined(__SSE2__)
        const __m128 all = load(bounds);
        const __m128 low_0 = _mm_shuffle_ps(all, all, 0x00), low_1 = _mm_shuffle_ps(all, all, 0x55);
        const __m128 low_2 = _mm_shuffle_ps(all, all, 0xaa), low_3 = _mm_shuffle_ps(all, all, 0xff);
        const __m128 inf = _mm_set1_ps(std::numeric_limits<float>::infinity());
        __m128 growths[FAN / 4], areas[FAN / 4], least = inf;
        for (uint32_t i = 0; i < FAN / 4; ++i) {
            const __m128 x0 = _mm_load_ps(low[0] + 4 * i), y0 = _mm_load_ps(low[1] + 4 * i);
            const __m128 x1 = _mm_load_ps(low[2] + 4 * i), y1 = _mm_load_ps(low[3] + 4 * i);
            const __m128 wide = _mm_add_ps(_mm_min_ps(low_0, x0), _mm_min_ps(low_2, x1));
            const __m128 high = _mm_add_ps(_mm_min_ps(low_1, y0), _mm_min_ps(low_3, y1));
            areas[i] = _mm_mul_ps(_mm_add_ps(x0, x1), _mm_add_ps(y0, y1));
            growths[i] = _mm_sub_ps(_mm_mul_ps(wide, high), areas[i]);
            least = _mm_min_ps(growths[i], least);  // the growth of an unused entry is NaN, and MINPS then gives `least`
        }
        least = across(least);
        __m128 smallest = inf;
        for (uint32_t i = 0; i < FAN / 4; ++i) {
            const __m128 is_least = _mm_cmpeq_ps(growths[i], least);
            areas[i] = _mm_or_ps(_mm_and_ps(is_least, areas[i]), _mm_andnot_ps(is_least, inf));
            smallest = _mm_min_ps(areas[i], smallest);
        }
        smallest = across(smallest);
        for (uint32_t i = 0; i < FAN / 4; ++i) {
            if (const int hit = _mm_movemask_ps(_mm_cmpeq_ps(areas[i], smallest))) {
                // Where infinities leave nothing to choose by, all areas are infinite by now, and this is the first entry.
                return 4 * i + static_cast<uint32_t>(__builtin_ctz(static_cast<unsigned>(hit)));
            }
        }
        return 0;
#else
        uint32_t best = 0;
        float best_growth = std::numeric_limits<float>::infinity(), best_area = best_growth;
        for (uint32_t slot = 0; slot < FAN; ++slot) {
            const Bounds entry = bounds_at(slot);
            const float before = area(entry), growth = area(unite(entry, bounds)) - before;
            if (growth < best_growth || (growth == best_growth && before < best_area)) {
                best = slot, best_growth = growth, best_area = before;
            }
        }
        return best;
#endif
    }

#if defined(__SSE2__)
 private:
    static __m128 across(__m128 v) {
        v = _mm_min_ps(v, _mm_shuffle_ps(v, v, _MM_SHUFFLE(1, 0, 3, 2)));
        return _mm_min_ps(v, _mm_shuffle_ps(v, v, _MM_SHUFFLE(2, 3, 0, 1)));
    }
#endif
};

// A way to split: the first `at` entries in the order of the axis from the rest.
struct Cut {
    float overlap, area;
    uint32_t axis, at;
};

// The order of ALL entries by centre along the axis: 0 is longitude, 1 latitude.
inline void order_by_centre(const Bounds* entries, uint32_t axis, uint8_t* order) {
    // An entry's rank is the number of those before it, which a processor counts in less time than it sorts so few. The
    // centres are compared as whole numbers in the order of the floats, because among those even NaN, as two infinities
    // make, has a place: ranks must be all different.
    int32_t keys[ALL];
    for (uint32_t i = 0; i < ALL; ++i) {
        const float twice_centre = entries[i].low[axis] - entries[i].low[axis + 2];
        int32_t bits;
        std::memcpy(&bits, &twice_centre, sizeof(bits));
        keys[i] = bits ^ static_cast<int32_t>(static_cast<uint32_t>(bits >> 31) >> 1);
    }
    int32_t ranks[ALL] = {};
    for (uint32_t j = 0; j < ALL; ++j) {
        const int32_t key = keys[j];
        for (uint32_t i = 0; i < ALL; ++i) {
            ranks[i] += (key < keys[i]) | ((key == keys[i]) & (j < i));
        }
    }
    for (uint32_t i = 0; i < ALL; ++i) {
        order[ranks[i]] = static_cast<uint8_t>(i);
    }
}

// Compare with `best` every place where the order can be cut, and keep the best.
inline void best_cut(const Bounds* entries, const uint8_t* order, uint32_t axis, Cut& best) {
    Bounds after[ALL];  // after[i] covers what is in place i and later
    after[ALL - 1] = entries[order[ALL - 1]];
    for (uint32_t i = ALL - 1; i-- > SPLIT_LEAST;) {
        after[i] = unite(after[i + 1], entries[order[i]]);
    }
    Bounds before = entries[order[0]];
    for (uint32_t at = 1; at <= ALL - SPLIT_LEAST; ++at) {
        if (at >= SPLIT_LEAST) {
            const float shared = overlap(before, after[at]);
            const float both = area(before) + area(after[at]);
            if (shared < best.overlap || (shared == best.overlap && both < best.area)) {
                best = {shared, both, axis, at};
            }
        }
        before = unite(before, entries[order[at]]);
    }
}

// Order the entries along one axis or the other so that they are best divided at the place that is returned: there the two
// parts overlap least, or of equal ones have the least area.
inline uint32_t divide(const Bounds* entries, uint8_t* order) {
    uint8_t other[ALL];
    Cut best = {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity(), 0, ALL / 2};
    order_by_centre(entries, 0, order);
    order_by_centre(entries, 1, other);
    best_cut(entries, order, 0, best);
    best_cut(entries, other, 1, best);
    if (best.axis == 1) {
        std::memcpy(order, other, ALL);
    }
    return best.at;
}

}  // namespace realtime::rtree_parts
