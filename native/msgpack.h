// MessagePack: its small pieces, and canonical JSON made into it.
//
// Law: `transcode` writes what msgspec.msgpack.encode(msgspec.json.decode(json)) decodes to, value for value: integers and
// heads in their smallest form, every other number as a float64, strings unescaped. The depth is bounded.
//
// A sink is whatever has `append(const char*, size_t)`, as std::string does. The format: github.com/msgpack/msgpack,
// spec.md. The writers of JSON come along from json.h.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "json.h"

namespace realtime {

constexpr size_t TRANSCODED_LEVELS_MAX = 64;  // arrays and objects within each other; values have at most half of that

// Room for the msgpack of so much JSON: at worst it is doubles like `1e9`, of 3 bytes there and 9 here.
constexpr size_t transcoded_bytes_max(size_t json_bytes) { return 3 * json_bytes; }

// Writes the msgpack of `json`, which has no white space, to `out`, which has room for `transcoded_bytes_max`. Returns the
// end of it, or nullptr where `json` is malformed or nests too deep.
char* write_transcoded(char* out, std::string_view json);

namespace msgpack {

template <class Unsigned>
inline char* write_big_endian(char* out, uint8_t head, Unsigned value) {
    *out++ = static_cast<char>(head);
    for (int shift = static_cast<int>(sizeof value) * 8 - 8; shift >= 0; shift -= 8) *out++ = static_cast<char>(value >> shift);
    return out;
}

// Each writes to where there is room for 9 bytes and returns the end of what it wrote.
inline char* write_uint(char* out, uint64_t value) {
    if (value < 0x80) {
        *out = static_cast<char>(value);
        return out + 1;
    }
    if (value <= 0xFF) return write_big_endian(out, 0xCC, static_cast<uint8_t>(value));
    if (value <= 0xFFFF) return write_big_endian(out, 0xCD, static_cast<uint16_t>(value));
    if (value <= 0xFFFFFFFF) return write_big_endian(out, 0xCE, static_cast<uint32_t>(value));
    return write_big_endian(out, 0xCF, value);
}

// `magnitude` is 1 to 2^63, of a negative number.
inline char* write_negative(char* out, uint64_t magnitude) {
    const uint64_t bits = ~magnitude + 1;
    if (magnitude <= 32) {
        *out = static_cast<char>(bits);
        return out + 1;
    }
    if (magnitude <= 0x80) return write_big_endian(out, 0xD0, static_cast<uint8_t>(bits));
    if (magnitude <= 0x8000) return write_big_endian(out, 0xD1, static_cast<uint16_t>(bits));
    if (magnitude <= 0x80000000) return write_big_endian(out, 0xD2, static_cast<uint32_t>(bits));
    return write_big_endian(out, 0xD3, bits);
}

inline char* write_double(char* out, double value) {
    uint64_t bits;
    static_assert(sizeof bits == sizeof value);
    std::memcpy(&bits, &value, sizeof bits);
    return write_big_endian(out, 0xCB, bits);
}

inline char* write_string_head(char* out, size_t bytes) {
    if (bytes < 32) {
        *out = static_cast<char>(0xA0 | bytes);
        return out + 1;
    }
    if (bytes <= 0xFF) return write_big_endian(out, 0xD9, static_cast<uint8_t>(bytes));
    if (bytes <= 0xFFFF) return write_big_endian(out, 0xDA, static_cast<uint16_t>(bytes));
    return write_big_endian(out, 0xDB, static_cast<uint32_t>(bytes));
}

inline char* write_array_head(char* out, size_t count) {
    if (count < 16) {
        *out = static_cast<char>(0x90 | count);
        return out + 1;
    }
    if (count <= 0xFFFF) return write_big_endian(out, 0xDC, static_cast<uint16_t>(count));
    return write_big_endian(out, 0xDD, static_cast<uint32_t>(count));
}

inline char* write_map_head(char* out, size_t count) {
    if (count < 16) {
        *out = static_cast<char>(0x80 | count);
        return out + 1;
    }
    if (count <= 0xFFFF) return write_big_endian(out, 0xDE, static_cast<uint16_t>(count));
    return write_big_endian(out, 0xDF, static_cast<uint32_t>(count));
}

}  // namespace msgpack

template <class Sink>
void put_uint(Sink& out, uint64_t value) {
    char bytes[9];
    out.append(bytes, static_cast<size_t>(msgpack::write_uint(bytes, value) - bytes));
}

template <class Sink>
void put_double(Sink& out, double value) {
    char bytes[9];
    out.append(bytes, static_cast<size_t>(msgpack::write_double(bytes, value) - bytes));
}

// `text` is plain UTF-8, shorter than 4 GiB.
template <class Sink>
void put_string(Sink& out, std::string_view text) {
    char head[5];
    out.append(head, static_cast<size_t>(msgpack::write_string_head(head, text.size()) - head));
    out.append(text.data(), text.size());
}

template <class Sink>
void put_array_head(Sink& out, size_t count) {
    char head[5];
    out.append(head, static_cast<size_t>(msgpack::write_array_head(head, count) - head));
}

template <class Sink>
void put_map_head(Sink& out, size_t count) {
    char head[5];
    out.append(head, static_cast<size_t>(msgpack::write_map_head(head, count) - head));
}

// Appends the msgpack of `json`. False, and nothing is appended, where `json` is malformed or nests too deep.
template <class Sink>
bool transcode(std::string_view json, Sink& out) {
    constexpr size_t QUICK = 2048;  // up to so much JSON needs no memory but the stack
    char local[transcoded_bytes_max(QUICK)];
    std::unique_ptr<char[]> large;
    char* begin = local;
    if (json.size() > QUICK) {
        large.reset(new char[transcoded_bytes_max(json.size())]);
        begin = large.get();
    }
    const char* const end = write_transcoded(begin, json);
    if (end == nullptr) return false;
    out.append(begin, static_cast<size_t>(end - begin));
    return true;
}

}  // namespace realtime
