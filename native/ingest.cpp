// See ingest.h. Every rule here is one of `realtime/updates.py`, `values.py`, `geo.py` or of the JSON decoder in front
// of them, narrowed to what is usual; `tests/test_ingest.py` holds the two against each other.

#include "ingest.h"

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>

#include "json.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace realtime::ingest {

// A decimal of at most 15 digits is one exact integer divided by one exact power of ten, rounded once. That needs
// arithmetic in doubles and nothing wider.
static_assert(FLT_EVAL_METHOD == 0, "doubles must be computed as doubles");

namespace {

constexpr uint64_t EXACT_DIGITS = 1'000'000'000'000'000;  // 10^15: fewer digits come back from a double as they were
constexpr double SMALLEST_PLAIN = 1e-5;                   // below it canonical JSON has an exponent
constexpr double WHOLE_MAX = 9007199254740992.0;          // 2^53

constexpr double POWERS_OF_TEN[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,
                                    1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

inline bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// The length of the UTF-8 sequence at `p`, whose first byte is not ASCII; 0 if it is none.
size_t sequence(const char* p, const char* end) {
    const auto byte = [p](size_t i) { return static_cast<unsigned char>(p[i]); };
    const auto follows = [&byte](size_t i) { return (byte(i) & 0xC0) == 0x80; };
    const unsigned char first = byte(0);
    const size_t left = static_cast<size_t>(end - p);
    if (first >= 0xC2 && first <= 0xDF) {
        return left >= 2 && follows(1) ? 2 : 0;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        if (left < 3 || !follows(1) || !follows(2) || (first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F)) {
            return 0;
        }
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (left < 4 || !follows(1) || !follows(2) || !follows(3) || (first == 0xF0 && byte(1) < 0x90) ||
            (first == 0xF4 && byte(1) > 0x8F)) {
            return 0;
        }
        return 4;
    }
    return 0;
}

// Two digits, as they are printed.
constexpr char PAIRS[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960"
    "616263646566676869707172737475767778798081828384858687888990919293949596979899";

inline void put_pair(uint32_t value, char* out) { std::memcpy(out, PAIRS + 2 * value, 2); }

size_t put_whole(uint64_t value, char* out) {
    if (value < 10) {
        *out = static_cast<char>('0' + value);
        return 1;
    }
    char digits[20];
    size_t first = sizeof digits;
    while (value >= 100) {
        first -= 2;
        put_pair(static_cast<uint32_t>(value % 100), digits + first);
        value /= 100;
    }
    if (value >= 10) {
        first -= 2;
        put_pair(static_cast<uint32_t>(value), digits + first);
    } else {
        digits[--first] = static_cast<char>('0' + value);
    }
    std::memcpy(out, digits + first, sizeof digits - first);
    return sizeof digits - first;
}

// Write nine digits after the point; return how many are left without the zeros at their end. At least one is none.
size_t put_fraction(uint32_t billionths, char* out) {
    *out = static_cast<char>('0' + billionths / 100'000'000);
    const uint32_t rest = billionths % 100'000'000, high = rest / 10'000, low = rest % 10'000;
    put_pair(high / 100, out + 1);
    put_pair(high % 100, out + 3);
    put_pair(low / 100, out + 5);
    put_pair(low % 100, out + 7);
    size_t length = 9;
    while (out[length - 1] == '0') {
        --length;
    }
    return length;
}

}  // namespace

// Numbers

size_t write_integer(int64_t value, char* out) {
    size_t sign = 0;
    uint64_t size = static_cast<uint64_t>(value);
    if (value < 0) {
        *out = '-';
        sign = 1;
        size = 0 - size;
    }
    return sign + put_whole(size, out + sign);
}

size_t write_double(double value, char* out) {
    const double size = std::fabs(value);
    if (!(size >= SMALLEST_PLAIN && size < WHOLE_MAX)) {
        const bool is_zero = value == 0.0 && !std::signbit(value);
        *out = '0';
        return is_zero ? 1 : 0;
    }
    const uint64_t whole = static_cast<uint64_t>(size);
    if (static_cast<double>(whole) == size) {
        return write_integer(value < 0 ? -static_cast<int64_t>(whole) : static_cast<int64_t>(whole), out);
    }
    if (size < 1e6) {
        // Most numbers were once typed with few digits: if so many billionths are this double, they are its shortest form.
        const uint64_t billionths = static_cast<uint64_t>(size * 1e9 + 0.5);
        if (billionths < EXACT_DIGITS && static_cast<double>(billionths) / 1e9 == size) {
            char* at = out;
            if (value < 0) {
                *at++ = '-';
            }
            at += put_whole(billionths / 1'000'000'000, at);
            *at++ = '.';
            at += put_fraction(static_cast<uint32_t>(billionths % 1'000'000'000), at);
            return static_cast<size_t>(at - out);
        }
    }
    const auto written = std::to_chars(out, out + NUMBER_BYTES_MAX, value, std::chars_format::fixed);
    return written.ec == std::errc() ? static_cast<size_t>(written.ptr - out) : 0;
}

// Texts

bool is_utf8(std::string_view text) {
    const char* p = text.data();
    const char* const end = p + text.size();
    while (p != end) {
        if (static_cast<signed char>(*p) >= 0) {
            ++p;
            continue;
        }
        const size_t length = sequence(p, end);
        if (length == 0) {
            return false;
        }
        p += length;
    }
    return true;
}

bool is_id(std::string_view text) {
    if (text.empty() || text.size() > ID_BYTES_MAX) {
        return false;
    }
    bool is_good = true;
    for (size_t i = 0; i < text.size(); ++i) {
        const unsigned char byte = static_cast<unsigned char>(text[i]);
        is_good &= byte >= 0x20 && byte != 0x7F;
        // U+0080 to U+009F are C2 80 to C2 9F.
        is_good &= byte != 0xC2 || i + 1 == text.size() || static_cast<unsigned char>(text[i + 1]) >= 0xA0;
    }
    return is_good;
}

bool is_principal(std::string_view text) {
    if (text == "public") {
        return true;
    }
    if (text.size() > 5 && text.compare(0, 5, "user:") == 0) {
        return is_id(text.substr(5));
    }
    return text.size() > 6 && text.compare(0, 6, "group:") == 0 && is_id(text.substr(6));
}

bool is_plain(std::string_view text) {
    const char* const end = text.data() + text.size();
    return find_special(text.data(), end) == end;
}

// Names

Member member_named(std::string_view name) {
    const auto is = [name](const char* other) { return std::memcmp(name.data(), other, name.size()) == 0; };
    switch (name.size()) {
        case 2:
            return is("id") ? Member::ID : is("op") ? Member::OP : Member::OTHER;
        case 3:
            return is("lon") ? Member::LON : is("lat") ? Member::LAT : is("ttl") ? Member::TTL : Member::OTHER;
        case 4:
            return is("type") ? Member::TYPE : is("kind") ? Member::KIND : is("rank") ? Member::RANK : Member::OTHER;
        case 6:
            return is("access") ? Member::ACCESS : Member::OTHER;
        case 7:
            return is("version") ? Member::VERSION : Member::OTHER;
        case 8:
            return is("geometry") ? Member::GEOMETRY : is("min_zoom") ? Member::MIN_ZOOM : Member::OTHER;
        case 10:
            return is("properties") ? Member::PROPERTIES : Member::OTHER;
        default:
            return Member::OTHER;
    }
}

bool parse_op(std::string_view name, Op* op) {
    if (name == "move") {
        *op = Op::MOVE;
    } else if (name == "patch") {
        *op = Op::PATCH;
    } else if (name == "delete") {
        *op = Op::DELETE;
    } else {
        return false;
    }
    return true;
}

// Scratch

Scratch::Scratch(const IngestLimits& limits)
    : entity_bytes_(limits.entity_bytes),
      entity_properties_(limits.entity_properties),
      default_access_texts_(limits.default_access),
      bytes_max_(limits.entity_bytes + ID_BYTES_MAX * (ACCESS_PRINCIPALS_MAX + 2) + 1024),
      bytes_(new char[bytes_max_]) {
    std::sort(default_access_texts_.begin(), default_access_texts_.end());
    default_access_texts_.erase(std::unique(default_access_texts_.begin(), default_access_texts_.end()), default_access_texts_.end());
    default_access_.assign(default_access_texts_.begin(), default_access_texts_.end());
    properties_.reserve(NAMED_MAX);
    principals_.reserve(ACCESS_PRINCIPALS_MAX);
}

void Scratch::clear() {
    properties_.clear();
    principals_.clear();
    used_ = size_ = counted_ = 0;
    names_ = 0;
    has_null_ = false;
}

bool Scratch::append(std::string_view text) {
    char* const to = room(text.size());
    if (to == nullptr) {
        return false;
    }
    std::memmove(to, text.data(), text.size());  // it may come from a little further on in here
    take(text.size());
    return true;
}

bool Scratch::quote(std::string_view text) {
    struct Sink {
        Scratch& scratch;
        bool is_good = true;
        void append(const char* bytes, size_t count) { is_good = is_good && scratch.append({bytes, count}); }
    } sink{*this};
    put_json_string(sink, text);
    return sink.is_good;
}

bool Scratch::is_named(std::string_view name) const {
    return std::any_of(properties_.begin(), properties_.end(), [name](const NamedProperty& other) { return other.name == name; });
}

bool Scratch::add(std::string_view name, std::string_view json) {
    const unsigned first = name.empty() ? 0 : static_cast<unsigned char>(name.front());
    const unsigned last = name.empty() ? 0 : static_cast<unsigned char>(name.back());
    const uint64_t bit = uint64_t{1} << ((first * 7 + last * 3 + name.size()) % 64);
    if (properties_.size() == NAMED_MAX || ((names_ & bit) != 0 && is_named(name))) {
        return false;
    }
    names_ |= bit;
    properties_.push_back({name, json});
    if (json.empty()) {
        has_null_ = true;
        return true;
    }
    ++counted_;
    size_ += name.size() + 2 + json.size();
    return counted_ <= entity_properties_ && size_ <= entity_bytes_;
}

void Scratch::name_properties(Update& update) {
    if (has_null_ && update.op == Op::UPSERT) {
        const auto is_null = [](const NamedProperty& property) { return property.json.empty(); };
        properties_.erase(std::remove_if(properties_.begin(), properties_.end(), is_null), properties_.end());
    }
    update.has_properties = true;
    update.properties = properties_.data();
    update.property_count = properties_.size();
}

void Scratch::name_access(Update& update) {
    if (principals_.size() > 1) {
        std::sort(principals_.begin(), principals_.end());
        principals_.erase(std::unique(principals_.begin(), principals_.end()), principals_.end());
    }
    update.has_access = true;
    update.access = principals_.data();
    update.access_count = principals_.size();
}

void Scratch::name_default_access(Update& update) {
    update.has_access = true;
    update.access = default_access_.data();
    update.access_count = default_access_.size();
}

bool Scratch::name_point(Update& update, double lon, double lat, std::string_view text, bool is_point) {
    if (!(lon >= -180.0 && lon <= 180.0 && lat >= -90.0 && lat <= 90.0)) {
        return false;
    }
    update.geometry.boxes[0] = {lon, lat, lon, lat};
    update.geometry.box_count = 1;
    update.geometry.text = text;
    update.geometry.is_point = is_point;
    return true;
}

void Scratch::complete(Update& update) {
    update.op = Op::UPSERT;
    name_properties(update);
    update.has_kind = true;
    if (!update.has_min_zoom) {
        update.has_min_zoom = true;
        update.min_zoom = MIN_ZOOM_DEFAULT;
    }
    if (!update.has_rank) {
        update.has_rank = true;
        update.rank = RANK_DEFAULT;
    }
    if (!update.has_access) {
        name_default_access(update);
    }
    update.has_ttl = true;
}

void Scratch::strip(Update& update) {
    Update other;
    other.op = update.op;
    other.id = update.id;
    other.version = update.version;
    update = other;
}

// Reading

namespace {

constexpr unsigned bit_of(Member member) { return 1u << static_cast<unsigned>(member); }

struct Decimal {
    double value;
    std::string_view text;  // canonical
    uint64_t size;          // of an integer, without its sign
    bool is_integer;        // as written
    bool is_negative;
};

// One reading of one text. Each method reads one thing at `p` and leaves `p` behind it; false: let others look at it.
class Reading {
public:
    Reading(std::string_view json, Scratch& scratch, Update& update)
        : p_(json.data()), end_(p_ + json.size()), scratch_(scratch), update_(update) {}

    bool update();

private:
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

    bool string(std::string_view& out);
    bool escaped_string(const char* start, std::string_view& out);
    bool number(Decimal& out);
    bool long_decimal(const char* start, const char* last, Decimal& out);
    bool skip(int depth);
    bool nested(int depth);
    bool nested_object(int depth);
    bool json_string(std::string_view& out);
    bool json_value(std::string_view& out);
    bool member(std::string_view name);
    bool read_op();
    bool read_type();
    bool read_id();
    bool read_version();
    bool read_geometry();
    bool read_coordinates(bool& is_good);
    bool read_properties();
    bool read_kind();
    bool read_real(double low, double high, double otherwise, double& out);
    bool read_ttl();
    bool read_access();
    bool join(const Decimal* numbers, size_t count, std::string_view head, std::string_view tail, std::string_view& out);
    bool finish();

    const char* p_;
    const char* const end_;
    Scratch& scratch_;
    Update& update_;
    unsigned seen_ = 0;
    bool has_op_ = false;
    bool is_feature_ = false;
    Decimal lon_, lat_;
};

// A string, in UTF-8. `out` is its text: what stands between the quotes, or, where that has escapes, a copy without them.
bool Reading::string(std::string_view& out) {
    if (!take('"')) {
        return false;
    }
    const char* const start = p_;
    while (true) {
#if defined(__SSE2__)
        const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), printable = _mm_set1_epi8(' ');
        while (end_ - p_ >= 16) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p_));
            // Compared as signed, what is not ASCII is less than a space, too.
            const __m128i special =
                _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)), _mm_cmplt_epi8(bytes, printable));
            const unsigned where = static_cast<unsigned>(_mm_movemask_epi8(special));
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
        if (static_cast<signed char>(c) < 0 && (length = sequence(p_, end_)) == 0) {
            return false;
        }
        p_ += length;
    }
}

