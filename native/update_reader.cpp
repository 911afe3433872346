// See ingest.h. Every rule here is one of `realtime/updates.py` or `geo.py`, narrowed to what is usual.

#include "canonical_reader.h"

namespace realtime::ingest {

namespace {

constexpr unsigned bit_of(Member member) { return 1u << static_cast<unsigned>(member); }

// One reading of one text.
class Reading : private CanonicalReader {
   public:
    Reading(std::string_view json, Scratch& scratch, Update& update) : CanonicalReader(json, scratch), update_(update) {}

    bool update();

   private:
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

    Update& update_;
    unsigned seen_ = 0;  // the members that were named, as bits
    bool has_op_ = false;
    bool is_feature_ = false;
    Decimal lon_, lat_;
};

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
        const char* const start = body();
        if (!key(name) || (name.data() != start && !is_plain(name))) {
            return false;
        }
        const bool is_null = null();
        if ((!is_null && !value(json)) || !scratch_.add(name, json) || !next('}', is_over)) {
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

}  // namespace realtime::ingest
