// Faults that the engine can be given on purpose, one at a time, so that tests can show that each would be noticed.
//
// Law: BROKEN(fault) is the constant false, and nothing of a fault is compiled, unless REALTIME_FAULTS is defined. Only
// tests/faulty_engine.py defines it, for a build of its own. There BROKEN asks whether the fault is in force: for every
// occasion, or for the first one in so many. A fault stands where it would be made, and says what the engine then does.

#pragma once

#ifndef REALTIME_FAULTS

#define BROKEN(fault) false

#else

#include <cstdint>
#include <string_view>

#define BROKEN(fault) ::realtime::is_broken(::realtime::Fault::fault)

#define REALTIME_FAULTS_ALL(FAULT)              \
    FAULT(SKIPS_THE_OLD_BOX)                    \
    FAULT(SKIPS_THE_NEW_BOX)                    \
    FAULT(LOSES_THE_HELD_VERSION)               \
    FAULT(LOSES_OFFERS)                         \
    FAULT(ANNOUNCES_WHAT_CAME_AND_WENT)         \
    FAULT(INDEXES_ONE_BOX_OF_AN_ENTITY)         \
    FAULT(INDEXES_ONE_BOX_OF_A_VIEW)            \
    FAULT(OFFERS_NOTHING_WHEN_RIGHTS_CHANGE)    \
    FAULT(KEEPS_A_STALE_SAMPLE)                 \
    FAULT(KEEPS_THE_OLD_THRESHOLD)              \
    FAULT(BELIEVES_ALL_OF_HAVE)                 \
    FAULT(TELLS_PATCHES_FROM_THE_LAST_VERSION)  \
    FAULT(TELLS_MOVES_ALONE)                    \
    FAULT(TELLS_A_CHANGED_KIND_BY_A_PATCH)      \
    FAULT(TELLS_A_PATCH_ACROSS_A_DEATH)         \
    FAULT(FORGETS_REMOVED_PROPERTIES)           \
    FAULT(BELIEVES_STALE_PIECES)                \
    FAULT(BELIEVES_A_PATCH_FOR_OTHERS)          \
    FAULT(TELLS_LEAVES_LAST)                    \
    FAULT(LETS_HAVE_ASK)                        \
    FAULT(BUMPS_THE_VERSION_OF_NOTHING)         \
    FAULT(FORGETS_THE_SEEN_VERSION)             \
    FAULT(NEVER_RENEWS_A_DEADLINE)              \
    FAULT(DELAYS_WHAT_WAS_REVOKED)              \
    FAULT(REMEMBERS_WHAT_A_FILTER_SAID)         \
    FAULT(STAYS_PUBLIC)                         \
    FAULT(TAKES_OVER_LOWER_WIRE_VERSIONS)       \
    FAULT(BRINGS_THE_DEAD_BACK_OLDER)           \
    FAULT(KEEPS_UNCHANGED_UPDATES_TO_ITSELF)    \
    FAULT(KEEPS_WHAT_IT_WAS_TOLD_TO_ITSELF)     \
    FAULT(FORGETS_WHAT_IS_OWED)                 \
    FAULT(KILLS_WHAT_IS_NOT_TOLD_YET)           \
    FAULT(LOSES_PINS_OF_FEEDS)                  \
    FAULT(LOSES_PINS)                           \
    FAULT(FREES_GHOSTS_TOO_EARLY)

namespace realtime {

#define REALTIME_FAULT_ENUMERATOR(name) name,
enum class Fault : uint32_t { NONE, REALTIME_FAULTS_ALL(REALTIME_FAULT_ENUMERATOR) };
#undef REALTIME_FAULT_ENUMERATOR

struct FaultInForce {
    Fault fault = Fault::NONE;
    uint32_t period = 1;  // it happens on the first of so many occasions, and so on
    uint32_t occasions = 0;
};

inline FaultInForce fault_in_force;

inline bool is_broken(Fault fault) {
    FaultInForce& now = fault_in_force;
    return now.fault == fault && now.occasions++ % now.period == 0;
}

}  // namespace realtime

// Puts the fault of that name in force, whatever was before; any other name: none. Returns whether there is one.
extern "C" __attribute__((used, visibility("default"))) inline bool realtime_break(const char* name, uint32_t period) {
    using realtime::Fault;
    Fault fault = Fault::NONE;
#define REALTIME_FAULT_BY_NAME(known) fault = std::string_view(name) == #known ? Fault::known : fault;
    REALTIME_FAULTS_ALL(REALTIME_FAULT_BY_NAME)
#undef REALTIME_FAULT_BY_NAME
    realtime::fault_in_force = {fault, period ? period : 1, 0};
    return fault != Fault::NONE;
}

#endif
