// A connection's mirror: deltas are applied to it in order, and whatever breaks a promise of the protocol is a fault.
//
// Law: seq is consecutive, a version grows while an entity is held, a move or patch is of what is held, a leave too. Of a
// sample it is also known that an id occurs once in a delta and does not come back older than it left.
#pragma once

#include <memory>

#include "delta.h"
#include "group.h"

namespace bench {

class Mirror {
public:
    bool is_filled = false;   // the view was answered in full
    bool is_panning = false;  // what enters is then not new, and says nothing of how long it waited

    void set_level(Level level) {
        level_ = level;
        if (level == Level::WHOLE) {
            sample_ = std::make_unique<Sample>();
        }
    }

    static constexpr size_t CUT_ENTITIES = 500;  // with fewer, no delta here is as long as the server lets it be

    Level level() const { return level_; }
    uint64_t seq() const { return seq_; }
    double sampled() const { return sampled_; }
    size_t size() const { return table_.size(); }
    const Sample* sample() const { return sample_.get(); }

    uint32_t version(uint32_t key) {
        const Table::Entry* held = table_.find(key);
        return held == nullptr ? 0 : held->version;
    }

    void apply(const Delta& delta, double now_us, const Schedule& schedule, Group& group) {
        if (delta.seq != seq_ + 1) {
            group.fault("seq: not the next one");
        }
        seq_ = delta.seq;
        sampled_ = delta.has_total ? delta.sampled : sampled_;
        count(delta, group);
        if (delta.is_reset) {
            is_filling_ = true;
            table_.clear();
            if (sample_ != nullptr) {
                *sample_ = Sample();
            }
        }
        if (level_ != Level::COUNT) {
            take_leaves(delta, group);
            take_enters(delta, group);
            take_changes(delta.moves, "move", group);
            take_changes(delta.patches, "patch", group);
        }
        if (sample_ != nullptr) {
            take_details(delta, group);
        }
        measure(delta, now_us, schedule, group);
        // A delta that was cut, as the last one of a fill mostly is, may leave changes for the next: then the mirror is not whole.
        const size_t told = delta.enters.size() + delta.moves.size() + delta.patches.size();
        const bool may_be_cut = is_filling_ || told >= CUT_ENTITIES;
        if (!delta.has_more) {
            is_filling_ = false;
        }
        if (delta.has_total && !delta.has_more) {
            is_filled = true;
            if (level_ != Level::COUNT && !may_be_cut && delta.sampled == 1.0 && delta.total != static_cast<double>(table_.size())) {
                group.fault("total: not the size of the mirror");
            }
        }
    }

    // The XOR over all entities of fmix32(FNV-1a-32(`id@version`)), as the protocol's `check` has it.
    uint32_t digest(const Ids& ids) const {
        uint32_t all = 0;
        table_.for_each([&](const Table::Entry& entry) {
            uint32_t state = 0x811C9DC5u;
            for (char one : ids.name(entry.key) + '@' + std::to_string(entry.version)) {
                state = (state ^ static_cast<unsigned char>(one)) * 0x01000193u;
            }
            state = (state ^ state >> 16) * 0x85EBCA6Bu;
            state = (state ^ state >> 13) * 0xC2B2AE35u;
            all ^= state ^ state >> 16;
        });
        return all;
    }

private:
    static constexpr size_t AHEAD = 16;  // slots are asked for so many entities before they are looked at

    static void count(const Delta& delta, Group& group) {
        group.frames++;
        group.resets += delta.is_reset;
        group.leaves += delta.leaves.size();
        group.enters += delta.enters.size();
        group.moves += delta.moves.size();
        group.patches += delta.patches.size();
    }

    void take_leaves(const Delta& delta, Group& group) {
        for (const Leave& leave : delta.leaves) {
            Table::Entry* held = table_.find(leave.key);
            if (held == nullptr) {
                group.fault("leave: not held");
                continue;
            }
            if (sample_ != nullptr) {
                bool is_dead = leave.reason == Reason::DELETED || leave.reason == Reason::EXPIRED;
                sample_->left[leave.key] = is_dead ? 0 : held->version;
                sample_->states.erase(leave.key);
            }
            table_.erase(held);
        }
    }

