// An R-tree of boxes that move: handles in, handles out.
//
// Law: a search finds every handle whose box touches the box asked for, and beside them only those that touch it after
// both were rounded outward to float32. A handle has at most one box. Each node but the root holds at least `LEAST`
// entries, a root that is no leaf at least two, and every node's bounds cover what it holds; `check()` re-checks all this.
// The caller gates what comes in: boxes are `is_box`, handles are dense small integers.
//
// Sources. The tree, and the choice of the subtree whose area grows least: A. Guttman, "R-Trees: A Dynamic Index Structure
// for Spatial Searching", SIGMOD 1984. Splits where sorted entries can be cut with the least overlap: N. Beckmann,
// H.-P. Kriegel, R. Schneider, B. Seeger, "The R*-tree", SIGMOD 1990; but with one order an axis, by centre, where they have
// two, the better axis being the one with the better cut, and nothing is inserted anew to improve the tree. Moves from the
// leaf upward over a table from handle to leaf: M. L. Lee, W. Hsu, C. S. Jensen, B. Cui, K. L. Teo, "Supporting Frequent
// Updates in R-Trees: A Bottom-Up Approach", VLDB 2003; where they let a leaf grow by a fixed length, here it may grow if
// of its siblings it is the one that grows least.

#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>
#include <limits>

#include "rtree_bounds.h"
#include "rtree_node.h"
#include "rtree_pool.h"
#include "types.h"

namespace realtime {

class RTree {
    using Bounds = rtree_parts::Bounds;

 public:
    using Handle = uint32_t;

    RTree() { clear(); }

    size_t size() const { return size_; }
    size_t bytes() const { return nodes_.bytes() + about_.bytes() + leaf_of_.bytes(); }
    uint32_t levels() const { return about_[root_].level + 1u; }
    // Ask for the memory that `move` and `erase` read: where the leaf of a handle is, and once that is there, the leaf.
    void prefetch_place(Handle handle) const {
        if (handle < leaf_of_.size()) {
            __builtin_prefetch(&leaf_of_[handle]);
        }
    }
    void prefetch_leaf(Handle handle) const {
        if (contains(handle)) {
            nodes_[leaf_of_[handle]].prefetch();
        }
    }
    bool contains(Handle handle) const { return handle < leaf_of_.size() && leaf_of_[handle] != NONE; }

    // Give the handle, which has none, a box. O(log size).
    void insert(Handle handle, const Box& box) {
        assert(is_box(box) && handle != NONE && !contains(handle));
        if (handle >= leaf_of_.size()) {
            const size_t before = leaf_of_.size();
            leaf_of_.grow(size_t{handle} + 1);
            std::memset(&leaf_of_[before], 0xff, (leaf_of_.size() - before) * sizeof(uint32_t));
        }
        place_from_root(rtree_parts::outward(box), handle, 0);
        ++size_;
    }

    // Replace the box of a handle. O(1) if the new one is within its leaf's bounds, else O(log size).
    void move(Handle handle, const Box& box) {
        assert(is_box(box) && contains(handle));
        const Bounds bounds = rtree_parts::outward(box);
        const uint32_t leaf = leaf_of_[handle];
        const uint32_t slot = nodes_[leaf].slot_of(handle);
        if (rtree_parts::covers(about_[leaf].bounds, bounds)) {
            nodes_[leaf].set_bounds(slot, bounds);
            return;
        }
        if (leaf == root_) {
            nodes_[leaf].set_bounds(slot, bounds);
            about_[leaf].bounds = nodes_[leaf].least_bounds();
            return;
        }
        move_out(leaf, slot, bounds);
    }

    // Take the handle's box away. O(log size).
    void erase(Handle handle) {
        assert(contains(handle));
        const uint32_t leaf = leaf_of_[handle];
        remove(leaf, nodes_[leaf].slot_of(handle));
        leaf_of_[handle] = NONE;
        if (--size_ == 0) {
            clear();
            return;
        }
        if (about_[leaf].count < LEAST && leaf != root_) {
            condense(leaf);
        } else {
            tighten_up(leaf, NONE);
        }
    }

