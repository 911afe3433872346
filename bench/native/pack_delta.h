// Reads deltas of the subprotocol realtime.v1.msgpack.
//
// Law: as json_delta.h: every byte of a frame is accounted for, and up to 32 beyond it may be read and are not believed.
#pragma once

#include "delta.h"
#include "pack.h"

namespace bench {

template <bool IS_WHOLE>
class PackDelta {
public:
    PackDelta(Ids& ids, Texts& texts, Delta& delta) : ids_(ids), texts_(texts), delta_(delta) {}

    // Whether a frame is a delta: an object whose first member says so.
    static bool is_delta(const char* begin, const char* end) {
        static constexpr std::string_view HEAD = "\xA4type\xA5"
                                                 "delta";
        auto first = static_cast<unsigned char>(*begin);
        return first >> 4 == 8 && static_cast<size_t>(end - begin) > HEAD.size() && std::memcmp(begin + 1, HEAD.data(), HEAD.size()) == 0;
    }

    // Reads a frame that `is_delta`; returns what is wrong with it, nullptr if nothing is.
    const char* read(const char* begin, const char* end) {
        end_ = end;
        wrong_ = nullptr;
        uint32_t members = static_cast<unsigned char>(*begin) & 15;
        at_ = begin + 12;
        for (uint32_t i = 1; i < members && wrong_ == nullptr; i++) {
            std::string_view name = text();
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
        }
        require(at_ == end_, "the delta does not end where its frame does");
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

    unsigned byte() { return at_ < end_ ? static_cast<unsigned char>(*at_++) : (require(false, "the frame ends early"), 0xC1u); }

    template <int BYTES>
    uint64_t big() {
        uint64_t word = __builtin_bswap64(load64(at_)) >> (64 - 8 * BYTES);
        if (!require(end_ - at_ >= BYTES, "the frame ends early")) {
            at_ = end_;
            return 0;
        }
        at_ += BYTES;
        return word;
    }

    std::string_view span(uint64_t size) {
        if (!require(size <= static_cast<uint64_t>(end_ - at_), "a string is longer than the frame")) {
            return {};
        }
        std::string_view found(at_, size);
        at_ += size;
        return found;
    }

    std::string_view text() {
        unsigned head = byte();
        if (head >> 5 == 5) {
            return span(head & 31);
        }
        switch (head) {
            case 0xD9: return span(big<1>());
            case 0xDA: return span(big<2>());
            case 0xDB: return span(big<4>());
            default: require(false, "a string is expected"); return {};
        }
    }

    bool integer(uint64_t& value) {
        unsigned head = byte();
        switch (head) {
            case 0xCC: value = big<1>(); break;
            case 0xCD: value = big<2>(); break;
            case 0xCE: value = big<4>(); break;
            case 0xCF: case 0xD3: value = big<8>(); break;  // one below 0 is too large for whatever it is
            default: value = head; return require(head < 0x80, "an integer from 0 on is expected");
        }
        return wrong_ == nullptr;
    }

    bool number(double& value) {
        if (at_ < end_ && *at_ == '\xCB') {
            at_++;
            uint64_t bits = big<8>();
            std::memcpy(&value, &bits, 8);
            return wrong_ == nullptr;
        }
        Json found;
        if (!any(found) || !require(found.is_number(), "a number is expected")) {
            return false;
        }
        value = found.number;
        return true;
    }

    bool any(Json& value) {
        try {
            value = PackReader::read(at_, end_);
            return true;
        } catch (const std::invalid_argument&) {
            return require(false, "a value is not msgpack");
        }
    }

    // Steps over a value of which only the shape matters.
    bool skip(int level) {
        unsigned head = byte();
        if (level > LEVELS_MAX || wrong_ != nullptr) {
            return require(false, "nested too deep");
        }
        if (head < 0x80 || head >= 0xE0 || head == 0xC0 || head == 0xC2 || head == 0xC3) {
            return true;
        }
        if (head >> 5 == 5 || (head >= 0xD9 && head <= 0xDB)) {
            at_--;
            text();
            return wrong_ == nullptr;
        }
        uint64_t values = 0;
        switch (head) {
            case 0xCA: span(4); break;
            case 0xCB: span(8); break;
            case 0xCC: case 0xD0: span(1); break;
            case 0xCD: case 0xD1: span(2); break;
            case 0xCE: case 0xD2: span(4); break;
            case 0xCF: case 0xD3: span(8); break;
            case 0xDC: values = big<2>(); break;
            case 0xDD: values = big<4>(); break;
            case 0xDE: values = big<2>() * 2; break;
            case 0xDF: values = big<4>() * 2; break;
            default:
                if (!require(head < 0xA0, "a type that this protocol has not")) {
                    return false;
                }
                values = head < 0x90 ? (head & 15) * 2 : head & 15;
        }
        for (uint64_t i = 0; i < values && wrong_ == nullptr; i++) {
            skip(level + 1);
        }
        return wrong_ == nullptr;
    }

    template <class Item>
    void array(Item item) {
        unsigned head = byte();
        uint64_t count = head == 0xDC ? big<2>() : head == 0xDD ? big<4>() : head & 15;
        if (!require(head == 0xDC || head == 0xDD || head >> 4 == 9, "an array is expected")) {
            return;
        }
        for (uint64_t i = 0; i < count; i++) {
            if (!item()) {
                require(false, "an item is not what it should be");
                return;
            }
        }
    }

    template <class Member>
    void object(Member each) {
        unsigned head = byte();
        uint64_t count = head == 0xDE ? big<2>() : head == 0xDF ? big<4>() : head & 15;
        if (!require(head == 0xDE || head == 0xDF || head >> 4 == 8, "an object is expected")) {
            return;
        }
        for (uint64_t i = 0; i < count; i++) {
            std::string_view name = text();
            if (wrong_ != nullptr || !each(name)) {
                require(false, "a member is not what it should be");
                return;
            }
        }
    }

    bool id(uint32_t& key) {
        std::string_view name = text();
        if (!require(!name.empty(), "an id is empty")) {
            return false;
        }
        key = ids_.of_sized(name.data(), name.size());
        return wrong_ == nullptr;
    }

    bool version(uint32_t& value) {
        uint64_t wide = 0;
        bool is_right = integer(wide);
        value = static_cast<uint32_t>(wide);
        return is_right && require(wide <= UINT32_MAX, "a version is beyond what this client keeps, 32 bits");
    }

    bool move() {
        Change change{};
        Place place;
        bool is_right = byte() == 0x94 && id(change.key) && version(change.version) && number(place.lon) && number(place.lat);
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
                detail.kind = as_json(text());
                return wrong_ == nullptr;
            }
            return name == "type" && is_enter && (has_type = text() == "Feature");
        });
        detail.properties_end = static_cast<uint32_t>(delta_.properties.size());
        changes.push_back(change);
        if (IS_WHOLE) {
            details.push_back(detail);
        }
        return wrong_ == nullptr && has_id && has_version && (!is_enter || (has_type && detail.has_place && has_properties));
    }

    bool geometry(Place& place) {
        if (!IS_WHOLE) {
            return require(at_ < end_ && static_cast<unsigned char>(*at_) >> 4 == 8, "a geometry is expected") && skip(0);
        }
        Json found;
        if (!any(found) || !require(found.kind == Json::OBJECT, "a geometry is expected")) {
            return false;
        }
        const Json* coordinates = found.find("coordinates");
        bool is_pair = coordinates != nullptr && coordinates->items.size() == 2 && coordinates->items[0].is_number();
        if (is_pair && found.text_or("type", "") == "Point" && found.members.size() == 2) {
            place.lon = coordinates->items[0].number;
            place.lat = coordinates->items[1].number;
        } else {
            place.geometry = texts_.of(to_json(found));
        }
        return true;
    }

    bool properties() {
        object([this](std::string_view name) {
            if (!IS_WHOLE) {
                return skip(0);
            }
            Json value;
            if (!any(value)) {
                return false;
            }
            delta_.properties.push_back({as_json(name), texts_.of(to_json(value))});
            return true;
        });
        return wrong_ == nullptr;
    }

    // The number of a string as JSON text, where it is kept.
    uint32_t as_json(std::string_view name) {
        if (!IS_WHOLE) {
            return 0;
        }
        std::string quoted;
        write_text(quoted, name);
        return texts_.of(quoted);
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
        double number_found = 0;
        if (name == "seq") {
            integer(delta_.seq);
        } else if (name == "reset") {
            delta_.is_reset = require(byte() == 0xC3, "reset: true is expected");
        } else if (name == "more") {
            delta_.has_more = require(byte() == 0xC3, "more: true is expected");
        } else if (name == "total") {
            delta_.has_total = integer(value);
            delta_.total = static_cast<double>(value);
        } else if (name == "sampled") {
            number(delta_.sampled);
        } else if (name == "lag_ms") {
            number(number_found);
        } else if (name == "view") {
            Json found;
            if (any(found) && found.kind == Json::INTEGER) {
                delta_.view = found.integer;
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
