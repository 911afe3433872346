// The R-tree against brute force: whatever is done to it, a search finds what touches, and beside it only what rounding to
// float32 makes touch; and all its invariants hold.

#include "../rtree.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace {

using realtime::Box;
using realtime::RTree;

constexpr double HUGE_NUMBER = 1e308;
constexpr double DENORMAL = 5e-324;

// The next float32 number further out than rounding could have gone; an infinity where there is none.
double further(double number, double direction) {
    const float towards = static_cast<float>(direction * std::numeric_limits<double>::infinity());
    const double most = std::numeric_limits<float>::max();
    float near = static_cast<float>(std::fmin(std::fmax(number, -most), most));
    if (std::fabs(number) > most) {
        near = std::signbit(number) ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::infinity();
        return std::signbit(number) == std::signbit(direction) ? near : std::nextafter(near, towards);
    }
    return std::nextafter(near, towards);
}

Box widened(const Box& box) {
    return {further(box.min_x, -1), further(box.min_y, -1), further(box.max_x, 1), further(box.max_y, 1)};
}

class Model {
 public:
    RTree tree;

    explicit Model(size_t handles) : is_in_(handles), boxes_(handles), times_found_(handles) {}

    bool contains(uint32_t handle) const { return is_in_[handle]; }
    size_t size() const { return size_; }

    void insert(uint32_t handle, const Box& box) {
        tree.insert(handle, box);
        is_in_[handle] = true;
        boxes_[handle] = box;
        ++size_;
    }

    void move(uint32_t handle, const Box& box) {
        tree.move(handle, box);
        boxes_[handle] = box;
    }

    void erase(uint32_t handle) {
        tree.erase(handle);
        is_in_[handle] = false;
        --size_;
    }

    void put(uint32_t handle, const Box& box) { contains(handle) ? move(handle, box) : insert(handle, box); }
    const Box& box(uint32_t handle) const { return boxes_[handle]; }

    void check_tree() const {
        const char* wrong = tree.check();
        if (wrong) {
            std::fprintf(stderr, "%s\n", wrong);
        }
        CHECK(!wrong);
        CHECK(tree.size() == size_);
        for (uint32_t handle = 0; handle < is_in_.size(); ++handle) {
            CHECK(tree.contains(handle) == is_in_[handle]);
        }
    }

    void check_search(const Box& wanted) {
        std::fill(times_found_.begin(), times_found_.end(), 0);
        tree.search(wanted, [&](uint32_t handle) {
            CHECK(handle < is_in_.size());
            ++times_found_[handle];
        });
        const Box wide = widened(wanted);
        for (uint32_t handle = 0; handle < is_in_.size(); ++handle) {
            CHECK(times_found_[handle] <= 1);
            if (times_found_[handle]) {
                CHECK(is_in_[handle] && meet(widened(boxes_[handle]), wide));
            } else {
                CHECK(!is_in_[handle] || !meet(boxes_[handle], wanted));
            }
        }
    }

 private:
    std::vector<bool> is_in_;
    std::vector<Box> boxes_;
    std::vector<uint8_t> times_found_;
    size_t size_ = 0;
};

class Random {
 public:
    explicit Random(uint64_t seed) : bits_(seed) { std::printf("  seed %" PRIu64 "\n", seed); }

    uint32_t below(uint32_t count) { return static_cast<uint32_t>(bits_() % count); }
    double between(double least, double most) { return std::uniform_real_distribution<double>(least, most)(bits_); }

    Box ordinary() {
        const double x = between(-180, 180), y = between(-90, 90), w = between(0, 3), h = between(0, 3);
        return {x - w, y - h, x + w, y + h};
    }

    Box dense() {
        const double x = between(13, 13.3), y = between(52, 52.3), w = between(0.02, 0.06), h = between(0.02, 0.06);
        return {x - w, y - h, x + w, y + h};
    }

    Box point() {
        const double x = between(13, 13.3), y = between(52, 52.3);
        return {x, y, x, y};
    }

