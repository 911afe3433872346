// See canonical_reader.h.

#include "canonical_reader.h"

#include <cfloat>
#include <charconv>
#include <cmath>

#include "json.h"

namespace realtime::ingest {

// A decimal of at most 15 digits is one exact integer divided by one exact power of ten, rounded once. That needs
// arithmetic in doubles and nothing wider.
static_assert(FLT_EVAL_METHOD == 0, "doubles must be computed as doubles");

namespace {

constexpr double POWERS_OF_TEN[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,
                                    1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

}  // namespace

bool CanonicalReader::any_string(std::string_view& out) {
    if (!take('"')) {
        return false;
    }
    const char* const start = p_;
    while (true) {
#if defined(__SSE2__)
        while (end_ - p_ >= 16) {
            const unsigned where = specials(p_);
            if (where != 0) {
                p_ += __builtin_ctz(where);
                break;
            }
            p_ += 16;
        }
#endif
        if (p_ == end_) {
            return false;
        }
        const char c = *p_;
        if (c == '"') {
            out = std::string_view(start, static_cast<size_t>(p_ - start));
            ++p_;
            return true;
        }
        if (c == '\\') {
            return escaped_string(start, out);
        }
        if (static_cast<unsigned char>(c) < ' ') {
            return false;
        }
        size_t length = 1;
        if (static_cast<signed char>(c) < 0 && (length = utf8_sequence(p_, end_)) == 0) {
            return false;
        }
        p_ += length;
    }
}

// The same, where a backslash stands at `p`.
bool CanonicalReader::escaped_string(const char* start, std::string_view& out) {
    while (p_ != end_ && *p_ != '"') {
        if (static_cast<unsigned char>(*p_) < ' ' || (*p_ == '\\' && ++p_ == end_)) {
            return false;
        }
        ++p_;
    }
    const std::string_view body(start, static_cast<size_t>(p_ - start));
    char* const text = scratch_.room(body.size());
    char* const text_end = text == nullptr ? nullptr : unescape(body, text);
    if (text_end == nullptr || !take('"')) {
        return false;
    }
    out = std::string_view(text, static_cast<size_t>(text_end - text));
    scratch_.take(out.size());
    return is_utf8(out);
}

bool CanonicalReader::number(Decimal& out) {
    const char* const start = p_;
    out.is_negative = take('-');
    const char* const digits = p_;
    uint64_t size = 0;
    if (take('0')) {
        if (more() && is_digit(*p_)) {
            return false;
        }
    } else {
        while (more() && is_digit(*p_)) {
            size = size * 10 + static_cast<uint64_t>(*p_++ - '0');
        }
        if (p_ == digits) {
            return false;
        }
    }
    const size_t whole_digits = static_cast<size_t>(p_ - digits);
    if (!at('.')) {
        if (whole_digits > 18 || (out.is_negative && size == 0) || at('e') || at('E')) {
            return false;
        }
        out.is_integer = true;
        out.size = size;
        out.value = out.is_negative ? -static_cast<double>(size) : static_cast<double>(size);
        out.text = std::string_view(start, static_cast<size_t>(p_ - start));
        return true;
    }
    const char* const point = p_++;
    while (more() && is_digit(*p_)) {
        size = size * 10 + static_cast<uint64_t>(*p_++ - '0');
    }
    const char* last = p_;
    if (last == point + 1 || at('e') || at('E')) {
        return false;
    }
    out.is_integer = false;
    out.size = 0;
    const bool is_exact = whole_digits + static_cast<size_t>(last - point) <= 19;  // `size` did not overflow
    while (last[-1] == '0') {
        --last;
        size /= 10;
    }
    if (last - 1 == point) {  // 1.0 is 1
        if (!is_exact || size >= EXACT_DIGITS || (out.is_negative && size == 0)) {
            return false;
        }
        out.value = out.is_negative ? -static_cast<double>(size) : static_cast<double>(size);
        out.text = std::string_view(start, static_cast<size_t>(point - start));
        return true;
    }
    if (!is_exact || size >= EXACT_DIGITS) {
        return long_decimal(start, last, out);
    }
    const double value = static_cast<double>(size) / POWERS_OF_TEN[last - point - 1];
    out.value = out.is_negative ? -value : value;
    out.text = std::string_view(start, static_cast<size_t>(last - start));
    return value >= SMALLEST_PLAIN;
}

// A decimal that may be longer than its double needs.
bool CanonicalReader::long_decimal(const char* start, const char* last, Decimal& out) {
    const auto read = std::from_chars(start, last, out.value, std::chars_format::fixed);
    if (read.ec != std::errc() || read.ptr != last || std::nearbyint(out.value) == out.value) {
        return false;
    }
    char* const written = scratch_.room(NUMBER_BYTES_MAX);
    const size_t length = written == nullptr ? 0 : write_double(out.value, written);
    if (length == 0) {
        return false;
    }
    scratch_.take(length);
    out.text = std::string_view(written, length);
    return true;
}

bool CanonicalReader::skip(int depth) {
    if (!more() || depth > NESTING_MAX) {
        return false;
    }
    std::string_view text;
    Decimal ignored;
    bool is_over = false;
    switch (*p_) {
        case '"':
            return string(text);
        case 't':
            return take("true");
        case 'f':
            return take("false");
        case 'n':
            return take("null");
        case '[':
            ++p_;
            space();
            if (take(']')) {
                return true;
            }
            while (!is_over) {
                if (!skip(depth + 1) || !next(']', is_over)) {
                    return false;
                }
            }
            return true;
        case '{':
            ++p_;
            space();
            if (take('}')) {
                return true;
            }
            while (!is_over) {
                if (!key(text) || !skip(depth + 1) || !next('}', is_over)) {
                    return false;
                }
            }
            return true;
        default:
            return number(ignored);
    }
}

// A value within a value, copied without white space. The keys of an object must be sorted already.
bool CanonicalReader::nested(int depth) {
    if (!more() || depth > NESTING_MAX) {
        return false;
    }
    if (*p_ == '{') {
        return nested_object(depth);
    }
    if (*p_ != '[') {
        const char* const start = scratch_.room(0);
        std::string_view json;
        if (!value(json)) {
            return false;
        }
        scratch_.rewind(start);  // where it may have left what it made of the text
        return scratch_.append(json);
    }
    return nested_array(depth);
}

bool CanonicalReader::nested_array(int depth) {
    ++p_;
    space();
    if (take(']')) {
        return scratch_.append("[]");
    }
    bool is_over = false;
    for (bool is_first = true; !is_over; is_first = false) {
        if (!scratch_.append(is_first ? "[" : ",") || !nested(depth + 1) || !next(']', is_over)) {
            return false;
        }
    }
    return scratch_.append("]");
}

bool CanonicalReader::nested_object(int depth) {
    ++p_;
    space();
    if (take('}')) {
        return scratch_.append("{}");
    }
    bool is_over = false;
    std::string_view before;  // the last key
    for (bool is_first = true; !is_over; is_first = false) {
        std::string_view name;
        const char* const start = body();
        if (!key(name) || name.data() != start || (!is_first && before >= name)) {
            return false;
        }
        before = name;
        if (!scratch_.append(is_first ? "{\"" : ",\"") || !scratch_.append(name) || !scratch_.append("\":") || !nested(depth + 1) ||
            !next('}', is_over)) {
            return false;
        }
    }
    return scratch_.append("}");
}

// A string and its canonical JSON.
bool CanonicalReader::json_string(std::string_view& out) {
    const char* const start = p_;
    std::string_view text;
    if (!string(text)) {
        return false;
    }
    if (text.data() == start + 1) {
        out = std::string_view(start, text.size() + 2);  // with its quotes, as it stands there
        return true;
    }
    const char* const quoted = scratch_.room(0);
    const bool is_written = scratch_.quote(text);
    out = scratch_.since(quoted);
    return is_written;
}

bool CanonicalReader::value(std::string_view& out) {
    if (!more()) {
        return false;
    }
    const char* const start = p_;
    Decimal one;
    switch (*p_) {
        case '"':
            return json_string(out);
        case 't':
            out = std::string_view(start, 4);
            return take("true");
        case 'f':
            out = std::string_view(start, 5);
            return take("false");
        case 'n':
            out = std::string_view(start, 4);
            return take("null");
        case '[':
        case '{': {
            const char* const copied = scratch_.room(0);
            const bool is_read = nested(1);
            out = scratch_.since(copied);
            return is_read;
        }
        default:
            if (!number(one)) {
                return false;
            }
            out = one.text;
            return true;
    }
}

}  // namespace realtime::ingest