    void take_enters(const Delta& delta, Group& group) {
        for (const Change& enter : delta.enters) {
            Table::Entry* held = table_.find(enter.key);
            if (held == nullptr) {
                table_.add(enter.key, enter.version);
            } else {
                if (held->version >= enter.version) {
                    group.fault("enter: version not above the held one");
                }
                held->version = enter.version;
            }
        }
    }

    void take_changes(const std::vector<Change>& changes, const char* what, Group& group) {
        size_t count = changes.size();
        for (size_t i = 0; i < std::min(AHEAD, count); i++) {
            table_.prefetch(changes[i].key);
        }
        for (size_t i = 0; i < count; i++) {
            if (i + AHEAD < count) {
                table_.prefetch(changes[i + AHEAD].key);
            }
            Table::Entry* held = table_.find(changes[i].key);
            if (held == nullptr) {
                group.fault(std::string(what) + ": not held");
            } else {
                if (held->version >= changes[i].version) {
                    group.fault(std::string(what) + ": version not above the held one");
                }
                held->version = changes[i].version;
            }
        }
    }

    // Places and properties. What is not held was found above; here it makes a state that the comparison will not like.
    void take_details(const Delta& delta, Group& group) {
        uint32_t first = 0;
        for (size_t i = 0; i < delta.enters.size(); i++) {
            const Detail& detail = delta.enter_details[i];
            auto left = sample_->left.find(delta.enters[i].key);
            if (left != sample_->left.end() && left->second > delta.enters[i].version) {
                group.fault("enter: older than it left");
            }
            State& state = spoken_of(delta.enters[i].key, group);
            state.place = detail.place;
            state.kind = detail.kind;
            state.properties.assign(delta.properties.begin() + first, delta.properties.begin() + detail.properties_end);
            first = detail.properties_end;
        }
        for (size_t i = 0; i < delta.moves.size(); i++) {
            spoken_of(delta.moves[i].key, group).place = delta.move_places[i];
        }
        for (size_t i = 0; i < delta.patches.size(); i++) {
            const Detail& detail = delta.patch_details[i];
            State& state = spoken_of(delta.patches[i].key, group);
            if (detail.has_place) {
                state.place = detail.place;
            }
            for (; first < detail.properties_end; first++) {
                state.set(delta.properties[first]);
            }
        }
        for (const Leave& leave : delta.leaves) {
            if (sample_->states.count(leave.key) != 0) {
                group.fault("leave: of what the same delta shows");
            }
        }
    }

    State& spoken_of(uint32_t key, Group& group) {
        State& state = sample_->states[key];
        if (state.spoken_of == seq_) {
            group.fault("delta: an id occurs twice");
        }
        state.spoken_of = seq_;
        return state;
    }

    void measure(const Delta& delta, double now_us, const Schedule& schedule, Group& group) const {
        if (!schedule.is_set) {
            return;
        }
        measure(delta.moves, now_us, schedule, group);
        measure(delta.patches, now_us, schedule, group);
        if (!is_filling_ && is_filled && !is_panning) {
            measure(delta.enters, now_us, schedule, group);
        }
    }

    static void measure(const std::vector<Change>& changes, double now_us, const Schedule& schedule, Group& group) {
        for (const Change& change : changes) {
            if (!schedule.covers(change.version)) {
                group.unmeasured++;
                continue;
            }
            double wait_us = now_us - schedule.due_us(change.version);
            if (wait_us < -1000.0) {
                group.fault("version: received before it was due");
            }
            group.waits.record(wait_us);
        }
    }

    Table table_;
    std::unique_ptr<Sample> sample_;
    uint64_t seq_ = 0;
    double sampled_ = 1;
    Level level_ = Level::VERSIONS;
    bool is_filling_ = false;
};

}  // namespace bench
