// The pieces that deltas are joined from: encoded once per entity version, shared by every session that is told of it.
//
// Law: pieces lie in one ring of bounded size and are never freed one by one: a new one overwrites the oldest. A place is
// believed only if it is among the newest, and if what lies there says that it is of this entity, version and encoding.
// What a session is sent is copied out of the ring before the next piece is made.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "faults.h"
#include "memory.h"
#include "types.h"
#include "world.h"

namespace realtime {

enum class How : uint8_t { ENTER, MOVE, PATCH };

class Pieces {
   public:
    // How a client that holds version `held` learns the present state.
    static How how(const Entity& entity, uint64_t held) {
        // From another life, or a lower version after a forgotten death.
        if ((held < entity.since && !BROKEN(TELLS_A_PATCH_ACROSS_A_DEATH)) || held > entity.wire) {
            return How::ENTER;
        }
        return entity.is_point && (held >= entity.move_since || BROKEN(TELLS_MOVES_ALONE)) ? How::MOVE : How::PATCH;
    }

    // The bytes of it, in JSON with a comma behind them; they hold until the next call. Of those that are at most LARGE
    // as many may be read as it takes to come to a multiple of 16.
    std::string_view get(Entity& entity, uint32_t slot, How how, uint64_t held, Encoding encoding) {
        uint32_t& place = (how == How::ENTER ? entity.enters : entity.pieces)[static_cast<uint32_t>(encoding)];
        if (place && end_ - place <= MASK) {  // otherwise it was overwritten since
            const Head* head = reinterpret_cast<const Head*>(&ring_[(place & MASK) * UNIT]);
            const char* piece = reinterpret_cast<const char*>(head + 1);
            const uint64_t label = label_of(entity.wire, how, encoding);
            if (head->slot == slot && (head->label == label || (head->label >> 56 == label >> 56 && BROKEN(BELIEVES_STALE_PIECES)))) {
                if (how != How::PATCH) {
                    return {piece, head->bytes};
                }
                uint64_t told;
                std::memcpy(&told, piece, sizeof told);
                if (told == held || BROKEN(BELIEVES_A_PATCH_FOR_OTHERS)) {
                    return {piece + UNIT, head->bytes};
                }
            }
        }
        return make(entity, slot, how, held, encoding, place);
    }

    void prefetch(const Entity& entity, Encoding encoding) const {
        if (!entity.pieces[static_cast<uint32_t>(encoding)]) {
            __builtin_prefetch(entity.content);
            return;
        }
        const char* at = &ring_[(entity.pieces[static_cast<uint32_t>(encoding)] & MASK) * UNIT];
        __builtin_prefetch(at);
        __builtin_prefetch(at + 64);
    }

    // The entity as a Feature in JSON, appended.
    static void put_feature(std::string& out, const Entity& entity);

    static constexpr size_t UNIT = 16;
    static constexpr size_t BYTES = size_t{1} << 24;
    static constexpr size_t LARGE = BYTES / 16;  // what is larger is not kept

   private:
    // Of a patch it is followed by a unit with the version that it is told from.
    struct Head {
        uint64_t label;
        uint32_t slot;  // of the entity
        uint32_t bytes;
    };
    static_assert(sizeof(Head) == UNIT);
    static constexpr uint32_t MASK = BYTES / UNIT - 1;

    // The wire version and what it is a piece of.
    static uint64_t label_of(uint64_t wire, How how, Encoding encoding) {
        return wire | (1u + static_cast<uint64_t>(how) * 2u + static_cast<uint64_t>(encoding)) << 56;
    }
    std::string_view make(Entity& entity, uint32_t slot, How how, uint64_t held, Encoding encoding, uint32_t& place);

    std::unique_ptr<char, FreeMemory> memory_{static_cast<char*>(large_memory(BYTES))};
    char* ring_ = memory_.get();
    uint32_t end_ = 1;  // where the next piece goes: places count units for ever, modulo 2^32; 0 means none
    std::string made_, scratch_;
};

}  // namespace realtime
