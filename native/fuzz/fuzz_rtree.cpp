// libFuzzer: bytes are operations on an R-tree, each followed by the same on a plain list; what a search finds must agree.
//
//     clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all fuzz_rtree.cpp -o fuzz_rtree

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../rtree.h"

namespace {

using realtime::Box;

constexpr uint32_t HANDLES = 1024;

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
}

class Bytes {
 public:
    Bytes(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

    bool is_empty() const { return data_ == end_; }

    template <class T>
    T take() {
        T value{};
        const size_t size = std::min(sizeof(T), static_cast<size_t>(end_ - data_));
        std::memcpy(&value, data_, size);
        data_ += size;
        return value;
    }

    // Coarse, so that a byte suffices and many are equal; or any finite double.
    double number(bool is_coarse) {
        if (is_coarse) {
            return take<int8_t>() / 8.0;
        }
        const double value = take<double>();
        return std::isfinite(value) ? value : 0.0;
    }

    Box box() {
        const uint8_t shape = take<uint8_t>();
        const double x0 = number(shape & 1), y0 = number(shape & 1);
        if (shape & 2) {
            return {x0, y0, x0, y0};
        }
        const double x1 = number(shape & 1), y1 = number(shape & 1);
        return {std::fmin(x0, x1), std::fmin(y0, y1), std::fmax(x0, x1), std::fmax(y0, y1)};
    }

 private:
    const uint8_t* data_;
    const uint8_t* end_;
};

struct World {
    realtime::RTree tree;
    std::vector<bool> is_in = std::vector<bool>(HANDLES);
    std::vector<Box> boxes = std::vector<Box>(HANDLES);

    void put(uint32_t handle, const Box& box) {
        if (is_in[handle]) {
            tree.move(handle, box);
        } else {
            tree.insert(handle, box);
        }
        is_in[handle] = true;
        boxes[handle] = box;
    }

    void drop(uint32_t handle) {
        if (is_in[handle]) {
            tree.erase(handle);
            is_in[handle] = false;
        }
    }

    void search(const Box& box) const {
        using realtime::rtree_parts::outward;
        const auto wanted = outward(box);
        std::vector<bool> is_found(HANDLES);
        tree.search(box, [&](uint32_t handle) {
            if (handle >= HANDLES || !is_in[handle] || is_found[handle]) {
                fail("found what is not there, or twice");
            }
            is_found[handle] = true;
        });
        for (uint32_t handle = 0; handle < HANDLES; ++handle) {
            if (!is_in[handle]) {
                continue;
            }
            const auto has = outward(boxes[handle]);
            const bool may_touch = has.low[0] <= -wanted.low[2] && has.low[1] <= -wanted.low[3] && wanted.low[0] <= -has.low[2] &&
                                   wanted.low[1] <= -has.low[3];
            if (is_found[handle] != may_touch || (!is_found[handle] && meet(boxes[handle], box))) {
                fail("a search and the list differ");
            }
        }
    }

    void check() const {
        if (const char* wrong = tree.check()) {
            fail(wrong);
        }
        if (tree.size() != static_cast<size_t>(std::count(is_in.begin(), is_in.end(), true))) {
            fail("the size is wrong");
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    World world;
    while (!bytes.is_empty()) {
        const uint8_t what = bytes.take<uint8_t>();
        const uint32_t handle = bytes.take<uint16_t>() % HANDLES;
        // A run of handles, so that few bytes make a tree of several levels.
        const uint32_t end = std::min<uint32_t>(HANDLES, handle + (what & 8 ? 1 + bytes.take<uint8_t>() : 1));
        switch (what % 8) {
            case 0:
            case 1:
            case 2: {
                const Box box = bytes.box();
                const double step = what & 16 ? bytes.number(true) : 0.0;
                for (uint32_t each = handle; each < end; ++each) {
                    const double by = step * (each - handle);
                    const Box moved = {box.min_x + by, box.min_y - by, box.max_x + by, box.max_y - by};
                    world.put(each, is_box(moved) ? moved : box);
                }
                break;
            }
            case 3:
            case 4:
                for (uint32_t each = handle; each < end; ++each) {
                    world.drop(each);
                }
                break;
            case 5:
                world.check();
                break;
            default:
                world.search(bytes.box());
        }
    }
    world.check();
    world.search({-1e308, -1e308, 1e308, 1e308});
    return 0;
}
