// See canonical.h.

#include "canonical.h"

#include <cfloat>
#include <cmath>
#include <cstddef>

#include "json.h"

namespace realtime {

namespace {

constexpr double TEN_TO[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
constexpr ptrdiff_t SURE_DIGITS = 15;  // a decimal of so many is the shortest one of its double
constexpr double SMALLEST_PLAIN = 1e-5;  // what is smaller is written with an exponent
constexpr double INTEGERS_BEGIN = -9223372036854775808.0;  // -2^63
constexpr double INTEGERS_END = 18446744073709551616.0;    // 2^64

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

}  // namespace

bool CanonicalText::number(double& value) {
    const char* const start = p_;
    const bool is_negative = take('-');
    const char* const digits = p_;
    uint64_t size = 0;
    while (p_ != end_ && is_digit(*p_)) {
        size = size * 10 + static_cast<uint64_t>(*p_++ - '0');
    }
    const ptrdiff_t whole = p_ - digits;
    ptrdiff_t decimals = 0;
    if (at('.')) {
        const char* const point = ++p_;
        while (p_ != end_ && is_digit(*p_)) {
            size = size * 10 + static_cast<uint64_t>(*p_++ - '0');
        }
        decimals = p_ - point;
        if (decimals == 0) {
            return false;
        }
    }
    if (whole == 0 || (*digits == '0' && whole > 1) || (decimals > 0 && p_[-1] == '0')) {
        return false;
    }
    if (whole + decimals > SURE_DIGITS || at('e') || at('E')) {
        return odd_number(start, value);
    }
    // One exact integer divided by one exact power of ten, rounded once.
    static_assert(FLT_EVAL_METHOD == 0, "doubles must be computed as doubles");
    const double read = static_cast<double>(size) / TEN_TO[decimals];
    value = is_negative ? -read : read;
    return read >= SMALLEST_PLAIN || (size == 0 ? decimals == 0 && !is_negative : odd_number(start, value));
}

// What is very long, very large or very small: it is written, and compared.
bool CanonicalText::odd_number(const char* start, double& value) {
    Number number;
    const char* const end = read_number(start, end_, &number);
    if (end == nullptr) {
        return false;
    }
    char text[JSON_DOUBLE_BYTES_MAX + 1];
    char* written = text;
    if (number.kind == Number::Kind::DOUBLE) {
        const double real = number.real;
        if (real == std::nearbyint(real) && real >= INTEGERS_BEGIN && real < INTEGERS_END) {
            return false;  // it would be written as an integer
        }
        written = write_json_double(written, real);
    } else {
        if (number.kind == Number::Kind::NEGATIVE) {
            *written++ = '-';
        }
        written = write_json_uint(written, number.magnitude);
    }
    p_ = end;
    value = number.real;
    return since(start) == std::string_view(text, static_cast<size_t>(written - text));
}

bool CanonicalText::string(std::string_view& body, bool& has_escapes) {
    if (!take('"')) {
        return false;
    }
    const char* const start = p_;
    has_escapes = false;
    for (;;) {
        p_ = find_special(p_, end_);
        if (p_ == end_) {
            return false;
        }
        if (*p_ == '"') {
            body = since(start);
            ++p_;
            return true;
        }
        has_escapes = true;
        if (!take('\\') || !escape()) {
            return false;
        }
    }
}

// What stands behind a backslash, if it is the one form of what cannot stand for itself.
bool CanonicalText::escape() {
    if (is_over()) {
        return false;
    }
    switch (*p_++) {
        case '"':
        case '\\':
        case 'b':
        case 't':
        case 'n':
        case 'f':
        case 'r':
            return true;
        case 'u':
            break;
        default:
            return false;
    }
    if (!take("00") || end_ - p_ < 2 || (p_[0] != '0' && p_[0] != '1')) {
        return false;
    }
    const bool is_lower = p_[1] >= 'a' && p_[1] <= 'f';
    const std::string_view short_ones = "89acd";  // \b \t \n \f \r
    if ((!is_digit(p_[1]) && !is_lower) || (p_[0] == '0' && short_ones.find(p_[1]) != std::string_view::npos)) {
        return false;
    }
    p_ += 2;
    return true;
}

bool CanonicalText::value(int depth) {
    if (is_over()) {
        return false;
    }
    std::string_view body;
    bool has_escapes;
    double ignored;
    switch (*p_) {
        case '"':
            return string(body, has_escapes);
        case 't':
            return take("true");
        case 'f':
            return take("false");
        case 'n':
            return take("null");
        case '[':
            return array(depth);
        case '{':
            return object(depth);
        default:
            return number(ignored);
    }
}

bool CanonicalText::array(int depth) {
    if (depth > CANONICAL_DEPTH_MAX || !take('[')) {
        return false;
    }
    if (take(']')) {
        return true;
    }
    while (value(depth + 1)) {
        if (!take(',')) {
            return take(']');
        }
    }
    return false;
}

bool CanonicalText::object(int depth) {
    if (depth > CANONICAL_DEPTH_MAX || !take('{')) {
        return false;
    }
    if (take('}')) {
        return true;
    }
    std::string_view before, name;
    std::string before_text, text;  // of names with escapes, which are in the order of what they stand for
    bool had_escapes = false, has_escapes = false;
    for (bool is_first = true;; is_first = false) {
        if (!string(name, has_escapes)) {
            return false;
        }
        if (has_escapes) {
            text.clear();
            append_unescaped(text, name);
        }
        const std::string_view now = has_escapes ? std::string_view(text) : name;
        if (!is_first && (had_escapes ? std::string_view(before_text) : before) >= now) {
            return false;
        }
        before = name;
        had_escapes = has_escapes;
        text.swap(before_text);
        if (!take(':') || !value(depth + 1)) {
            return false;
        }
        if (!take(',')) {
            return take('}');
        }
    }
}

void append_unescaped(std::string& out, std::string_view body) {
    const size_t start = out.size();
    out.resize(start + body.size());
    const char* const end = unescape(body, &out[start]);
    out.resize(end == nullptr ? start : static_cast<size_t>(end - out.data()));
}

}  // namespace realtime
