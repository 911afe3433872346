// A delta as it was read from a frame, before anything of it is applied.
//
// Law: reading tells of every entity in it, whichever level of care the connection has; what is wrong with the frame
// itself is a text, nullptr if nothing is. One `Delta` serves all frames: it is emptied and keeps its room.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "table.h"

namespace bench {

// How much of a connection is checked.
enum class Level : uint8_t {
    COUNT,     // frames are read in full, and entities counted
    VERSIONS,  // the version of every entity that it holds
    WHOLE,     // places and properties as well
};

struct Change {
    uint32_t key;
    uint32_t version;
};

enum class Reason : uint8_t { DELETED, EXPIRED, DENIED, VIEW, MOVED, FILTERED, UNKNOWN };
constexpr const char* REASONS[] = {"deleted", "expired", "denied", "view", "moved", "filtered"};

inline Reason to_reason(std::string_view name) {
    for (size_t i = 0; i < 6; i++) {
        if (name == REASONS[i]) {
            return static_cast<Reason>(i);
        }
    }
    return Reason::UNKNOWN;
}

struct Leave {
    uint32_t key;
    Reason reason;
};

// Of an `enter` or `patch`, where the level is WHOLE.
struct Detail {
    Place place;
    bool has_place = false;
    uint32_t kind = 0;
    uint32_t properties_end = 0;  // in `Delta::properties`; they begin where those of the detail before end
};

struct Delta {
    uint64_t seq = 0;
    int64_t view = -1;  // -1: none, or not a number
    bool is_reset = false;
    bool has_more = false;
    bool has_total = false;
    double total = 0;
    double sampled = 1;
    std::vector<Leave> leaves;
    std::vector<Change> enters, moves, patches;
    std::vector<Place> move_places;      // one for each move, where the level is WHOLE
    std::vector<Detail> enter_details, patch_details;
    std::vector<Property> properties;

    void restart() {
        seq = 0;
        view = -1;
        is_reset = has_more = has_total = false;
        total = 0;
        sampled = 1;
        leaves.clear();
        enters.clear();
        moves.clear();
        patches.clear();
        move_places.clear();
        enter_details.clear();
        patch_details.clear();
        properties.clear();
    }

    size_t entities() const { return leaves.size() + enters.size() + moves.size() + patches.size(); }
};

}  // namespace bench
