// Reads JSON values, and gives them in their canonical form.
//
// Law: each method reads one thing where the reader stands and leaves it behind that; false: it is not JSON, or not worth
// the quick way, and nothing that was read means anything. What is read is exactly what msgspec.json reads, and the text
// given for it exactly what `realtime.values.canonical` makes of that. Nothing beyond the end is looked at.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "ingest.h"

namespace realtime::ingest {

inline bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

#if defined(__SSE2__)
// Which of the 16 bytes at `p` a string cannot just go on with, as bits: quotes, backslashes, controls, what is not ASCII.
inline unsigned specials(const char* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i marks = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')), _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
    // Compared as signed, what is not ASCII is less than a space, too.
    return static_cast<unsigned>(_mm_movemask_epi8(_mm_or_si128(marks, _mm_cmplt_epi8(bytes, _mm_set1_epi8(' ')))));
}
#endif

// A number without an exponent.
struct Decimal {
    double value;
    std::string_view text;  // canonical
    uint64_t size;          // of an integer, without its sign
    bool is_integer;        // as written
    bool is_negative;
};

class CanonicalReader {
   public:
    CanonicalReader(std::string_view json, Scratch& scratch) : scratch_(scratch), p_(json.data()), end_(p_ + json.size()) {}

    // Small steps

    bool more() const { return p_ != end_; }
    bool at(char c) const { return p_ != end_ && *p_ == c; }

    void space() {
        while (p_ != end_ && static_cast<unsigned char>(*p_) <= ' ' && is_space(*p_)) {
            ++p_;
        }
    }

    bool take(char c) {
        if (!at(c)) {
            return false;
        }
        ++p_;
        return true;
    }

    bool take(std::string_view word) {
        if (static_cast<size_t>(end_ - p_) < word.size() || std::memcmp(p_, word.data(), word.size()) != 0) {
            return false;
        }
        p_ += word.size();
        return true;
    }

    // Behind a member or an element: whether there is another one. `is_over` says whether that was the last.
    bool next(char close, bool& is_over) {
        space();
        if (take(',')) {
            space();
            return true;
        }
        is_over = true;
        return take(close);
    }

    // A key and its colon.
    bool key(std::string_view& out) {
        if (!string(out)) {
            return false;
        }
        space();
        if (!take(':')) {
            return false;
        }
        space();
        return true;
    }

    // A literal null.
    bool null() { return at('n') && take("null"); }

    // Values

    // A string. `out` is its text: what stands between the quotes, or, where that has escapes, a copy without them.
    bool string(std::string_view& out) {
#if defined(__SSE2__)
        if (end_ - p_ > 16 && *p_ == '"') {  // most are short and plain
            const unsigned where = specials(p_ + 1);
            const unsigned length = where == 0 ? 0 : static_cast<unsigned>(__builtin_ctz(where));
            if (where != 0 && p_[1 + length] == '"') {
                out = std::string_view(p_ + 1, length);
                p_ += length + 2;
                return true;
            }
        }
#endif
        return any_string(out);
    }
    // A number without an exponent, and not minus zero.
    bool number(Decimal& out);
    // Any value, and its canonical JSON.
    bool value(std::string_view& out);
    // Any value: read for being JSON, and for nothing else.
    bool skip(int depth);

    // What stands between the quotes of the string that begins here is at this place, unless it has escapes.
    const char* body() const { return p_ + 1; }

   protected:
    Scratch& scratch_;

   private:
    bool any_string(std::string_view& out);
    bool escaped_string(const char* start, std::string_view& out);
    bool long_decimal(const char* start, const char* last, Decimal& out);
    bool json_string(std::string_view& out);
    bool nested(int depth);
    bool nested_array(int depth);
    bool nested_object(int depth);

    const char* p_;
    const char* const end_;
};

}  // namespace realtime::ingest