    // Call found(handle) once for each box that may touch this one, in no order. `found` must leave the tree alone.
    template <class Found>
    void search(const Box& box, Found&& found) const {
        assert(is_box(box));
        const Bounds most = rtree_parts::reach(rtree_parts::outward(box));
        struct Waiting {
            uint32_t node, level;
        } stack[STACK_MAX];
        uint32_t waiting = 1;
        stack[0] = {root_, about_[root_].level};
        while (waiting) {
            const Waiting next = stack[--waiting];
            const Node& node = nodes_[next.node];
            const uint32_t touching = node.touching(most);
            if (next.level == 0) {
                report(node, touching, found);
            } else if (next.level == 1) {
                for (uint32_t left = touching; left; left &= left - 1) {
                    nodes_[node.child[__builtin_ctz(left)]].prefetch();
                }
                for (uint32_t left = touching; left; left &= left - 1) {
                    const Node& leaf = nodes_[node.child[__builtin_ctz(left)]];
                    report(leaf, leaf.touching(most), found);
                }
            } else {
                for (uint32_t left = touching; left; left &= left - 1) {
                    const uint32_t child = node.child[__builtin_ctz(left)];
                    nodes_[child].prefetch();
                    stack[waiting++] = {child, next.level - 1};
                }
            }
        }
    }

    // nullptr, or which of the law is broken. O(size).
    const char* check() const {
        if (about_[root_].parent != NONE) {
            return "the root has a parent";
        }
        if (about_[root_].level >= LEVELS_MAX) {
            return "the tree is too high";
        }
        Count count;
        if (const char* wrong = check_node(root_, count)) {
            return wrong;
        }
        if (count.entries != size_) {
            return "the leaves do not hold as many entries as there are handles";
        }
        size_t with_leaf = 0;
        for (size_t handle = 0; handle < leaf_of_.size(); ++handle) {
            with_leaf += leaf_of_[handle] != NONE;
        }
        if (with_leaf != size_) {
            return "handles without an entry have a leaf";
        }
        size_t free = 0;
        for (uint32_t node = free_; node != NONE; node = about_[node].parent) {
            if (++free > about_.size()) {
                return "the list of free nodes has a loop";
            }
        }
        return count.nodes + free == about_.size() ? nullptr : "a node is neither in the tree nor free";
    }

 private:
    using Node = rtree_parts::Node;
    static constexpr uint32_t NONE = rtree_parts::NONE, FAN = rtree_parts::FAN, ALL = rtree_parts::ALL, LEAST = rtree_parts::LEAST;

    // A root of level n has at least 2 * LEAST^n entries below it, and there are less than 2^32; one more while it changes.
    static constexpr uint32_t LEVELS_MAX = 12;
    static constexpr uint32_t STACK_MAX = LEVELS_MAX * FAN;

    // What else is known of a node, by the same index. The parent's entry has the same bounds.
    struct About {
        Bounds bounds;    // cover what the node holds; not always the least that do
        uint32_t parent;  // or NONE; of a free node the next free one
        uint8_t count;
        uint8_t level;  // 0: leaf
    };

    struct Orphan {
        Bounds bounds;
        uint32_t child;
        uint32_t level;  // of the node that it goes to
    };

    struct Count {
        size_t nodes = 0, entries = 0;
    };

    void clear() {
        if (nodes_.size() > 64) {
            nodes_.release();
            about_.release();
        }
        nodes_.grow(0);
        about_.grow(0);
        free_ = NONE;
        root_ = make_node(0);
    }

    uint32_t make_node(uint8_t level) {
        uint32_t node = free_;
        if (node != NONE) {
            free_ = about_[node].parent;
        } else {
            node = static_cast<uint32_t>(nodes_.size());
            nodes_.grow(size_t{node} + 1);
            about_.grow(size_t{node} + 1);
        }
        const float inf = std::numeric_limits<float>::infinity();
        about_[node] = {{{inf, inf, inf, inf}}, NONE, 0, level};
        for (uint32_t slot = 0; slot < FAN; ++slot) {
            nodes_[node].blank(slot);
        }
        return node;
    }

    void free_node(uint32_t node) {
        about_[node].parent = free_;
        about_[node].count = 0;
        free_ = node;
    }

    template <class Found>
    static void report(const Node& leaf, uint32_t touching, Found& found) {
        for (; touching; touching &= touching - 1) {
            found(Handle{leaf.child[__builtin_ctz(touching)]});
        }
    }

