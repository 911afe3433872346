// The hashes of the protocol: one number for an entity's version, one for its place in a sample.
//
// Law: equal, bit for bit, to realtime/engine/digest.py and to what every client computes. What is hashed is UTF-8.
// Sources: FNV-1a, 32 bits, by Fowler, Noll and Vo (RFC 9923); fmix32 is the finaliser of Austin Appleby's
// MurmurHash3_x86_32 (public domain).

#pragma once

#include <cstdint>
#include <string_view>

namespace realtime {

constexpr uint32_t FNV_BASIS = 0x811C9DC5u;
constexpr uint32_t FNV_PRIME = 0x01000193u;

// FNV-1a of `data`, going on from `state`, so that a text may be hashed piece by piece.
constexpr uint32_t fnv1a32(std::string_view data, uint32_t state = FNV_BASIS) {
    for (const char byte : data) state = (state ^ static_cast<uint8_t>(byte)) * FNV_PRIME;
    return state;
}

// A bijection of the 32-bit numbers in which each bit of the input reaches each bit of the output.
constexpr uint32_t fmix32(uint32_t h) {
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

// What an entity at a version contributes to the digest of a mirror, given `fnv1a32(id)`: an entity keeps that number,
// so that its id is not read again.
inline uint32_t digest_from(uint32_t id_state, uint64_t version) {
    char digits[21];
    char* const end = digits + sizeof digits;
    char* begin = end;
    do {
        *--begin = static_cast<char>('0' + version % 10);
        version /= 10;
    } while (version != 0);
    *--begin = '@';
    return fmix32(fnv1a32({begin, static_cast<size_t>(end - begin)}, id_state));
}

// fmix32 of the FNV-1a of `id@version`, the version in decimal. The digest of a mirror is the XOR of these.
inline uint32_t digest_of(std::string_view id, uint64_t version) { return digest_from(fnv1a32(id), version); }

// Where an entity stands in a sample among those of its rank: lower is kept first.
constexpr uint32_t sample_hash(std::string_view id) { return fmix32(fnv1a32(id)); }

}  // namespace realtime