// The same, where a backslash stands at `p`.
bool Reading::escaped_string(const char* start, std::string_view& out) {
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

// A number without an exponent, and not minus zero.
bool Reading::number(Decimal& out) {
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
bool Reading::long_decimal(const char* start, const char* last, Decimal& out) {
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

// Any value: read for being JSON, and for nothing else.
bool Reading::skip(int depth) {
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
bool Reading::nested(int depth) {
    if (!more() || depth > NESTING_MAX) {
        return false;
    }
    if (*p_ == '{') {
        return nested_object(depth);
    }
    if (*p_ != '[') {
        const char* const start = scratch_.room(0);
        std::string_view json;
        if (!json_value(json)) {
            return false;
        }
        scratch_.rewind(start);  // where it may have left what it made of the text
        return scratch_.append(json);
    }
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

bool Reading::nested_object(int depth) {
    ++p_;
    space();
    if (take('}')) {
        return scratch_.append("{}");
    }
    bool is_over = false;
    std::string_view before;  // the last key
    for (bool is_first = true; !is_over; is_first = false) {
        std::string_view name;
        const char* const start = p_ + 1;
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
bool Reading::json_string(std::string_view& out) {
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

// A value and its canonical JSON.
bool Reading::json_value(std::string_view& out) {
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

bool Reading::read_op() {
    if (null()) {
        return true;
    }
    std::string_view op;
    has_op_ = true;
    return string(op) && parse_op(op, &update_.op);
}

bool Reading::read_type() {
    std::string_view type;
    if (!at('"')) {
        return skip(1);
    }
    if (!string(type)) {
        return false;
    }
    is_feature_ = type == "Feature";
    return true;
}

bool Reading::read_id() { return string(update_.id) && is_id(update_.id); }

bool Reading::read_version() {
    if (null()) {
        return true;
    }
    Decimal number;
    if (!this->number(number) || !number.is_integer || number.is_negative || number.size == 0 || number.size > VERSION_MAX) {
        return false;
    }
    update_.version = number.size;
    return true;
}

// Put numbers together with commas between them.
bool Reading::join(const Decimal* numbers, size_t count, std::string_view head, std::string_view tail, std::string_view& out) {
    const char* const start = scratch_.room(0);
    bool is_written = scratch_.append(head);
    for (size_t i = 0; i < count; ++i) {
        is_written = is_written && (i == 0 || scratch_.append(",")) && scratch_.append(numbers[i].text);
    }
    is_written = is_written && scratch_.append(tail);
    out = scratch_.since(start);
    return is_written;
}

bool Reading::read_coordinates(bool& is_good) {
    if (!take('[')) {
        return false;
    }
    space();
    Decimal numbers[3];
    size_t count = 0;
    bool is_over = false;
    while (!is_over) {
        if (count == 3 || !number(numbers[count++]) || !next(']', is_over)) {
            return false;
        }
    }
    if (count < 2) {
        return false;
    }
    std::string_view text;
    const Decimal &lon = numbers[0], &lat = numbers[1];
    if (count == 2 && lon.text.data() + lon.text.size() + 1 == lat.text.data()) {
        text = std::string_view(lon.text.data(), lon.text.size() + 1 + lat.text.size());  // they stand side by side
        if (text[lon.text.size()] != ',') {
            return false;
        }
    } else {
        const bool is_point = count == 2;
        if (!join(numbers, count, is_point ? "" : "{\"type\":\"Point\",\"coordinates\":[", is_point ? "" : "]}", text)) {
            return false;
        }
    }
    is_good = true;
    return Scratch::name_point(update_, lon.value, lat.value, text, count == 2);
}

bool Reading::read_geometry() {
    if (!take('{')) {
        return false;
    }
    space();
    bool is_over = false, is_point = false, has_type = false, has_coordinates = false;
    while (!is_over) {
        std::string_view name;
        if (!key(name)) {
            return false;
        }
        if (name == "type") {
            std::string_view type;
            if (has_type || !string(type)) {
                return false;
            }
            has_type = true;
            is_point = type == "Point";
        } else if (name == "coordinates") {
            if (has_coordinates || !read_coordinates(has_coordinates)) {
                return false;
            }
        } else if (!skip(1)) {
            return false;
        }
        if (!next('}', is_over)) {
            return false;
        }
    }
    return is_point && has_coordinates;
}

bool Reading::read_properties() {
    update_.has_properties = true;
    if (null()) {
        return true;
    }
    if (!take('{')) {
        return false;
    }
    space();
    if (take('}')) {
        return true;
    }
    bool is_over = false;
    while (!is_over) {
        std::string_view name, json;
        const char* const start = p_ + 1;
        if (!key(name) || (name.data() != start && !is_plain(name))) {
            return false;
        }
        const bool is_null = null();
        if ((!is_null && !json_value(json)) || !scratch_.add(name, json) || !next('}', is_over)) {
            return false;
        }
    }
    return true;
}

bool Reading::read_kind() {
    update_.has_kind = true;
    return null() || (string(update_.kind) && is_id(update_.kind));
}

bool Reading::read_real(double low, double high, double otherwise, double& out) {
    if (null()) {
        out = otherwise;
        return true;
    }
    Decimal number;
    if (!this->number(number)) {
        return false;
    }
    out = number.value;
    return out >= low && out <= high;
}

bool Reading::read_ttl() {
    update_.has_ttl = true;
    const bool is_null = at('n');
    return read_real(0.0, TTL_MAX_S, 0.0, update_.ttl) && (is_null || update_.ttl > 0.0);
}

bool Reading::read_access() {
    if (null()) {
        scratch_.name_default_access(update_);
        return true;
    }
    if (!take('[')) {
        return false;
    }
    space();
    bool is_over = take(']');
    while (!is_over) {
        std::string_view principal;
        if (scratch_.principal_count() == ACCESS_PRINCIPALS_MAX || !string(principal) || !is_principal(principal) || !next(']', is_over)) {
            return false;
        }
        scratch_.put_principal(principal);
    }
    scratch_.name_access(update_);
    return true;
}

// One member of the update; none may come twice. One that means nothing must still be JSON.
bool Reading::member(std::string_view name) {
    const Member member = member_named(name);
    if (member == Member::OTHER) {
        return skip(1);
    }
    const unsigned bit = bit_of(member);
    if ((seen_ & bit) != 0) {
        return false;
    }
    seen_ |= bit;
    switch (member) {
        case Member::OP:
            return read_op();
        case Member::TYPE:
            return read_type();
        case Member::ID:
            return read_id();
        case Member::VERSION:
            return read_version();
        case Member::GEOMETRY:
            return read_geometry();
        case Member::PROPERTIES:
            return read_properties();
        case Member::KIND:
            return read_kind();
        case Member::MIN_ZOOM:
            update_.has_min_zoom = true;
            return read_real(0.0, MIN_ZOOM_MAX, MIN_ZOOM_DEFAULT, update_.min_zoom);
        case Member::RANK:
            update_.has_rank = true;
            return read_real(0.0, 1.0, RANK_DEFAULT, update_.rank);
        case Member::ACCESS:
            return read_access();
        case Member::TTL:
            return read_ttl();
        case Member::LON:
            return number(lon_);
        default:
            return number(lat_);
    }
}

bool Reading::update() {
    space();
    if (!take('{')) {
        return false;
    }
    space();
    bool is_over = false;
    while (!is_over) {
        std::string_view name;
        if (!key(name) || !member(name) || !next('}', is_over)) {
            return false;
        }
    }
    space();
    return !more() && finish();
}

// Make of the members what the update's kind makes of them.
bool Reading::finish() {
    const auto has = [this](Member member) { return (seen_ & bit_of(member)) != 0; };
    if (!has(Member::ID)) {
        return false;
    }
    if (!has_op_) {
        scratch_.complete(update_);
        return is_feature_ && has(Member::GEOMETRY);
    }
    if (update_.op == Op::PATCH) {
        if (update_.has_properties) {
            scratch_.name_properties(update_);
        }
        return true;
    }
    Scratch::strip(update_);
    if (update_.op == Op::DELETE) {
        return true;
    }
    const Decimal numbers[] = {lon_, lat_};
    std::string_view text;
    return has(Member::LON) && has(Member::LAT) && join(numbers, 2, "", "", text) &&
           Scratch::name_point(update_, lon_.value, lat_.value, text, true);
}

}  // namespace

bool UpdateReader::parse(std::string_view json, Update& update) {
    scratch_.clear();
    update = Update{};
    return Reading(json, scratch_, update).update();
}

// Lines

namespace {

bool is_blank(std::string_view line) {
    return std::all_of(line.begin(), line.end(), [](char c) { return is_space(c) || c == '\v' || c == '\f'; });
}

}  // namespace

bool LineSplitter::next(std::string_view& data, Line& line) {
    while (!data.empty()) {
        const void* const found = std::memchr(data.data(), separator_, data.size());
        if (found == nullptr) {
            keep(data);
            data = std::string_view();
            return false;
        }
        const std::string_view head = data.substr(0, static_cast<size_t>(static_cast<const char*>(found) - data.data()));
        data.remove_prefix(head.size() + 1);
        if (is_too_long_ || (!is_taken_ && !kept_.empty())) {
            keep(head);
            if (take_kept(line)) {
                return true;
            }
            continue;
        }
        line.is_too_long = head.size() > line_bytes_max_;
        line.text = line.is_too_long ? std::string_view() : head;
        if (line.is_too_long || !is_blank(head)) {
            return true;
        }
    }
    return false;
}

bool LineSplitter::end(Line& line) { return (is_too_long_ || !is_taken_) && take_kept(line); }

void LineSplitter::keep(std::string_view data) {
    if (is_taken_) {
        kept_.clear();
        is_taken_ = false;
    }
    if (is_too_long_ || data.size() > line_bytes_max_ - kept_.size()) {
        is_too_long_ = true;
        kept_.clear();
    } else {
        kept_.append(data);
    }
}

// Give out the line that was kept, unless it is blank.
bool LineSplitter::take_kept(Line& line) {
    line.is_too_long = is_too_long_;
    line.text = kept_;
    is_too_long_ = false;
    is_taken_ = true;
    return line.is_too_long || !is_blank(line.text);
}

}  // namespace realtime::ingest
