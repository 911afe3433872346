// What a group of viewers received and applied, and everything that was wrong with it.
//
// Law: `restart()` forgets what was counted and measured; a fault is never forgiven.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "histogram.h"

namespace bench {

// When changes are due: the one with version `first + n` at `start + n * step`, in microseconds of the monotonic clock.
struct Schedule {
    bool is_set = false;
    double start_us = 0;
    double step_us = 0;
    uint32_t first = 0;

    bool covers(uint32_t version) const { return is_set && version >= first; }
    double due_us(uint32_t version) const { return start_us + static_cast<double>(version - first) * step_us; }
};

struct Group {
    static constexpr size_t EXAMPLE_CHARS_MAX = 200;

    std::string name;
    uint64_t frames = 0;  // deltas
    uint64_t bytes = 0;   // of them, WebSocket headers included
    uint64_t enters = 0, moves = 0, patches = 0, leaves = 0;
    uint64_t resets = 0;
    uint64_t messages = 0;    // that are no deltas
    uint64_t unmeasured = 0;  // changes from before the schedule
    Histogram waits;          // microseconds from due to received and applied, of changes
    Histogram answers;        // microseconds from sending a view to the first delta that carries its id
    Histogram sizes;          // bytes of frames
    std::map<std::string, uint64_t> faults;
    std::map<std::string, std::string> examples;  // of each, the first
    std::map<std::string, uint64_t> closed;       // connections, by how they ended

    uint64_t deltas() const { return enters + moves + patches + leaves; }

    void restart() {
        frames = bytes = enters = moves = patches = leaves = resets = messages = unmeasured = 0;
        waits.restart();
        answers.restart();
        sizes.restart();
    }

    void fault(const std::string& what, std::string_view example = {}) {
        if (faults[what]++ == 0 && !example.empty()) {
            std::string& shown = examples[what];
            for (char one : example.substr(0, EXAMPLE_CHARS_MAX)) {
                shown += one >= ' ' && one <= '~' ? one : '.';
            }
        }
    }

    Json summary() const {
        Json made = Json::object();
        made.set("frames", frames).set("bytes", bytes).set("deltas", deltas());
        made.set("enters", enters).set("moves", moves).set("patches", patches).set("leaves", leaves).set("resets", resets);
        made.set("messages", messages).set("unmeasured", unmeasured);
        made.set("waits_ms", waits.summary(1e-3)).set("answers_ms", answers.summary(1e-3)).set("sizes", sizes.buckets());
        made.set("faults", counts(faults)).set("closed", counts(closed));
        Json shown = Json::object();
        for (const auto& [what, example] : examples) {
            shown.set(what, example);
        }
        made.set("examples", std::move(shown));
        return made;
    }

    static Json counts(const std::map<std::string, uint64_t>& from) {
        Json made = Json::object();
        for (const auto& [what, count] : from) {
            made.set(what, count);
        }
        return made;
    }
};

}  // namespace bench
