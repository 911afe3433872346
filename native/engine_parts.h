// What the parts of the engine share: its bounds, and the gate that nothing wrong gets through.
//
// Law: included by the engine's own sources and by nothing else.

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "types.h"

namespace realtime {

constexpr double STATISTICS_INTERVAL_S = 1.0;  // `total` and `sampled` are told again at most this often
constexpr int64_t FRAME_HEAD_BYTES = 256;      // what the members of a delta other than its entities and the view's id take, at most
constexpr double NEAR_DEGREES = 0.5;           // an entity that moved less is searched for once, with a box around old and new
constexpr size_t AHEAD = 10;                   // how far memory is asked for before it is needed

inline void gate(bool is_right, const char* what) {
    if (!is_right) {
        throw std::invalid_argument(what);
    }
}

}  // namespace realtime
