// Reads deltas of the subprotocol realtime.v1.json.
//
// Law: what it lets pass is JSON and a delta; a move costs some twenty nanoseconds. It reads up to 32 bytes beyond the end
// of a frame, and believes nothing that it finds there.
#pragma once

#include <charconv>
#include <cmath>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "delta.h"
#include "json.h"

namespace bench {

template <bool IS_WHOLE>
class JsonDelta {
public:
    JsonDelta(Ids& ids, Texts& texts, Delta& delta) : ids_(ids), texts_(texts), delta_(delta) {}

    static constexpr std::string_view HEAD = "{\"type\":\"delta\"";

    // Reads a frame that begins with `HEAD`; returns what is wrong with it, nullptr if nothing is.
    const char* read(const char* begin, const char* end) {
        at_ = begin + HEAD.size();
        end_ = end;
        wrong_ = nullptr;
        while (take(',')) {
            std::string_view name = member();
            if (name == "move") {
                array([this] { return move(); });
            } else if (name == "enter") {
                array([this] { return feature(delta_.enters, delta_.enter_details, true); });
            } else if (name == "patch") {
                array([this] { return feature(delta_.patches, delta_.patch_details, false); });
            } else if (name == "leave") {
                leaves();
            } else {
                small(name);
            }
            if (wrong_ != nullptr) {
                return wrong_;
            }
        }
        require(take('}') && at_ == end_, "the delta does not end where its frame does");
        return wrong_;
    }

    const char* place() const { return at_; }

private:
    bool require(bool is_met, const char* why) {
        if (!is_met && wrong_ == nullptr) {
            wrong_ = why;
        }
        return is_met;
    }

    bool take(char wanted) {
        if (at_ < end_ && *at_ == wanted) {
            at_++;
            return true;
        }
        return false;
    }

    bool word(std::string_view wanted) {
        if (end_ - at_ < static_cast<ptrdiff_t>(wanted.size()) || std::memcmp(at_, wanted.data(), wanted.size()) != 0) {
            return false;
        }
        at_ += wanted.size();
        return true;
    }

    // The name of a member, and its colon.
    std::string_view member() {
        const char* begin = at_ + 1;
        if (!string()) {
            return {};
        }
        std::string_view name(begin, static_cast<size_t>(at_ - 1 - begin));
        require(take(':'), "a colon is expected");
        return name;
    }

    template <class Item>
    void array(Item item) {
        if (!require(take('['), "an array is expected") || take(']')) {
            return;
        }
        do {
            if (!item()) {
                require(false, "an item is not what it should be");
                return;
            }
        } while (take(','));
        require(take(']'), "an array does not end");
    }

    // Values of which only the shape matters

    bool string() {
        if (!require(take('"'), "a string is expected")) {
            return false;
        }
        while (at_ < end_) {
            auto one = static_cast<unsigned char>(*at_++);
            if (one == '"') {
                return true;
            }
            if (one < 0x20) {
                break;
            }
            if (one == '\\') {
                static constexpr std::string_view KNOWN = "\"\\/bfnrtu";
                if (KNOWN.find(*at_) == std::string_view::npos) {
                    break;
                }
                at_++;
            }
        }
        return require(false, "a string is not one");
    }

    bool number() {
#if defined(__SSE2__)
        __m128i text = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at_));
        __m128i digit_lows = _mm_cmpgt_epi8(text, _mm_set1_epi8('0' - 1)), digit_highs = _mm_cmpgt_epi8(_mm_set1_epi8('9' + 1), text);
        auto digits = static_cast<unsigned>(_mm_movemask_epi8(_mm_and_si128(digit_lows, digit_highs)));
        auto points = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8('.'))));
        unsigned sign = *at_ == '-';
        auto size = static_cast<unsigned>(__builtin_ctz(~(digits | points | sign)));
        unsigned inner = points & ((1u << size) - 1);  // an empty number has no first digit, see below
        bool is_plain = size < 16 && (digits >> sign & 1) && (digits >> (size - 1) & 1) && (inner & (inner - 1)) == 0;
        is_plain = is_plain && (at_[sign] != '0' || !(digits >> (sign + 1) & 1)) && (at_[size] | 0x20) != 'e';
        if (is_plain) {
            at_ += size;
            return at_ <= end_;
        }