    void place_from_root(const Bounds& bounds, uint32_t child, uint32_t level) {
        about_[root_].bounds = rtree_parts::unite(about_[root_].bounds, bounds);
        place(root_, bounds, child, level);
    }

    // Insert below `node`, whose bounds cover these, into a node of the level.
    void place(uint32_t node, const Bounds& bounds, uint32_t child, uint32_t level) {
        while (about_[node].level > level) {
            const uint32_t slot = nodes_[node].choose(bounds);
            const uint32_t next = nodes_[node].child[slot];
            nodes_[next].prefetch();
            if (!rtree_parts::covers(about_[next].bounds, bounds)) {
                about_[next].bounds = rtree_parts::unite(about_[next].bounds, bounds);
                nodes_[node].set_bounds(slot, about_[next].bounds);
            }
            node = next;
        }
        add(node, bounds, child);
    }

    // Append an entry to a node whose bounds cover it; split it, and those above it, as long as they are full.
    void add(uint32_t node, Bounds bounds, uint32_t child) {
        while (about_[node].count == FAN) {
            const uint32_t other = split(node, bounds, child);
            uint32_t parent = about_[node].parent;
            if (parent == NONE) {
                parent = root_ = make_node(static_cast<uint8_t>(about_[node].level + 1));
                about_[parent].bounds = rtree_parts::unite(about_[node].bounds, about_[other].bounds);
                append(parent, about_[node].bounds, node);
            } else {
                nodes_[parent].set_bounds(nodes_[parent].slot_of(node), about_[node].bounds);
            }
            node = parent;
            bounds = about_[other].bounds;
            child = other;
        }
        append(node, bounds, child);
    }

    void append(uint32_t node, const Bounds& bounds, uint32_t child) {
        const uint32_t slot = about_[node].count++;
        nodes_[node].set_bounds(slot, bounds);
        nodes_[node].child[slot] = child;
        if (about_[node].level == 0) {
            leaf_of_[child] = node;
        } else {
            about_[child].parent = node;
        }
    }

    // Take the entry out of the node; the bounds stay as they are.
    void remove(uint32_t node, uint32_t slot) {
        Node& n = nodes_[node];
        const uint32_t last = --about_[node].count;
        n.set_bounds(slot, n.bounds_at(last));
        n.child[slot] = n.child[last];
        n.blank(last);
    }

    // Make the bounds of the node the least that cover it, and so on upward while that changes anything, not up to `end`.
    void tighten_up(uint32_t node, uint32_t end) {
        while (node != end) {
            const Bounds least = nodes_[node].least_bounds();
            if (rtree_parts::same(least, about_[node].bounds)) {
                return;
            }
            about_[node].bounds = least;
            const uint32_t parent = about_[node].parent;
            if (parent == NONE) {
                return;
            }
            nodes_[parent].set_bounds(nodes_[parent].slot_of(node), least);
            node = parent;
        }
    }

    // Move an entry that its leaf does not cover: let the leaf grow if it is the sibling that grows least, else insert
    // the entry anew below the lowest ancestor that covers it.
    void move_out(uint32_t leaf, uint32_t slot, const Bounds& bounds) {
        uint32_t top = about_[leaf].parent;
        if (rtree_parts::covers(about_[top].bounds, bounds)) {
            const uint32_t chosen = nodes_[top].choose(bounds);
            if (nodes_[top].child[chosen] == leaf) {
                nodes_[leaf].set_bounds(slot, bounds);
                about_[leaf].bounds = nodes_[leaf].least_bounds();
                nodes_[top].set_bounds(chosen, about_[leaf].bounds);
                return;
            }
        }
        const uint32_t handle = nodes_[leaf].child[slot];
        remove(leaf, slot);
        while (!rtree_parts::covers(about_[top].bounds, bounds)) {
            if (top == root_) {
                about_[top].bounds = rtree_parts::unite(about_[top].bounds, bounds);
                break;
            }
            top = about_[top].parent;
        }
        tighten_up(leaf, top);
        place(top, bounds, handle, 0);
        if (about_[leaf].count < LEAST) {
            condense(leaf);
        } else {
            tighten_up(top, NONE);
        }
    }

