// What crosses the border of the native engine: boxes, geometries, updates, verdicts.
//
// Law: nothing here owns memory. A `string_view` lives as long as the call that it is an argument of. Every number that
// enters was found finite; `is_box` is the gate for those that become boxes.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace realtime {

// Degrees; ordered, finite. Boxes touch inclusively.
struct Box {
    double min_x, min_y, max_x, max_y;
};

inline bool meet(const Box& a, const Box& b) {
    return a.min_x <= b.max_x && b.min_x <= a.max_x && a.min_y <= b.max_y && b.min_y <= a.max_y;
}

// Without a branch: for where the answer is hard to foresee.
inline bool meet_evenly(const Box& a, const Box& b) {
    return (a.min_x <= b.max_x) & (b.min_x <= a.max_x) & (a.min_y <= b.max_y) & (b.min_y <= a.max_y);
}

inline bool operator==(const Box& a, const Box& b) {
    return a.min_x == b.min_x && a.min_y == b.min_y && a.max_x == b.max_x && a.max_y == b.max_y;
}

// Whether the box is finite and ordered; false for NaN.
inline bool is_box(const Box& box) {
    return std::isfinite(box.min_x) && std::isfinite(box.min_y) && std::isfinite(box.max_x) && std::isfinite(box.max_y) &&
           box.min_x <= box.max_x && box.min_y <= box.max_y;
}

enum class Op : uint8_t { UPSERT, PATCH, MOVE, DELETE };

enum class Verdict : uint8_t { ACCEPTED, UNCHANGED, STALE, UNKNOWN_ENTITY, TOO_MANY_BYTES, TOO_MANY_PROPERTIES, NO_VERSION_LEFT };

enum class Encoding : uint8_t { JSON, MSGPACK };

// A geometry in canonical JSON. `text` of a Point of two coordinates (`is_point`) is only `lon,lat`; of any other
// geometry it is the whole object.
struct Geometry {
    std::string_view text;
    Box boxes[2];
    uint8_t box_count = 0;  // 1, or 2 where it touches both 180 and -180; 0: there is no geometry
    bool is_point = false;
};

// A property that an update names: `name` is plain UTF-8, `json` its canonical JSON; empty: removed.
struct NamedProperty {
    std::string_view name;
    std::string_view json;
};

// One update, decoded and checked. What a `has_` denies was not named; an upsert names everything.
struct Update {
    Op op = Op::UPSERT;
    std::string_view id;   // plain UTF-8, 1 to 128 bytes
    uint64_t version = 0;  // 0: the engine gives one
    Geometry geometry;     // box_count 0: not named
    bool has_properties = false;
    const NamedProperty* properties = nullptr;  // names differ
    size_t property_count = 0;
    bool has_kind = false;
    std::string_view kind;  // empty: none
    bool has_min_zoom = false;
    double min_zoom = 0.0;
    bool has_rank = false;
    double rank = 0.0;  // 0..1, lower is more important
    bool has_access = false;
    const std::string_view* access = nullptr;  // principals, sorted by bytes, distinct
    size_t access_count = 0;
    bool has_ttl = false;
    double ttl = 0.0;  // seconds; 0: it does not expire
};

}  // namespace realtime
