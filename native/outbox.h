// The outbox of one session: the entities whose copy at the client may be out of date, and what the client holds of each.
//
// Law: a map and never a queue. What happens is noted at the end of a log, without looking whether the entity is there
// already, and folded into the map when somebody wants to know or when the log gets longer than what the view shows: so
// a note costs one write, and the whole stays bounded by the view however many changes pass. The map has two lists, of
// what the session does not see any more and of what it sees, each in the order of entering it, so that leaves go first
// without a search; an entity stands in it at most once. An empty outbox has no memory beyond itself. Whoever folds
// keeps the pins of the world: one for each note and one for each entry.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "notes.h"
#include "slots.h"

namespace realtime {

struct Entry {
    uint32_t slot;     // NO_SLOT: was erased
    uint32_t is_fill;  // offered by the view, not by a change
    int64_t held;      // version; 0: none; -v: the client claims to hold v, which the engine cannot vouch for
    double since;      // seconds since the Unix epoch
};

class Outbox {
   public:
    enum List : uint32_t { LEAVING = 0, SHOWING = 1 };

    NoteLog log;

    // Of the map; notes are not counted.
    uint32_t size() const { return count_[0] + count_[1]; }
    uint32_t fills() const { return fills_; }
    bool is_empty() const { return size() == 0 && log.empty(); }
    bool is_empty(List list) const { return count_[list] == 0; }

    // The entries of a list in their order, from the first on; erased ones have NO_SLOT.
    const Entry* begin(List list) const { return lists_[list].data() + head_[list]; }
    const Entry* end(List list) const { return lists_[list].data() + lists_[list].size(); }
    Entry& at(uint32_t place) { return lists_[place & 1][place >> 1]; }
    uint32_t place_of(const Entry* entry, List list) const { return static_cast<uint32_t>(entry - lists_[list].data()) << 1 | list; }

    // Returns the place of the new entry, which `at` takes until the next `take`.
    uint32_t add(List list, const Entry& entry) {
        lists_[list].push_back(entry);
        ++count_[list];
        fills_ += entry.is_fill;
        return static_cast<uint32_t>(lists_[list].size() - 1) << 1 | list;
    }

    Entry remove(uint32_t place) {
        Entry& entry = at(place);
        const Entry was = entry;
        entry.slot = NO_SLOT;
        --count_[place & 1];
        fills_ -= was.is_fill;
        return was;
    }

    // Erase everything before `end`, which lies within the list.
    void take(List list, const Entry* end) {
        std::vector<Entry>& entries = lists_[list];
        const uint32_t stop = static_cast<uint32_t>(end - entries.data());
        for (uint32_t at = head_[list]; at < stop; ++at) {
            if (entries[at].slot != NO_SLOT) {
                --count_[list];
                fills_ -= entries[at].is_fill;
            }
        }
        head_[list] = stop;
        tidy(list);
    }

    // Forget erased entries where they are many. Places change.
    void tidy(List list) {
        std::vector<Entry>& entries = lists_[list];
        if (entries.size() < SMALL ? count_[list] > 0 : count_[list] * 2 > entries.size()) {
            return;
        }
        uint32_t to = 0;
        for (uint32_t at = head_[list]; at < entries.size() && count_[list]; ++at) {
            if (entries[at].slot != NO_SLOT) {
                entries[to++] = entries[at];
            }
        }
        entries.resize(to);
        head_[list] = 0;
    }

    // Exchange the memory of the lists with another outbox's, both being without entries.
    void borrow(Outbox& other) {
        if (size() == 0 && other.size() == 0) {
            for (const List list : {LEAVING, SHOWING}) {
                lists_[list].clear();
                head_[list] = 0;
                lists_[list].swap(other.lists_[list]);
            }
        }
    }

    // Give back all memory, if there is nothing in it.
    void trim() {
        if (is_empty()) {
            for (const List list : {LEAVING, SHOWING}) {
                lists_[list] = std::vector<Entry>();
                head_[list] = 0;
            }
        }
    }

    size_t bytes() const { return (lists_[0].capacity() + lists_[1].capacity()) * sizeof(Entry) + log.size() * sizeof(Note); }

    // nullptr, or what is wrong.
    const char* check() const {
        std::vector<uint32_t> slots;
        uint32_t fills = 0;
        for (uint32_t list = 0; list < 2; ++list) {
            uint32_t count = 0;
            for (const Entry* entry = begin(static_cast<List>(list)); entry != end(static_cast<List>(list)); ++entry) {
                if (entry->slot == NO_SLOT) {
                    continue;
                }
                ++count;
                fills += entry->is_fill;
                slots.push_back(entry->slot);
            }
            if (count != count_[list]) {
                return "the entries are miscounted";
            }
        }
        std::sort(slots.begin(), slots.end());
        if (std::adjacent_find(slots.begin(), slots.end()) != slots.end()) {
            return "an entity stands twice in an outbox";
        }
        return fills == fills_ ? nullptr : "the fills are miscounted";
    }

   private:
    static constexpr uint32_t SMALL = 64;  // entries

    std::vector<Entry> lists_[2];
    uint32_t head_[2] = {0, 0};
    uint32_t count_[2] = {0, 0};
    uint32_t fills_ = 0;
};

}  // namespace realtime
