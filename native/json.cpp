// Pieces of JSON: the readers and the writers of numbers, and the reader of escapes. The law is in json.h.

#include "json.h"

#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstring>
#include <system_error>

namespace realtime {

namespace {

// Powers of ten that are doubles exactly.
constexpr double TEN_TO[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int TEN_TO_MAX = 22;
constexpr uint64_t EXACT_MAX = uint64_t{1} << 53;

// An exponent is read no further than this, which is more than any text has digits to make up for.
constexpr int64_t SAID_MAX = 1'000'000'000'000'000;

inline bool is_digit(char byte) { return static_cast<uint8_t>(byte - '0') <= 9; }

// The digits of a number, as they are read.
struct Digits {
    uint64_t value = 0;
    int count = 0;  // from the first that is not zero; no further than 21
    bool fits = true;

    void take(char digit) {
        const uint64_t next = static_cast<uint64_t>(digit - '0');
        count += (count < 21) & (count != 0 || next != 0);
        if (count < 20) {
            value = value * 10 + next;  // 19 digits always fit
        } else {
            fits = fits && count == 20 && !__builtin_mul_overflow(value, uint64_t{10}, &value) &&
                   !__builtin_add_overflow(value, next, &value);
        }
    }
};

// The power of ten of the first digit that is not zero, in a number that is not zero, whose `e` is followed by `said`.
int64_t magnitude_of(std::string_view text, int64_t said) {
    const size_t first = text.find_first_of("123456789");
    const size_t point = text.find_first_of(".eE");
    const int64_t places = static_cast<int64_t>(point == std::string_view::npos ? text.size() : point) - static_cast<int64_t>(first);
    return (places > 0 ? places - 1 : places) + said;
}

// The double nearest to a decimal that the quick way cannot give exactly; false where it is too large for one.
bool read_real_slowly(const char* begin, const char* end, int64_t said, double* real) {
    const std::from_chars_result read = std::from_chars(begin, end, *real);
    if (read.ec == std::errc{}) return std::isfinite(*real);
    // Out of range is too large, or so small that zero is nearest.
    *real = *begin == '-' ? -0.0 : 0.0;
    return magnitude_of({begin, static_cast<size_t>(end - begin)}, said) < 0;
}

int hex_of(char byte) {
    if (is_digit(byte)) return byte - '0';
    const char lower = static_cast<char>(byte | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Four hex digits, or -1.
int read_unit(const char* at, const char* end) {
    if (end - at < 4) return -1;
    int unit = 0;
    for (int i = 0; i < 4; ++i) {
        const int digit = hex_of(at[i]);
        if (digit < 0) return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

size_t write_utf8(uint32_t code, char* out) {
    if (code < 0x80) {
        out[0] = static_cast<char>(code);
        return 1;
    }
    if (code < 0x800) {
        out[0] = static_cast<char>(0xC0 | code >> 6);
        out[1] = static_cast<char>(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = static_cast<char>(0xE0 | code >> 12);
        out[1] = static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out[2] = static_cast<char>(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = static_cast<char>(0xF0 | code >> 18);
    out[1] = static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out[2] = static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out[3] = static_cast<char>(0x80 | (code & 0x3F));
    return 4;
}

// The shortest digits of a finite, positive double: it is 0.DIGITS times ten to `point`.
struct Decimal {
    char digits[20];
    int count;
    int point;
};

// The quick way: what few decimals can say, as coordinates and speeds. A decimal of at most 15 digits is given back by
// the double nearest to it, so no two of them share a double, and the one found is the shortest there is.
bool shorten_quickly(double value, Decimal* decimal) {
    constexpr int PLACES = 7;
    constexpr double LARGEST = 1e8;  // times 10^PLACES: 15 digits
    if (FLT_EVAL_METHOD != 0 || !(value < LARGEST && value >= 1e-3)) return false;
    uint64_t scaled = static_cast<uint64_t>(value * TEN_TO[PLACES] + 0.5);
    if (static_cast<double>(scaled) / TEN_TO[PLACES] != value) return false;
    int dropped = 0;
    while (scaled % 10 == 0) {
        scaled /= 10;
        ++dropped;
    }
    decimal->count = static_cast<int>(write_json_uint(decimal->digits, scaled) - decimal->digits);
    decimal->point = decimal->count + dropped - PLACES;
    return true;
}

void shorten(double value, Decimal* decimal) {
    char text[JSON_DOUBLE_BYTES_MAX];
    const char* const end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
    // d.ddde+xx, or de+xx
    const char* at = text;
    decimal->count = 0;
    for (; *at != 'e'; ++at) {
        if (*at != '.') decimal->digits[decimal->count++] = *at;
    }
    int exponent = 0;
    std::from_chars(at[1] == '+' ? at + 2 : at + 1, end, exponent);
    decimal->point = exponent + 1;
}

}  // namespace

const char* read_number(const char* at, const char* end, Number* number) {
    const char* const begin = at;
    const bool is_negative = at != end && *at == '-';
    at += is_negative;
    if (at == end || !is_digit(*at)) return nullptr;
    Digits digits;
    if (*at == '0') {
        ++at;
        if (at != end && is_digit(*at)) return nullptr;
    } else {
        for (; at != end && is_digit(*at); ++at) digits.take(*at);
    }
    bool is_whole = true;
    int64_t decimals = 0, said = 0;
    if (at != end && *at == '.') {
        is_whole = false;
        const char* const point = ++at;
        for (; at != end && is_digit(*at); ++at) digits.take(*at);
        decimals = at - point;
        if (decimals == 0) return nullptr;
    }
    if (at != end && (*at | 0x20) == 'e') {
        is_whole = false;
        if (++at == end) return nullptr;
        const bool is_small = *at == '-';
        if (*at == '+' || *at == '-') ++at;
        if (at == end || !is_digit(*at)) return nullptr;
        for (; at != end && is_digit(*at); ++at) said = said < SAID_MAX ? said * 10 + (*at - '0') : said;
        if (is_small) said = -said;
    }
    const int64_t exponent = said - decimals;
    if (is_whole && digits.fits && (!is_negative || digits.value <= uint64_t{1} << 63)) {
        number->kind = is_negative && digits.value != 0 ? Number::Kind::NEGATIVE : Number::Kind::UNSIGNED;
        number->magnitude = digits.value;
        const double real = static_cast<double>(digits.value);
        number->real = is_negative && digits.value != 0 ? -real : real;
        return at;
    }
    number->kind = Number::Kind::DOUBLE;
    number->magnitude = 0;
    // A whole number and a power of ten that are both exact make a correctly rounded quotient or product (W. D. Clinger,
    // "How to Read Floating Point Numbers Accurately", 1990).
    if (FLT_EVAL_METHOD == 0 && digits.fits && digits.value <= EXACT_MAX && exponent >= -TEN_TO_MAX && exponent <= TEN_TO_MAX) {
        const double whole = static_cast<double>(digits.value);
        const double real = exponent < 0 ? whole / TEN_TO[-exponent] : whole * TEN_TO[exponent];
        number->real = is_negative ? -real : real;
        return at;
    }
    return read_real_slowly(begin, at, said, &number->real) ? at : nullptr;
}

const char* read_escape(const char* at, const char* end, char text[4], size_t* text_bytes) {
    if (at == end) return nullptr;
    *text_bytes = 1;
    switch (*at) {
        case '"':
        case '\\':
        case '/': text[0] = *at; return at + 1;
        case 'b': text[0] = '\b'; return at + 1;
        case 'f': text[0] = '\f'; return at + 1;
        case 'n': text[0] = '\n'; return at + 1;
        case 'r': text[0] = '\r'; return at + 1;
        case 't': text[0] = '\t'; return at + 1;
        case 'u': break;
        default: return nullptr;
    }
    const int unit = read_unit(at + 1, end);
    if (unit < 0 || (unit >= 0xDC00 && unit < 0xE000)) return nullptr;
    at += 5;
    uint32_t code = static_cast<uint32_t>(unit);
    if (unit >= 0xD800 && unit < 0xDC00) {
        if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return nullptr;
        const int low = read_unit(at + 2, end);
        if (low < 0xDC00 || low >= 0xE000) return nullptr;
        code = 0x10000u + ((code - 0xD800u) << 10) + static_cast<uint32_t>(low - 0xDC00);
        at += 6;
    }
    *text_bytes = write_utf8(code, text);
    return at;
}

char* unescape(std::string_view body, char* out) {
    const char* at = body.data();
    const char* const end = at + body.size();
    while (at != end) {
        const void* const found = std::memchr(at, '\\', static_cast<size_t>(end - at));
        const char* const stop = found != nullptr ? static_cast<const char*>(found) : end;
        std::memcpy(out, at, static_cast<size_t>(stop - at));
        out += stop - at;
        if (stop == end) break;
        char text[4];
        size_t text_bytes;
        at = read_escape(stop + 1, end, text, &text_bytes);
        if (at == nullptr) return nullptr;
        std::memcpy(out, text, text_bytes);
        out += text_bytes;
    }
    return out;
}

char* write_json_uint(char* out, uint64_t value) { return std::to_chars(out, out + JSON_UINT_BYTES_MAX, value).ptr; }

char* write_json_double(char* out, double value) {
    if (!std::isfinite(value)) {
        std::memcpy(out, "null", 4);
        return out + 4;
    }
    if (std::signbit(value)) {
        *out++ = '-';
        value = -value;
    }
    if (value == 0.0) {
        std::memcpy(out, "0.0", 3);
        return out + 3;
    }
    Decimal decimal;
    if (!shorten_quickly(value, &decimal)) shorten(value, &decimal);
    const char* const digits = decimal.digits;
    const size_t count = static_cast<size_t>(decimal.count);
    const int point = decimal.point;
    if (point > 16 || point <= -5) {
        *out++ = digits[0];
        if (count > 1) {
            *out++ = '.';
            std::memcpy(out, digits + 1, count - 1);
            out += count - 1;
        }
        *out++ = 'e';
        return std::to_chars(out, out + 5, point - 1).ptr;
    }
    if (point <= 0) {
        std::memcpy(out, "0.0000", 6);
        out += 2 - point;
        std::memcpy(out, digits, count);
        return out + count;
    }
    const size_t whole = static_cast<size_t>(point);
    if (count <= whole) {
        std::memcpy(out, digits, count);
        std::memset(out + count, '0', whole - count);
        std::memcpy(out + whole, ".0", 2);
        return out + whole + 2;
    }
    std::memcpy(out, digits, whole);
    out[whole] = '.';
    std::memcpy(out + whole + 1, digits + whole, count - whole);
    return out + count + 1;
}

}  // namespace realtime