#endif
        return any_number();
    }

    bool any_number() {
        take('-');
        const char* first = at_;
        while (at_ < end_ && *at_ >= '0' && *at_ <= '9') {
            at_++;
        }
        bool is_right = at_ > first && (*first != '0' || at_ == first + 1);
        if (is_right && take('.')) {
            is_right = some_digits();
        }
        if (is_right && (take('e') || take('E'))) {
            if (!take('-')) {
                take('+');
            }
            is_right = some_digits();
        }
        return require(is_right, "a number is not one");
    }

    bool some_digits() {
        const char* first = at_;
        while (at_ < end_ && *at_ >= '0' && *at_ <= '9') {
            at_++;
        }
        return at_ > first;
    }

    bool skip(int level) {
        if (level > LEVELS_MAX || at_ >= end_) {
            return require(false, "a value is missing, or nested too deep");
        }
        switch (*at_) {
            case '"': return string();
            case 't': return require(word("true"), "true is expected");
            case 'f': return require(word("false"), "false is expected");
            case 'n': return require(word("null"), "null is expected");
            case '[':
                array([this, level] { return skip(level + 1); });
                return wrong_ == nullptr;
            case '{':
                object([this, level](std::string_view) { return skip(level + 1); });
                return wrong_ == nullptr;
            default: return number();
        }
    }

    template <class Member>
    void object(Member each) {
        if (!require(take('{'), "an object is expected") || take('}')) {
            return;
        }
        do {
            std::string_view name = member();
            if (wrong_ != nullptr || !each(name)) {
                require(false, "a member is not what it should be");
                return;
            }
        } while (take(','));
        require(take('}'), "an object does not end");
    }

    // Values that are kept

    bool integer(uint64_t& value) {
        uint64_t text = load64(at_);
        int digits = count_digits(text);
        if (digits == 0 || (digits > 1 && *at_ == '0')) {
            return require(false, "an integer is expected");
        }
        value = to_number(text, digits);
        at_ += digits;
        while (digits >= 8 && at_ < end_ && *at_ >= '0' && *at_ <= '9') {
            if (++digits > 18) {
                return require(false, "an integer is beyond 18 digits");
            }
            value = value * 10 + static_cast<uint64_t>(*at_++ - '0');
        }
        return true;
    }

    bool version(uint32_t& value) {
        uint64_t wide = 0;
        bool is_right = integer(wide);
        value = static_cast<uint32_t>(wide);
        return is_right && require(wide <= UINT32_MAX, "a version is beyond what this client keeps, 32 bits");
    }

    bool coordinate(double& value) {
        const char* begin = at_;
        if (!number()) {
            return false;
        }
        if (IS_WHOLE) {
            std::from_chars(begin, at_, value);
        }
        return true;
    }

    bool id(uint32_t& key) {
        if (!require(take('"'), "an id is expected")) {
            return false;
        }
        if (ids_.take_quoted(at_, key)) {
            at_++;
            return true;
        }
        const char* begin = --at_;
        if (!string()) {
            return false;
        }
        std::string_view text(begin, static_cast<size_t>(at_ - begin));
        if (text.find('\\') == std::string_view::npos) {
            key = ids_.of(text.substr(1, text.size() - 2));
            return true;
        }
        try {
            key = ids_.of(JsonReader::read(text).text);
        } catch (const std::invalid_argument&) {
            return require(false, "an id has a wrong escape");
        }
        return true;
    }

    // The parts of a delta

    bool move() {
        Change change{};
        Place place;
        bool is_right = take('[') && id(change.key) && take(',') && version(change.version) && take(',') && coordinate(place.lon) &&
                        take(',') && coordinate(place.lat) && take(']');
        delta_.moves.push_back(change);
        if (IS_WHOLE) {
            delta_.move_places.push_back(place);
        }
        return is_right;
    }

    bool feature(std::vector<Change>& changes, std::vector<Detail>& details, bool is_enter) {
        Change change{};
        Detail detail;
        bool has_type = false, has_id = false, has_version = false, has_properties = false;
        object([&](std::string_view name) {
            if (name == "id") {
                return has_id = id(change.key);
            }
            if (name == "version") {
                return has_version = version(change.version);
            }
            if (name == "geometry") {
                return detail.has_place = geometry(detail.place);
            }
            if (name == "properties") {
                return has_properties = properties();
            }
            if (name == "kind" && is_enter) {
                const char* begin = at_;
                bool is_right = string();
                detail.kind = IS_WHOLE && is_right ? texts_.of(std::string_view(begin, static_cast<size_t>(at_ - begin))) : 0;
                return is_right;
            }
            return name == "type" && is_enter && (has_type = word("\"Feature\""));
        });
        detail.properties_end = static_cast<uint32_t>(delta_.properties.size());
        changes.push_back(change);
        if (IS_WHOLE) {
            details.push_back(detail);
        }
        return wrong_ == nullptr && has_id && has_version && (!is_enter || (has_type && detail.has_place && has_properties));
    }

    bool geometry(Place& place) {
        const char* begin = at_;
        if (word("{\"type\":\"Point\",\"coordinates\":[") && coordinate(place.lon) && take(',') && coordinate(place.lat) && word("]}")) {
            return true;
        }
        at_ = begin;
        if (wrong_ != nullptr || !require(*at_ == '{', "a geometry is expected") || !skip(0)) {
            return false;
        }
        if (IS_WHOLE) {
            place.geometry = texts_.of(std::string_view(begin, static_cast<size_t>(at_ - begin)));
        }
        return true;
    }

    bool properties() {
        object([this](std::string_view name) {
            const char* begin = at_;
            if (!skip(0)) {
                return false;
            }
            if (IS_WHOLE) {
                std::string_view quoted(name.data() - 1, name.size() + 2);
                delta_.properties.push_back({texts_.of(quoted), texts_.of(std::string_view(begin, static_cast<size_t>(at_ - begin)))});
            }
            return true;
        });
        return wrong_ == nullptr;
    }

    void leaves() {
        object([this](std::string_view name) {
            Reason reason = to_reason(name);
            array([this, reason] {
                uint32_t key = 0;
                bool is_right = id(key);
                delta_.leaves.push_back({key, reason});
                return is_right;
            });
            return wrong_ == nullptr && reason != Reason::UNKNOWN;
        });
    }

    void small(std::string_view name) {
        uint64_t value = 0;
        const char* begin = at_;
        if (name == "seq") {
            require(integer(delta_.seq), "seq");
        } else if (name == "reset") {
            delta_.is_reset = require(word("true"), "reset: true is expected");
        } else if (name == "more") {
            delta_.has_more = require(word("true"), "more: true is expected");
        } else if (name == "total") {
            delta_.has_total = require(integer(value), "total");
            delta_.total = static_cast<double>(value);
        } else if (name == "sampled") {
            if (number()) {
                std::from_chars(begin, at_, delta_.sampled);
            }
        } else if (name == "lag_ms") {
            number();
        } else if (name == "view") {
            if (take('"')) {
                at_ = begin;
                string();
            } else if (integer(value)) {
                delta_.view = static_cast<int64_t>(value);
            }
        } else {
            require(false, "a delta has a member that is unknown");
        }
    }

    Ids& ids_;
    Texts& texts_;
    Delta& delta_;
    const char* at_ = nullptr;
    const char* end_ = nullptr;
    const char* wrong_ = nullptr;
};

}  // namespace bench
