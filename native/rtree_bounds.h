// The boxes of the R-tree: four float32, rounded outward.
//
// Law: the bounds of a box contain it, and no float32 box within them does.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "types.h"

namespace realtime::rtree_parts {

static_assert(std::numeric_limits<float>::is_iec559 && std::numeric_limits<double>::is_iec559, "rounding outward needs IEEE 754");

// min_x, min_y, -max_x, -max_y: so that all four sink as a box grows, and only one direction of rounding is needed.
struct alignas(16) Bounds {
    float low[4];
};

#if defined(__SSE2__)

inline __m128 load(const Bounds& a) { return _mm_load_ps(a.low); }

inline Bounds stored(__m128 v) {
    Bounds a;
    _mm_store_ps(a.low, v);
    return a;
}

// The least float32 box that contains the box. Where float32 has no such number, an infinity.
inline Bounds outward(const Box& box) {
    const __m128d least = _mm_loadu_pd(&box.min_x);
    const __m128d most = _mm_xor_pd(_mm_loadu_pd(&box.max_x), _mm_set1_pd(-0.0));
    const __m128 near_least = _mm_cvtpd_ps(least), near_most = _mm_cvtpd_ps(most);
    const __m128d over_least = _mm_cmpgt_pd(_mm_cvtps_pd(near_least), least);
    const __m128d over_most = _mm_cmpgt_pd(_mm_cvtps_pd(near_most), most);
    const __m128i bits = _mm_castps_si128(_mm_movelh_ps(near_least, near_most));
    const __m128i over = _mm_castps_si128(_mm_shuffle_ps(_mm_castpd_ps(over_least), _mm_castpd_ps(over_most), _MM_SHUFFLE(2, 0, 2, 0)));
    // The next float below: one less in the bits of a positive number, one more in those of a negative one.
    const __m128i step = _mm_or_si128(_mm_srai_epi32(bits, 31), _mm_set1_epi32(1));
    return stored(_mm_castsi128_ps(_mm_sub_epi32(bits, _mm_and_si128(step, over))));
}

inline Bounds unite(const Bounds& a, const Bounds& b) { return stored(_mm_min_ps(load(a), load(b))); }

inline bool covers(const Bounds& a, const Bounds& b) { return _mm_movemask_ps(_mm_cmple_ps(load(a), load(b))) == 15; }

inline bool same(const Bounds& a, const Bounds& b) { return _mm_movemask_ps(_mm_cmpeq_ps(load(a), load(b))) == 15; }

// What a box must have at most in each of its four numbers to touch this one.
inline Bounds reach(const Bounds& a) {
    const __m128 v = load(a);
    return stored(_mm_xor_ps(_mm_shuffle_ps(v, v, _MM_SHUFFLE(1, 0, 3, 2)), _mm_set1_ps(-0.0f)));
}

#else

inline Bounds outward(const Box& box) {
    const double exact[4] = {box.min_x, box.min_y, -box.max_x, -box.max_y};
    Bounds a;
    for (int d = 0; d < 4; ++d) {
        const float near = static_cast<float>(exact[d]);
        a.low[d] = static_cast<double>(near) > exact[d] ? std::nextafter(near, -std::numeric_limits<float>::infinity()) : near;
    }
    return a;
}

inline Bounds unite(const Bounds& a, const Bounds& b) {
    Bounds c;
    for (int d = 0; d < 4; ++d) {
        c.low[d] = a.low[d] < b.low[d] ? a.low[d] : b.low[d];
    }
    return c;
}

inline bool covers(const Bounds& a, const Bounds& b) {
    return a.low[0] <= b.low[0] && a.low[1] <= b.low[1] && a.low[2] <= b.low[2] && a.low[3] <= b.low[3];
}

inline bool same(const Bounds& a, const Bounds& b) {
    return a.low[0] == b.low[0] && a.low[1] == b.low[1] && a.low[2] == b.low[2] && a.low[3] == b.low[3];
}

inline Bounds reach(const Bounds& a) { return {{-a.low[2], -a.low[3], -a.low[0], -a.low[1]}}; }

#endif

inline float width(const Bounds& a) { return -(a.low[0] + a.low[2]); }
inline float height(const Bounds& a) { return -(a.low[1] + a.low[3]); }
inline float area(const Bounds& a) { return width(a) * height(a); }

inline float overlap(const Bounds& a, const Bounds& b) {
    const float w = -((a.low[0] > b.low[0] ? a.low[0] : b.low[0]) + (a.low[2] > b.low[2] ? a.low[2] : b.low[2]));
    const float h = -((a.low[1] > b.low[1] ? a.low[1] : b.low[1]) + (a.low[3] > b.low[3] ? a.low[3] : b.low[3]));
    return w > 0 && h > 0 ? w * h : 0.0f;
}

}  // namespace realtime::rtree_parts
