// What a connection holds: the version of each entity, and where a connection is a sample, its whole state as well.
//
// Law: the table of versions costs 8 bytes a slot, at most three quarters of which are taken; it is cleared, not shrunk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ids.h"

namespace bench {

// Open addressing with linear probing; erasing shifts back what follows, so that there are no graves.
class Table {
public:
    struct Entry {
        uint32_t key;
        uint32_t version;
    };

    size_t size() const { return size_; }

    void prefetch(uint32_t key) const {
        if (!slots_.empty()) {
            __builtin_prefetch(&slots_[home(key)], 1);
        }
    }

    Entry* find(uint32_t key) {
        if (slots_.empty()) {
            return nullptr;
        }
        for (size_t i = home(key);; i = (i + 1) & mask_) {
            if (slots_[i].key == key) {
                return &slots_[i];
            }
            if (slots_[i].key == Ids::NONE) {
                return nullptr;
            }
        }
    }

    // Adds what is not there yet.
    void add(uint32_t key, uint32_t version) {
        if ((size_ + 1) * 4 > slots_.size() * 3) {
            grow();
        }
        place(key, version);
        size_++;
    }

    void erase(Entry* entry) {
        auto hole = static_cast<size_t>(entry - slots_.data());
        for (size_t i = (hole + 1) & mask_; slots_[i].key != Ids::NONE; i = (i + 1) & mask_) {
            if (((i - home(slots_[i].key)) & mask_) >= ((i - hole) & mask_)) {
                slots_[hole] = slots_[i];
                hole = i;
            }
        }
        slots_[hole].key = Ids::NONE;
        size_--;
    }

    void clear() {
        std::fill(slots_.begin(), slots_.end(), Entry{Ids::NONE, 0});
        size_ = 0;
    }

    template <class Visit>
    void for_each(Visit visit) const {
        for (const Entry& entry : slots_) {
            if (entry.key != Ids::NONE) {
                visit(entry);
            }
        }
    }

private:
    size_t home(uint32_t key) const { return (key * 0x9E3779B1u) >> shift_; }

    void place(uint32_t key, uint32_t version) {
        size_t i = home(key);
        while (slots_[i].key != Ids::NONE) {
            i = (i + 1) & mask_;
        }
        slots_[i] = {key, version};
    }

    void grow() {
        std::vector<Entry> old = std::move(slots_);
        size_t slots = old.empty() ? 16 : old.size() * 2;
        slots_.assign(slots, Entry{Ids::NONE, 0});
        mask_ = slots - 1;
        shift_ = 32 - __builtin_ctzll(slots);
        for (const Entry& entry : old) {
            if (entry.key != Ids::NONE) {
                place(entry.key, entry.version);
            }
        }
    }

    std::vector<Entry> slots_;
    size_t mask_ = 0;
    size_t size_ = 0;
    int shift_ = 32;
};

// Texts that recur (names, values, geometries), by number; 0 is the empty one.
class Texts {
public:
    static constexpr uint32_t NIL = 1;  // the number of `null`

    Texts() {
        of("");
        of("null");
    }

    uint32_t of(std::string_view text) {
        auto [found, is_new] = places_.try_emplace(std::string(text), static_cast<uint32_t>(texts_.size()));
        if (is_new) {
            texts_.push_back(&found->first);
        }
        return found->second;
    }

    const std::string& operator[](uint32_t place) const { return *texts_[place]; }

private:
    std::unordered_map<std::string, uint32_t> places_;
    std::vector<const std::string*> texts_;  // of the map's keys, which stay where they are
};

struct Property {
    uint32_t name;   // JSON text
    uint32_t value;  // JSON text
};

// Where an entity is: a Point of two coordinates, or any other geometry as JSON text.
struct Place {
    double lon = 0, lat = 0;
    uint32_t geometry = 0;  // 0: it is a Point
};

// The whole state of an entity, of a sampled connection.
struct State {
    Place place;
    uint32_t kind = 0;      // JSON text, 0: none
    uint64_t spoken_of = 0;  // seq of the delta that last did
    std::vector<Property> properties;

    void set(Property property) {
        for (size_t i = 0; i < properties.size(); i++) {
            if (properties[i].name == property.name) {
                properties[i].value = property.value;
                if (property.value == Texts::NIL) {
                    properties.erase(properties.begin() + static_cast<ptrdiff_t>(i));
                }
                return;
            }
        }
        if (property.value != Texts::NIL) {
            properties.push_back(property);
        }
    }
};

// A sampled connection's whole mirror, beside its table, and the versions at which entities left that may come back.
struct Sample {
    std::unordered_map<uint32_t, State> states;
    std::unordered_map<uint32_t, uint32_t> left;
};

}  // namespace bench
