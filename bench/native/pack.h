// Values in msgpack: written for what a client says, read for the messages that are no delta and for sampled properties.
//
// Law: as json.h; what this reads is what https://github.com/msgpack/msgpack/blob/master/spec.md has but for extensions,
// binary values and keys that are no strings: this protocol has none.
#pragma once

#include "json.h"

namespace bench {

inline void write_big(std::string& out, uint64_t value, int bytes) {
    for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) {
        out += static_cast<char>(value >> shift);
    }
}

inline void write_pack_head(std::string& out, size_t count, int fixed, size_t fixed_max, int wide) {
    if (count <= fixed_max) {
        out += static_cast<char>(fixed | static_cast<int>(count));
    } else if (count < 1u << 16) {
        out += static_cast<char>(wide);
        write_big(out, count, 2);
    } else {
        out += static_cast<char>(wide + 1);
        write_big(out, count, 4);
    }
}

inline void write_pack(std::string& out, const Json& value) {
    switch (value.kind) {
        case Json::NIL: out += '\xC0'; break;
        case Json::BOOLEAN: out += value.boolean ? '\xC3' : '\xC2'; break;
        case Json::INTEGER:
            if (value.integer >= -32 && value.integer < 128) {
                out += static_cast<char>(value.integer);
            } else if (value.integer >= 0 && value.integer <= UINT32_MAX) {
                int bytes = value.integer <= UINT8_MAX ? 1 : value.integer <= UINT16_MAX ? 2 : 4;
                out += bytes == 1 ? '\xCC' : bytes == 2 ? '\xCD' : '\xCE';
                write_big(out, static_cast<uint64_t>(value.integer), bytes);
            } else {
                out += '\xD3';
                write_big(out, static_cast<uint64_t>(value.integer), 8);
            }
            break;
        case Json::NUMBER: {
            uint64_t bits = 0;
            std::memcpy(&bits, &value.number, 8);
            out += '\xCB';
            write_big(out, bits, 8);
            break;
        }
        case Json::TEXT:
            write_pack_head(out, value.text.size(), 0xA0, 31, 0xDA);
            out += value.text;
            break;
        case Json::ARRAY:
            write_pack_head(out, value.items.size(), 0x90, 15, 0xDC);
            for (const Json& item : value.items) {
                write_pack(out, item);
            }
            break;
        case Json::OBJECT:
            write_pack_head(out, value.members.size(), 0x80, 15, 0xDE);
            for (const auto& [name, member] : value.members) {
                write_pack(out, Json(name));
                write_pack(out, member);
            }
            break;
    }
}

class PackReader {
public:
    // Reads one value at `at`, which is moved behind it.
    static Json read(const char*& at, const char* end) {
        PackReader reader{at, end};
        Json value = reader.value(0);
        at = reader.at_;
        return value;
    }

private:
    PackReader(const char* at, const char* end) : at_(at), end_(end) {}

    uint64_t big(int bytes) {
        if (end_ - at_ < bytes) {
            throw std::invalid_argument("msgpack: it ends early");
        }
        uint64_t value = 0;
        for (int i = 0; i < bytes; i++) {
            value = value << 8 | static_cast<unsigned char>(*at_++);
        }
        return value;
    }

    Json floating(int bytes) {
        uint64_t bits = big(bytes);
        double value = 0;
        if (bytes == 8) {
            std::memcpy(&value, &bits, 8);
        } else {
            auto narrow = static_cast<uint32_t>(bits);
            float single = 0;
            std::memcpy(&single, &narrow, 4);
            value = single;
        }
        return Json(value);
    }

    Json text(uint64_t size) {
        if (static_cast<uint64_t>(end_ - at_) < size) {
            throw std::invalid_argument("msgpack: it ends early");
        }
        std::string found(at_, size);
        at_ += size;
        return Json(std::move(found));
    }

    Json array(uint64_t count, int level) {
        Json made = Json::array();
        for (uint64_t i = 0; i < count; i++) {
            made.items.push_back(value(level + 1));
        }
        return made;
    }

    Json object(uint64_t count, int level) {
        Json made = Json::object();
        for (uint64_t i = 0; i < count; i++) {
            Json name = value(level + 1);
            if (name.kind != Json::TEXT) {
                throw std::invalid_argument("msgpack: a member's name is no string");
            }
            made.members.emplace_back(std::move(name.text), value(level + 1));
        }
        return made;
    }

    Json value(int level) {
        if (level >= LEVELS_MAX) {
            throw std::invalid_argument("msgpack: nested too deep");
        }
        auto head = static_cast<unsigned>(big(1));
        if (head < 0x80) {
            return Json(head);
        }
        if (head >= 0xE0) {
            return Json(static_cast<int>(head) - 256);
        }
        if (head < 0x90) {
            return object(head & 15, level);
        }
        if (head < 0xA0) {
            return array(head & 15, level);
        }
        if (head < 0xC0) {
            return text(head & 31);
        }
        switch (head) {
            case 0xC0: return Json();
            case 0xC2: return Json(false);
            case 0xC3: return Json(true);
            case 0xCA: return floating(4);
            case 0xCB: return floating(8);
            case 0xCC: return Json(big(1));
            case 0xCD: return Json(big(2));
            case 0xCE: return Json(big(4));
            case 0xCF: return Json(big(8));
            case 0xD0: return Json(static_cast<int64_t>(static_cast<int8_t>(big(1))));
            case 0xD1: return Json(static_cast<int64_t>(static_cast<int16_t>(big(2))));
            case 0xD2: return Json(static_cast<int64_t>(static_cast<int32_t>(big(4))));
            case 0xD3: return Json(static_cast<int64_t>(big(8)));
            case 0xD9: return text(big(1));
            case 0xDA: return text(big(2));
            case 0xDB: return text(big(4));
            case 0xDC: return array(big(2), level);
            case 0xDD: return array(big(4), level);
            case 0xDE: return object(big(2), level);
            case 0xDF: return object(big(4), level);
            default: throw std::invalid_argument("msgpack: a type that this protocol has not");
        }
    }

    const char* at_;
    const char* end_;
};

}  // namespace bench