    // Numbers where rounding, overflow and ties are: each side of the box is one of a few.
    Box odd() {
        static const double numbers[] = {
            -1.7976931348623157e308, -HUGE_NUMBER, -3.5e38, -3.4028234663852886e38, -180, -179.99999999999997, -90, -1, -1e-40,
            -DENORMAL, -0.0, 0.0, DENORMAL, 1e-310, 1e-40, 1.17549435e-38, 0.1, 1, 90, 179.99999999999997, 180, 16777217,
            3.4028234663852886e38, 3.5e38, HUGE_NUMBER, 1.7976931348623157e308,
        };
        auto one = [&] { return numbers[below(sizeof(numbers) / sizeof(numbers[0]))]; };
        const double a = one(), b = one(), c = one(), d = one();
        return {std::fmin(a, b), std::fmin(c, d), std::fmax(a, b), std::fmax(c, d)};
    }

    Box same_point() { return {13.377, 52.516, 13.377, 52.516}; }
    Box world() { return {-180, -90, 180, 90}; }

    Box any() {
        switch (below(8)) {
            case 0: return odd();
            case 1: return same_point();
            case 2: return world();
            case 3: return ordinary();
            case 4: return dense();
            default: return point();
        }
    }

 private:
    std::mt19937_64 bits_;
};

// Random operations, in phases that grow and phases that shrink; the last one until nothing is left.
template <class Draw>
void churn(uint64_t seed, uint32_t handles, Draw draw) {
    Random random(seed);
    Model model(handles);
    for (uint32_t phase = 0; phase < 6; ++phase) {
        const uint32_t inserts = phase % 2 ? 1 : 5, erases = phase % 2 ? 5 : 1;
        for (uint32_t step = 1; step <= 3 * handles; ++step) {
            const uint32_t handle = random.below(handles), what = random.below(9);
            if (!model.contains(handle)) {
                if (what < inserts) {
                    model.insert(handle, draw(random));
                }
            } else if (what < erases) {
                model.erase(handle);
            } else {
                model.move(handle, draw(random));
            }
            if (step % (handles / 4) == 0) {
                model.check_tree();
                for (int i = 0; i < 6; ++i) {
                    model.check_search(draw(random));
                }
            }
        }
    }
    for (uint32_t handle = 0; handle < handles; ++handle) {
        if (model.contains(handle)) {
            model.erase(handle);
            if (handle % (handles / 16) == 0) {
                model.check_tree();
            }
        }
    }
    CHECK(model.size() == 0 && model.tree.levels() == 1);
    model.check_tree();
    model.check_search({-HUGE_NUMBER, -HUGE_NUMBER, HUGE_NUMBER, HUGE_NUMBER});
}

Box shifted(const Box& box, double x, double y) { return {box.min_x + x, box.min_y + y, box.max_x + x, box.max_y + y}; }

size_t count_found(const RTree& tree, const Box& box) {
    size_t count = 0;
    tree.search(box, [&](uint32_t) { ++count; });
    return count;
}

}  // namespace

TEST(rtree_churn_of_viewports_equals_brute_force) {
    churn(1, 2000, [](Random& random) { return random.dense(); });
    churn(2, 2000, [](Random& random) { return random.ordinary(); });
}

TEST(rtree_churn_of_points_equals_brute_force) {
    churn(3, 3000, [](Random& random) { return random.point(); });
}

TEST(rtree_churn_of_odd_numbers_equals_brute_force) {
    churn(4, 1500, [](Random& random) { return random.odd(); });
    churn(5, 2500, [](Random& random) { return random.any(); });
}

TEST(rtree_churn_of_equal_boxes_equals_brute_force) {
    churn(6, 1000, [](Random& random) { return random.same_point(); });
    churn(7, 1000, [](Random& random) { return random.world(); });
}

TEST(rtree_moves_by_small_steps_equal_brute_force) {
    for (const double step : {1e-7, 1e-4, 1e-2}) {
        Random random(8);
        Model model(1500);
        for (uint32_t handle = 0; handle < 1500; ++handle) {
            model.insert(handle, handle % 2 ? random.point() : random.dense());
        }
        for (int round = 0; round < 20; ++round) {
            for (uint32_t handle = 0; handle < 1500; ++handle) {
                model.move(handle, shifted(model.box(handle), random.between(-step, step), random.between(-step, step)));
            }
            model.check_tree();
            model.check_search(random.dense());
            model.check_search(random.point());
        }
    }
}

