// Counts of values over many orders of magnitude, each known to less than 1 %.
//
// Law: recording is an addition to one of 4,096 counters, without a branch on what was recorded before. The buckets are
// those of the floating-point format itself: 128 to each doubling, as in Gil Tene's HdrHistogram, found by a shift.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "json.h"

namespace bench {

class Histogram {
public:
    // Values below 1/2 count as 1/2, those from 2^31 on as that.
    void record(double value) {
        double held = std::min(std::max(value, LEAST), MOST);
        counts_[index_of(held)]++;
        most_ = std::max(most_, value);
        least_ = std::min(least_, value);
    }

    void restart() {
        std::fill(counts_.begin(), counts_.end(), 0);
        most_ = 0;
        least_ = MOST;
    }

    uint64_t count() const {
        uint64_t sum = 0;
        for (uint64_t each : counts_) {
            sum += each;
        }
        return sum;
    }

    // The value that this share of all does not exceed: the upper edge of its bucket, so never too good.
    double at_share(double share) const {
        uint64_t total = count(), running = 0;
        double wanted = share * static_cast<double>(total);
        for (size_t i = 0; i < counts_.size(); i++) {
            running += counts_[i];
            if (running != 0 && static_cast<double>(running) >= wanted) {
                return std::min(edge(i + 1), most_);
            }
        }
        return 0;
    }

    // In a unit that is `scale` of the recorded one.
    Json summary(double scale) const {
        Json made = Json::object();
        uint64_t total = count();
        made.set("count", total);
        if (total != 0) {
            made.set("min", least_ * scale).set("p50", at_share(0.5) * scale).set("p90", at_share(0.9) * scale);
            made.set("p99", at_share(0.99) * scale).set("p999", at_share(0.999) * scale).set("max", most_ * scale);
        }
        return made;
    }

    // [[value, count]] of the buckets that have any; a bucket's value is its middle.
    Json buckets() const {
        Json made = Json::array();
        for (size_t i = 0; i < counts_.size(); i++) {
            if (counts_[i] != 0) {
                Json pair = Json::array();
                pair.items.emplace_back((edge(i) + edge(i + 1)) / 2);
                pair.items.emplace_back(counts_[i]);
                made.items.push_back(std::move(pair));
            }
        }
        return made;
    }

private:
    static constexpr double LEAST = 0.5, MOST = 2147483647.0;
    static constexpr int SHIFT = 52 - 7;
    static constexpr uint64_t FIRST = uint64_t{1022} << 7;  // of the bucket that begins with 1/2

    static size_t index_of(double value) {
        uint64_t bits = 0;
        std::memcpy(&bits, &value, 8);
        return (bits >> SHIFT) - FIRST;
    }

    static double edge(size_t index) {
        uint64_t bits = (index + FIRST) << SHIFT;
        double value = 0;
        std::memcpy(&value, &bits, 8);
        return value;
    }

    std::vector<uint64_t> counts_ = std::vector<uint64_t>(32 * 128);
    double most_ = 0;
    double least_ = MOST;
};

}  // namespace bench
