// Times the R-tree of the engine, or that of Boost.Geometry, on the same boxes.
//
//     rtree realtime|boost|workload viewports|points COUNT SEED
//
// Law: both get the same boxes in the same order, and what a search finds is read and added up, so that neither compiler
// nor tree can leave out the work. One tree a process, so that neither inherits the other's memory. Time is that of the
// thread, which others on the machine cannot lengthen by taking the core. `bench/rtree.py` starts this.
//
// `viewports`: boxes with half widths of 0.02 to 0.06 degrees, centred like people: gaussian (sigma 0.1 degrees) around one
// city, or from 100,000 boxes on around 1,000 cities over the world whose populations are Zipf's; searched at points drawn
// alike. `points`: points so drawn, searched with viewports. A pan is a step of a third of a viewport, of a point some 10 m;
// a jump goes wherever people are. A walk is 100 pans for every box, after which searches are timed again, and once more
// in a tree that was built anew from where the boxes are then: the difference is what moving did to the tree.

#include <ctime>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <boost/geometry.hpp>
#include <boost/geometry/index/rtree.hpp>

#include "../../native/rtree.h"

namespace {

using realtime::Box;

constexpr double SIGMA = 0.1, PAN = 0.02, STEP = 1e-4;
constexpr size_t CITIES = 1000, MANY = 100'000, MOVES = 100'000, WALK_MAX = 1'000'000;

struct Move {
    uint32_t handle;
    Box box;
};

struct Workload {
    std::vector<Box> boxes, queries, walked;  // `walked`: where they are after all moves
    std::vector<Move> pans, jumps, walks;
};

class People {
 public:
    People(size_t count, uint64_t seed) : random_(seed) {
        std::vector<double> populations;
        for (size_t i = 0; i < (count < MANY ? 1 : CITIES); ++i) {
            centres_.push_back({uniform(-170, 170), uniform(-60, 70)});
            populations.push_back(1.0 / static_cast<double>(i + 1));
        }
        city_ = std::discrete_distribution<size_t>(populations.begin(), populations.end());
    }

    double uniform(double least, double most) { return std::uniform_real_distribution<double>(least, most)(random_); }
    uint32_t below(size_t count) { return static_cast<uint32_t>(std::uniform_int_distribution<size_t>(0, count - 1)(random_)); }

    Box point() {
        const auto& [lon, lat] = centres_[city_(random_)];
        const double x = lon + SIGMA * normal_(random_), y = lat + SIGMA * normal_(random_);
        return {x, y, x, y};
    }

    Box viewport() {
        const Box at = point();
        const double w = uniform(0.02, 0.06), h = uniform(0.02, 0.06);
        return {at.min_x - w, at.min_y - h, at.max_x + w, at.max_y + h};
    }

    Box shifted(const Box& box, double step) {
        const double x = step * normal_(random_), y = step * normal_(random_);
        return {box.min_x + x, box.min_y + y, box.max_x + x, box.max_y + y};
    }

 private:
    std::mt19937_64 random_;
    std::normal_distribution<double> normal_;
    std::discrete_distribution<size_t> city_;
    std::vector<std::pair<double, double>> centres_;
};

Workload make(bool are_points, size_t count, uint64_t seed) {
    People people(count, seed);
    Workload made;
    for (size_t i = 0; i < count; ++i) {
        made.boxes.push_back(are_points ? people.point() : people.viewport());
    }
    for (size_t i = 0; i < (count < MANY ? 10'000u : 2'000u); ++i) {
        made.queries.push_back(are_points ? people.viewport() : people.point());
    }
    made.walked = made.boxes;
    auto add = [&](std::vector<Move>& moves, size_t how_many, bool is_jump) {
        for (size_t i = 0; i < how_many; ++i) {
            const uint32_t handle = people.below(count);
            Box& box = made.walked[handle];
            box = !is_jump ? people.shifted(box, are_points ? STEP : PAN) : are_points ? people.point() : people.viewport();
            moves.push_back({handle, box});
        }
    };
    add(made.pans, MOVES, false);
    add(made.jumps, MOVES, true);
    add(made.walks, 100 * count <= WALK_MAX ? 100 * count : 0, false);
    return made;
}

class Ours {
 public:
    explicit Ours(size_t) {}
    void insert(uint32_t handle, const Box& box) { tree_.insert(handle, box); }
    void move(uint32_t handle, const Box& box) { tree_.move(handle, box); }
    void erase(uint32_t handle) { tree_.erase(handle); }

    template <class Found>
    void search(const Box& box, Found&& found) const {
        tree_.search(box, found);
    }

    size_t bytes() const { return tree_.bytes(); }

 private:
    realtime::RTree tree_;
};

// It removes by value, so whoever moves boxes keeps them.
class Boosts {
 public:
    explicit Boosts(size_t count) : areas_(count) {}
    void insert(uint32_t handle, const Box& box) { tree_.insert({areas_[handle] = area(box), handle}); }
    void erase(uint32_t handle) { tree_.remove({areas_[handle], handle}); }