    // Dissolve the node, which holds too few, and those above it that thereby come to hold too few.
    void condense(uint32_t node) {
        Orphan orphans[LEVELS_MAX * LEAST];
        uint32_t count = 0;
        while (node != root_ && about_[node].count < LEAST) {
            for (uint32_t slot = 0; slot < about_[node].count; ++slot) {
                orphans[count++] = {nodes_[node].bounds_at(slot), nodes_[node].child[slot], about_[node].level};
            }
            const uint32_t parent = about_[node].parent;
            remove(parent, nodes_[parent].slot_of(node));
            free_node(node);
            node = parent;
        }
        tighten_up(node, NONE);
        // The highest first: what comes after may go below them. The root is a leaf only if all orphans are of leaves.
        while (count) {
            const Orphan& orphan = orphans[--count];
            place_from_root(orphan.bounds, orphan.child, orphan.level);
        }
        while (about_[root_].level > 0 && about_[root_].count == 1) {
            const uint32_t child = nodes_[root_].child[0];
            free_node(root_);
            root_ = child;
            about_[root_].parent = NONE;
        }
    }

    uint32_t split(uint32_t node, const Bounds& bounds, uint32_t child);
    const char* check_node(uint32_t node, Count& count) const;

    rtree_parts::Pool<Node> nodes_;
    rtree_parts::Pool<About> about_;
    rtree_parts::Pool<uint32_t> leaf_of_;  // the leaf of a handle, or NONE
    uint32_t root_ = NONE, free_ = NONE;
    size_t size_ = 0;
};

// Divide the entries of a full node and one more between it and a new node, which is returned and has no parent yet.
inline uint32_t RTree::split(uint32_t node, const Bounds& bounds, uint32_t child) {
    const uint32_t other = make_node(about_[node].level);
    Bounds entries[ALL];
    uint32_t children[ALL];
    for (uint32_t i = 0; i < FAN; ++i) {
        entries[i] = nodes_[node].bounds_at(i);
        children[i] = nodes_[node].child[i];
    }
    entries[FAN] = bounds;
    children[FAN] = child;

    uint8_t order[ALL];
    const uint32_t cut = rtree_parts::divide(entries, order);
    for (uint32_t slot = 0; slot < FAN; ++slot) {
        nodes_[node].blank(slot);
    }
    about_[node].count = 0;
    for (uint32_t i = 0; i < ALL; ++i) {
        append(i < cut ? node : other, entries[order[i]], children[order[i]]);
    }
    about_[node].bounds = nodes_[node].least_bounds();
    about_[other].bounds = nodes_[other].least_bounds();
    return other;
}

inline const char* RTree::check_node(uint32_t node, Count& count) const {
    const About& about = about_[node];
    const Node& n = nodes_[node];
    ++count.nodes;
    if (about.count > FAN || (node != root_ && about.count < LEAST) || (node == root_ && about.level > 0 && about.count < 2)) {
        return "a node holds too few or too many";
    }
    for (uint32_t slot = 0; slot < FAN; ++slot) {
        const Bounds bounds = n.bounds_at(slot);
        if (slot >= about.count) {
            if (n.child[slot] != NONE || bounds.low[0] == bounds.low[0] || bounds.low[1] == bounds.low[1] ||
                bounds.low[2] == bounds.low[2] || bounds.low[3] == bounds.low[3]) {
                return "an unused entry could be found";
            }
            continue;
        }
        if (!rtree_parts::covers(about.bounds, bounds)) {
            return "a node does not cover what it holds";
        }
        const uint32_t child = n.child[slot];
        if (about.level == 0) {
            // Every entry of a leaf points there and back: with the counts equal, no handle is there twice.
            ++count.entries;
            if (child >= leaf_of_.size() || leaf_of_[child] != node || n.slot_of(child) != slot) {
                return "a handle is twice in the tree, or its leaf is wrong";
            }
            continue;
        }
        if (child >= about_.size() || about_[child].parent != node || about_[child].level + 1 != about.level) {
            return "a child is not one level below its parent";
        }
        if (!rtree_parts::same(about_[child].bounds, bounds)) {
            return "the bounds of a node differ from those that its parent knows";
        }
        if (const char* wrong = check_node(child, count)) {
            return wrong;
        }
    }
    return nullptr;
}

}  // namespace realtime
