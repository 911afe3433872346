// Pieces of JSON: numbers and strings, read and written.
//
// Law: what is written is byte for byte what msgspec.json.encode writes of the same value, and what is read is the
// double, integer or text that msgspec.json.decode reads. Readers get no further than `end`, whatever the bytes are.
//
// A sink is whatever has `append(const char*, size_t)`, as std::string does.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace realtime {

constexpr size_t JSON_DOUBLE_BYTES_MAX = 32;  // the longest are like -1.7976931348623157e-308
constexpr size_t JSON_UINT_BYTES_MAX = 20;

// A number as JSON spells it. An integer that does not fit in 64 bits is a DOUBLE.
struct Number {
    enum class Kind : uint8_t { UNSIGNED, NEGATIVE, DOUBLE } kind;
    uint64_t magnitude;  // of an integer; a NEGATIVE is -1 to -2^63
    double real;         // the nearest double, whatever the kind
};

// Reads the number that begins at `at`; returns where it ends, or nullptr where there is none, or none that is finite.
const char* read_number(const char* at, const char* end, Number* number);

// Reads an escape, `at` being behind its backslash, as up to 4 bytes of UTF-8. Returns where it ends (behind the second
// half of a surrogate pair), or nullptr where it is malformed, or half a pair.
const char* read_escape(const char* at, const char* end, char text[4], size_t* text_bytes);

// Unescapes what stands between the quotes of a string; `out` has room for as many bytes. Returns the end of what was
// written, or nullptr where an escape is malformed.
char* unescape(std::string_view body, char* out);

// Writes up to JSON_DOUBLE_BYTES_MAX bytes, the shortest decimal that gives the double back; returns their end.
// Like msgspec's: 5.0, 1e16, 0.00001, 1.5e-7; what is not finite is null.
char* write_json_double(char* out, double value);

// Writes up to JSON_UINT_BYTES_MAX digits; returns their end.
char* write_json_uint(char* out, uint64_t value);

// The first byte in [at, end) that a string cannot hold as it is: a quote, a backslash, a control character; or `end`.
inline const char* find_special(const char* at, const char* end) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), control = _mm_set1_epi8(0x1F);
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        // Unsigned bytes have no comparison of their own: the smaller of a byte and 0x1F is the byte where it is at most that.
        const __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes);
        const __m128i found = _mm_or_si128(low, _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)));
        const int mask = _mm_movemask_epi8(found);
        if (mask != 0) return at + __builtin_ctz(static_cast<unsigned>(mask));
    }
#endif
    for (; at != end; ++at) {
        const uint8_t byte = static_cast<uint8_t>(*at);
        if (byte == '"' || byte == '\\' || byte < 0x20) return at;
    }
    return end;
}

template <class Sink>
void put_json_double(Sink& out, double value) {
    char bytes[JSON_DOUBLE_BYTES_MAX];
    out.append(bytes, static_cast<size_t>(write_json_double(bytes, value) - bytes));
}

template <class Sink>
void put_json_uint(Sink& out, uint64_t value) {
    char bytes[JSON_UINT_BYTES_MAX];
    out.append(bytes, static_cast<size_t>(write_json_uint(bytes, value) - bytes));
}

// Writes plain UTF-8 as a string, with its quotes.
template <class Sink>
void put_json_string(Sink& out, std::string_view text) {
    out.append("\"", 1);
    const char* at = text.data();
    const char* const end = at + text.size();
    for (;;) {
        const char* const special = find_special(at, end);
        out.append(at, static_cast<size_t>(special - at));
        if (special == end) break;
        const char byte = *special;
        char escape[6] = {'\\', byte, '0', '0', '0', '0'};
        size_t escape_bytes = 2;
        switch (byte) {
            case '"':
            case '\\': break;
            case '\b': escape[1] = 'b'; break;
            case '\t': escape[1] = 't'; break;
            case '\n': escape[1] = 'n'; break;
            case '\f': escape[1] = 'f'; break;
            case '\r': escape[1] = 'r'; break;
            default:
                escape[1] = 'u';
                escape[4] = static_cast<char>('0' + (byte >> 4));
                escape[5] = "0123456789abcdef"[byte & 15];
                escape_bytes = 6;
        }
        out.append(escape, escape_bytes);
        at = special + 1;
    }
    out.append("\"", 1);
}

}  // namespace realtime