    void move(uint32_t handle, const Box& box) {
        erase(handle);
        insert(handle, box);
    }

    template <class Found>
    void search(const Box& box, Found&& found) const {
        tree_.query(boost::geometry::index::intersects(area(box)), Sink<Found>{&found});
    }

    size_t bytes() const { return 0; }  // it does not know

 private:
    using Point = boost::geometry::model::point<double, 2, boost::geometry::cs::cartesian>;
    using Area = boost::geometry::model::box<Point>;
    using Value = std::pair<Area, uint32_t>;

    // The output iterator that costs least: it stores nothing.
    template <class Found>
    struct Sink {
        Found* found;
        Sink& operator*() { return *this; }
        Sink& operator++() { return *this; }
        Sink& operator++(int) { return *this; }
        Sink& operator=(const Value& value) {
            (*found)(value.second);
            return *this;
        }
    };

    static Area area(const Box& box) { return {{box.min_x, box.min_y}, {box.max_x, box.max_y}}; }

    boost::geometry::index::rtree<Value, boost::geometry::index::quadratic<16>> tree_;
    std::vector<Area> areas_;
};

double thread_ns() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

template <class Run>
double ns_each(size_t count, Run run) {
    const double start = thread_ns();
    run();
    return count ? (thread_ns() - start) / static_cast<double>(count) : 0.0;
}

struct Searched {
    double ns, found;
    uint64_t sum;
};

// Once to warm up, then timed.
template <class Tree>
Searched search(const Tree& tree, const std::vector<Box>& queries) {
    Searched result{};
    for (int round = 0; round < 2; ++round) {
        uint64_t count = 0, sum = 0;
        result.ns = ns_each(queries.size(), [&] {
            for (const Box& box : queries) {
                tree.search(box, [&](uint32_t handle) {
                    sum += handle;
                    ++count;
                });
            }
        });
        result.found = static_cast<double>(count) / static_cast<double>(queries.size());
        result.sum = sum;
    }
    return result;
}

template <class Tree>
double insert(Tree& tree, const std::vector<Box>& boxes) {
    return ns_each(boxes.size(), [&] {
        for (uint32_t handle = 0; handle < boxes.size(); ++handle) {
            tree.insert(handle, boxes[handle]);
        }
    });
}

template <class Tree>
double move(Tree& tree, const std::vector<Move>& moves) {
    return ns_each(moves.size(), [&] {
        for (const Move& each : moves) {
            tree.move(each.handle, each.box);
        }
    });
}

template <class Tree>
void run(const Workload& work) {
    const size_t count = work.boxes.size();
    Tree tree(count);
    const double inserted = insert(tree, work.boxes);
    const size_t bytes = tree.bytes();
    const Searched before = search(tree, work.queries);
    const double panned = move(tree, work.pans), jumped = move(tree, work.jumps), walked = move(tree, work.walks);
    const Searched after = search(tree, work.queries);
    Tree anew(count);
    insert(anew, work.walked);
    const Searched rebuilt = search(anew, work.queries);
    const double erased = ns_each(count, [&] {
        for (uint32_t handle = 0; handle < count; ++handle) {
            tree.erase(handle);
        }
    });
    std::printf("{\"insert\":%.2f,\"query\":%.2f,\"pan\":%.2f,\"jump\":%.2f,\"walk\":%.2f,\"query_moved\":%.2f,\"query_rebuilt\":%.2f,"
                "\"erase\":%.2f,\"found\":%.3f,\"found_moved\":%.3f,\"bytes\":%zu,\"sum\":%llu}\n",
                inserted, before.ns, panned, jumped, walked, after.ns, rebuilt.ns, erased, before.found, after.found, bytes,
                static_cast<unsigned long long>(before.sum + after.sum + rebuilt.sum));
}

// For others who measure: three counts, then the boxes, the queries and the pans, each pan after its handle; all doubles.
void write(const Workload& work) {
    auto put = [](const void* numbers, size_t count) { std::fwrite(numbers, sizeof(double), count, stdout); };
    const double counts[3] = {static_cast<double>(work.boxes.size()), static_cast<double>(work.queries.size()),
                              static_cast<double>(work.pans.size())};
    put(counts, 3);
    put(work.boxes.data(), 4 * work.boxes.size());
    put(work.queries.data(), 4 * work.queries.size());
    for (const Move& each : work.pans) {
        const double handle = each.handle;
        put(&handle, 1);
        put(&each.box, 4);
    }
}

}  // namespace

int main(int count, char** given) {
    if (count != 5) {
        std::fprintf(stderr, "rtree realtime|boost|workload viewports|points COUNT SEED\n");
        return 2;
    }
    const std::string which = given[1];
    const Workload work = make(!std::strcmp(given[2], "points"), std::stoul(given[3]), std::stoull(given[4]));
    if (which == "workload") {
        write(work);
    } else if (which == "boost") {
        run<Boosts>(work);
    } else {
        run<Ours>(work);
    }
    return 0;
}
