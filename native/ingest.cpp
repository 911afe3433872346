// See ingest.h. Every rule here is one of `realtime/updates.py`, `values.py` or `geo.py`.

#include "ingest.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "json.h"

namespace realtime::ingest {

namespace {

constexpr double WHOLE_MAX = 9007199254740992.0;  // 2^53

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

size_t utf8_sequence(const char* p, const char* end) {
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

bool is_utf8(std::string_view text) {
    const char* p = text.data();
    const char* const end = p + text.size();
    while (p != end) {
        if (static_cast<signed char>(*p) >= 0) {
            ++p;
            continue;
        }
        const size_t length = utf8_sequence(p, end);
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

}  // namespace realtime::ingest