// All travel the same way, until nobody is where they began.
TEST(rtree_follows_a_drift) {
    Random random(9);
    Model model(1000);
    for (uint32_t handle = 0; handle < 1000; ++handle) {
        model.insert(handle, random.point());
    }
    for (int round = 0; round < 60; ++round) {
        for (uint32_t handle = 0; handle < 1000; ++handle) {
            model.move(handle, shifted(model.box(handle), 0.02, 0.0));
        }
        model.check_tree();
        model.check_search(shifted(random.dense(), 0.02 * round, 0.0));
    }
}

TEST(rtree_of_many_levels_equals_brute_force) {
    Random random(12);
    Model model(120'000);
    for (uint32_t handle = 0; handle < 120'000; ++handle) {
        model.insert(handle, handle % 3 ? random.point() : random.ordinary());
    }
    CHECK(model.tree.levels() >= 4);
    model.check_tree();
    model.check_search(random.world());
    for (uint32_t handle = 0; handle < 120'000; ++handle) {
        if (handle % 5 == 0) {
            model.erase(handle);
        } else {
            model.move(handle, handle % 5 == 1 ? random.ordinary() : shifted(model.box(handle), 1e-4, 1e-4));
        }
    }
    model.check_tree();
    model.check_search(random.world());
    for (int i = 0; i < 20; ++i) {
        model.check_search(i % 2 ? random.dense() : random.ordinary());
    }
}

TEST(rtree_handles_may_be_sparse_and_come_again) {
    Random random(10);
    Model model(100'000);
    for (int round = 0; round < 5; ++round) {
        for (uint32_t handle = 7; handle < 100'000; handle += 1 + random.below(400)) {
            if (!model.contains(handle)) {
                model.insert(handle, random.any());
            } else {
                model.erase(handle);
            }
        }
        model.check_tree();
        model.check_search(random.dense());
    }
    CHECK(!model.tree.contains(0xffffffffu) && !model.tree.contains(100'000));
}

TEST(rtree_reuses_its_nodes_and_gives_them_back) {
    Random random(11);
    RTree tree;
    const size_t empty = tree.bytes();
    size_t first = 0;
    for (int round = 0; round < 4; ++round) {
        for (uint32_t handle = 0; handle < 20'000; ++handle) {
            tree.insert(handle, random.dense());
        }
        // Half of them in and out again, often.
        for (int again = 0; again < 6; ++again) {
            for (uint32_t handle = 0; handle < 20'000; handle += 2) {
                tree.erase(handle);
            }
            for (uint32_t handle = 0; handle < 20'000; handle += 2) {
                tree.insert(handle, random.dense());
            }
        }
        CHECK(!tree.check());
        first = round ? first : tree.bytes();
        CHECK(tree.bytes() < first + first / 4);
        for (uint32_t handle = 0; handle < 20'000; ++handle) {
            tree.erase(handle);
        }
        CHECK(!tree.check() && tree.size() == 0);
        CHECK(tree.bytes() <= empty + 20'000 * sizeof(uint32_t));
    }
}

// The bound that is promised for rounding, at the very edge of float32.
TEST(rtree_rounds_outward_and_no_further) {
    const double numbers[] = {13.377, -13.377, 52.516, -179.99999999, 179.99999999, 1e-320, -1e-320, 3.4e38, -3.4e38, 3.5e38, -3.5e38,
                              HUGE_NUMBER, -HUGE_NUMBER, 0.0, -0.0, 1.0, -1.0, 16777217.0, -16777217.0};
    for (const double x : numbers) {
        for (const double y : numbers) {
            const realtime::rtree_parts::Bounds bounds = realtime::rtree_parts::outward({x, y, x, y});
            const double exact[4] = {x, y, -x, -y};
            for (int d = 0; d < 4; ++d) {
                CHECK(static_cast<double>(bounds.low[d]) <= exact[d]);
                const float above = std::nextafter(bounds.low[d], std::numeric_limits<float>::infinity());
                CHECK(static_cast<double>(above) > exact[d]);
            }
        }
    }
    Model model(2);
    const double y = 0.5, edge = 13.377;
    model.insert(0, {edge, y, edge, y});
    model.check_search({edge, y, edge, y});
    model.check_search({edge - 1, y, std::nextafter(edge, 0.0), y});
    CHECK(count_found(model.tree, {edge + 1e-4, y, edge + 1, y}) == 0);
    CHECK(count_found(model.tree, {edge - 1, y, edge - 1e-4, y}) == 0);
}
