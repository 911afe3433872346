// What the viewers of a peer were told, against what a perfect server would have told them.
//
// Law: a wait counts from when its change was due, whether or not anybody was late; what never came counts as for ever.
// A (change, viewer) pair is wanted where the view shows the new place, or showed the old one and is told of the leaving.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "peer_city.h"

constexpr double WAIT_STEP_S = 1e-4;
constexpr size_t WAIT_STEPS = 300'000; // 30 s; what waited longer is in the last

struct Schedule {
    double start = 0, rate = 1; // s on the monotonic clock, changes/s
    double due(size_t move) const { return start + static_cast<double>(move) / rate; }
};

// What was expected and what came of the changes that were due in the window.
struct Judged {
    uint64_t expected = 0, came = 0;
    double p50_s = 0, p99_s = 0, max_s = 0; // infinite where too few came
    double growth_s = 0;                    // by how much the mean wait of the last quarter exceeds that of the first
};

struct Mirrors {
    uint64_t compared = 0, wrong = 0, entities = 0; // wrong: mirrors with at least one of the following
    uint64_t missing = 0, stale = 0, ghosts = 0;    // entities not held, held in an old version, held though out of view
};

class Tally {
  public:
    Schedule schedule;
    size_t first_move = 0, end_move = 0;            // those due in the window
    double begin = 0, end = 1e300;                  // the window, in which arrivals are counted
    uint64_t wanted = 0, left = 0, over_fetched = 0; // arrivals in the window
    uint64_t backwards = 0, distorted = 0;          // older than what was held; not what was published
    double silence_max_s = 0, last_arrival = 0;
    double wait_last_s = 0; // of what came last

    Tally(const City& city, size_t sampled) : city_(city), waits_(WAIT_STEPS), place_of_(city.views.size(), -1) {
        sampled = std::min(sampled, city.views.size());
        for (size_t number = 0; number < sampled; ++number) {
            place_of_[number * city.views.size() / sampled] = static_cast<int>(number);
        }
        held_.assign(sampled, std::vector<uint64_t>(city.first.size()));
    }

    bool is_sampled(uint32_t viewer) const { return place_of_[viewer] >= 0; }

    // A viewer was told of a change. `is_extra`: it learns of it by another message too.
    void told(uint32_t viewer, uint64_t version, double now, bool is_extra = false) {
        last_arrival = now;
        if (version <= city_.first.size()) return; // the fill
        const size_t move = version - city_.first.size() - 1;
        const View& view = city_.views[viewer];
        const bool shows = view.shows(city_.moved[move].lon, city_.moved[move].lat);
        const bool leaves = !shows && view.shows(city_.left[move].lon, city_.left[move].lat);
        const bool is_wanted = (shows || leaves) && !is_extra;
        if (now >= begin && now < end) {
            silence_max_s = std::max(silence_max_s, now - std::max(last_in_window_, begin));
            last_in_window_ = now;
            (!is_wanted ? over_fetched : leaves ? left : wanted) += 1;
        }
        if (!is_wanted) return;
        wait_last_s = now - schedule.due(move);
        if (move < first_move || move >= end_move) return;
        waits_[std::min<size_t>(WAIT_STEPS - 1, static_cast<size_t>(std::max(0.0, wait_last_s) / WAIT_STEP_S))] += 1;
        const size_t quarter = 4 * (move - first_move) / (end_move - first_move);
        sums_[quarter] += wait_last_s;
        counts_[quarter] += 1;
    }

    // A sampled viewer takes the state that it was told into its mirror.
    void hold(uint32_t viewer, uint32_t entity, uint64_t version, double lon, double lat, bool is_gone = false) {
        if (entity >= city_.first.size()) return void(++distorted);
        const size_t move = version - city_.first.size() - 1;
        const bool is_first = version <= city_.first.size();
        if (!is_first && (move >= city_.moved.size() || city_.entities[move] != entity)) return void(++distorted);
        const Place& place = is_first ? city_.first[entity] : city_.moved[move];
        if (place.lon != lon || place.lat != lat) ++distorted;
        uint64_t& held = held_[static_cast<size_t>(place_of_[viewer])][entity];
        if (version < held) ++backwards;
        held = !is_gone && city_.views[viewer].shows(lon, lat) ? version : 0;
    }

    // Compares the mirrors with every entity against every sampled view, after so many moves.
    Mirrors compare(size_t moves) const {
        std::vector<Place> places = city_.first;
        std::vector<uint64_t> versions(places.size());
        for (size_t entity = 0; entity < versions.size(); ++entity) versions[entity] = entity + 1;
        for (size_t move = 0; move < moves; ++move) {
            places[city_.entities[move]] = city_.moved[move];
            versions[city_.entities[move]] = city_.first.size() + 1 + move;
        }
        Mirrors found;
        for (size_t viewer = 0; viewer < place_of_.size(); ++viewer) {
            if (place_of_[viewer] < 0) continue;
            const auto& held = held_[static_cast<size_t>(place_of_[viewer])];
            const uint64_t before = found.missing + found.stale + found.ghosts;
            for (size_t entity = 0; entity < places.size(); ++entity) {
                const bool shows = city_.views[viewer].shows(places[entity].lon, places[entity].lat);
                found.entities += shows;
                found.missing += shows && held[entity] == 0;
                found.stale += shows && held[entity] != 0 && held[entity] != versions[entity];
                found.ghosts += !shows && held[entity] != 0;
            }
            found.compared += 1;
            found.wrong += found.missing + found.stale + found.ghosts != before;
        }
        return found;
    }

    // Judges the window; `tells_leaving`: whether this peer says that an entity left a view.
    Judged judge(bool tells_leaving) const {
        Judged found;
        for (size_t move = first_move; move < end_move; ++move) {
            const Place &old = city_.left[move], &now = city_.moved[move];
            for (const View& view : city_.views) {
                found.expected += view.shows(now.lon, now.lat) || (tells_leaving && view.shows(old.lon, old.lat));
            }
        }
        for (uint64_t count : waits_) found.came += count;
        found.p50_s = percentile(found.expected, 0.5);
        found.p99_s = percentile(found.expected, 0.99);
        for (size_t step = WAIT_STEPS; step-- > 0 && found.max_s == 0;) {
            if (waits_[step]) found.max_s = static_cast<double>(step + 1) * WAIT_STEP_S;
        }
        if (counts_[0] && counts_[3]) {
            found.growth_s = sums_[3] / static_cast<double>(counts_[3]) - sums_[0] / static_cast<double>(counts_[0]);
        }
        return found;
    }

  private:
    const City& city_;
    std::vector<uint64_t> waits_;
    std::vector<int> place_of_; // of a viewer among the sampled; -1: none
    std::vector<std::vector<uint64_t>> held_;
    double sums_[4] = {}, last_in_window_ = 0;
    uint64_t counts_[4] = {};

    double percentile(uint64_t expected, double share) const {
        uint64_t running = 0;
        for (size_t step = 0; step < WAIT_STEPS; ++step) {
            running += waits_[step];
            if (static_cast<double>(running) >= static_cast<double>(expected) * share) return static_cast<double>(step + 1) * WAIT_STEP_S;
        }
        return INFINITY;
    }
};
