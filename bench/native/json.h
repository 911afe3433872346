// A value of JSON, read from JSON or msgpack and written as either: commands, answers, and the few messages that are no delta.
//
// Law: nothing here runs per entity. What cannot be read is `std::invalid_argument`; nesting is bounded.
#pragma once

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

struct Json {
    enum Kind : uint8_t { NIL, BOOLEAN, INTEGER, NUMBER, TEXT, ARRAY, OBJECT };

    Kind kind = NIL;
    bool boolean = false;
    int64_t integer = 0;
    double number = 0;  // also set for integers
    std::string text;
    std::vector<Json> items;                            // of an array
    std::vector<std::pair<std::string, Json>> members;  // of an object, in their order

    Json() = default;
    Json(bool value) : kind(BOOLEAN), boolean(value) {}
    Json(int64_t value) : kind(INTEGER), integer(value), number(static_cast<double>(value)) {}
    Json(uint64_t value) : Json(static_cast<int64_t>(value)) {}
    Json(int value) : Json(static_cast<int64_t>(value)) {}
    Json(uint32_t value) : Json(static_cast<int64_t>(value)) {}
    Json(double value) : kind(NUMBER), number(value) {}
    Json(std::string value) : kind(TEXT), text(std::move(value)) {}
    Json(const char* value) : kind(TEXT), text(value) {}

    static Json array() { return of(ARRAY); }
    static Json object() { return of(OBJECT); }

    bool is_number() const { return kind == INTEGER || kind == NUMBER; }

    const Json* find(std::string_view name) const {
        for (const auto& [key, value] : members) {
            if (key == name) {
                return &value;
            }
        }
        return nullptr;
    }

    const Json& at(std::string_view name) const {
        const Json* found = find(name);
        if (found == nullptr) {
            throw std::invalid_argument("missing: " + std::string(name));
        }
        return *found;
    }

    double number_or(std::string_view name, double otherwise) const {
        const Json* found = find(name);
        return found != nullptr && found->is_number() ? found->number : otherwise;
    }

    std::string text_or(std::string_view name, const char* otherwise) const {
        const Json* found = find(name);
        return found != nullptr && found->kind == TEXT ? found->text : otherwise;
    }

    Json& set(std::string_view name, Json value) {
        for (auto& [key, old] : members) {
            if (key == name) {
                old = std::move(value);
                return *this;
            }
        }
        members.emplace_back(name, std::move(value));
        return *this;
    }

private:
    static Json of(Kind kind) {
        Json made;
        made.kind = kind;
        return made;
    }
};

constexpr int LEVELS_MAX = 64;

class JsonReader {
public:
    static Json read(std::string_view text) {
        JsonReader reader(text);
        Json value = reader.value(0);
        reader.blanks();
        reader.require(reader.at_ == reader.end_, "more than one value");
        return value;
    }

private:
    explicit JsonReader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    static void require(bool is_met, const char* why) {
        if (!is_met) {
            throw std::invalid_argument(std::string("JSON: ") + why);
        }
    }

    void blanks() {
        while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) {
            at_++;
        }
    }

    bool take(char wanted) {
        blanks();
        if (at_ < end_ && *at_ == wanted) {
            at_++;
            return true;
        }
        return false;
    }

    bool word(std::string_view wanted) {
        if (std::string_view(at_, static_cast<size_t>(end_ - at_)).substr(0, wanted.size()) != wanted) {
            return false;
        }
        at_ += wanted.size();
        return true;
    }

    Json value(int level) {
        require(level < LEVELS_MAX, "nested too deep");
        blanks();
        require(at_ < end_, "it ends early");
        switch (*at_) {
            case '{': return object(level);
            case '[': return array(level);
            case '"': return Json(string());
            case 't': require(word("true"), "true is expected"); return Json(true);
            case 'f': require(word("false"), "false is expected"); return Json(false);
            case 'n': require(word("null"), "null is expected"); return Json();
            default: return number();
        }
    }

    Json object(int level) {
        Json made = Json::object();
        at_++;
        if (take('}')) {
            return made;
        }
        do {
            blanks();
            require(at_ < end_ && *at_ == '"', "a member's name is expected");
            std::string name = string();
            require(take(':'), "a colon is expected");
            made.members.emplace_back(std::move(name), value(level + 1));
        } while (take(','));
        require(take('}'), "an object does not end");
        return made;
    }

    Json array(int level) {
        Json made = Json::array();
        at_++;
        if (take(']')) {
            return made;
        }
        do {
            made.items.push_back(value(level + 1));
        } while (take(','));
        require(take(']'), "an array does not end");
        return made;
    }

    Json number() {
        int64_t integer = 0;
        auto [stop, trouble] = std::from_chars(at_, end_, integer);
        if (trouble == std::errc() && (stop == end_ || (*stop != '.' && *stop != 'e' && *stop != 'E'))) {
            at_ = stop;
            return Json(integer);
        }
        double found = 0;
        auto [end, wrong] = std::from_chars(at_, end_, found);
        require(wrong == std::errc(), "a value is expected");
        at_ = end;
        return Json(found);
    }

    uint32_t hex() {
        uint32_t unit = 0;
        require(end_ - at_ >= 4, "an escape is cut");
        auto [stop, trouble] = std::from_chars(at_, at_ + 4, unit, 16);
        require(trouble == std::errc() && stop == at_ + 4, "four hex digits are expected");
        at_ += 4;
        return unit;
    }

    void escape(std::string& out) {
        static constexpr std::string_view FROM = "\"\\/bfnrt", TO = "\"\\/\b\f\n\r\t";
        require(at_ < end_, "an escape is cut");
        char kind = *at_++;
        if (kind != 'u') {
            size_t place = FROM.find(kind);
            require(place != std::string_view::npos, "an unknown escape");
            out += TO[place];
            return;
        }
        uint32_t code = hex();
        if (code >= 0xD800 && code < 0xDC00) {
            require(word("\\u"), "half a pair of surrogates");
            uint32_t low = hex();
            require(low >= 0xDC00 && low < 0xE000, "half a pair of surrogates");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        if (code < 0x80) {
            out += static_cast<char>(code);
        } else if (code < 0x800) {
            out += static_cast<char>(0xC0 | code >> 6);
            out += static_cast<char>(0x80 | (code & 0x3F));
        } else {
            if (code < 0x10000) {
                out += static_cast<char>(0xE0 | code >> 12);
            } else {
                out += static_cast<char>(0xF0 | code >> 18);
                out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
            }
            out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
            out += static_cast<char>(0x80 | (code & 0x3F));
        }
    }

    std::string string() {
        std::string made;
        at_++;
        while (true) {
            require(at_ < end_, "a string does not end");
            char one = *at_++;
            if (one == '"') {
                return made;
            }
            if (one == '\\') {
                escape(made);
            } else {
                require(static_cast<unsigned char>(one) >= 0x20, "a control character in a string");
                made += one;
            }
        }
    }

    const char* at_;
    const char* end_;
};

inline void write_text(std::string& out, std::string_view text) {
    out += '"';
    for (char one : text) {
        if (one == '"' || one == '\\') {
            out += '\\';
            out += one;
        } else if (static_cast<unsigned char>(one) < 0x20) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", one);
            out += escaped;
        } else {
            out += one;
        }
    }
    out += '"';
}

inline void write_number(std::string& out, double value) {
    char digits[32];
    auto [end, trouble] = std::to_chars(digits, digits + sizeof digits, value);
    (void)trouble;  // the longest double has 24 characters
    out.append(digits, end);
}

inline void write_json(std::string& out, const Json& value) {
    const char* between = "";
    switch (value.kind) {
        case Json::NIL: out += "null"; break;
        case Json::BOOLEAN: out += value.boolean ? "true" : "false"; break;
        case Json::INTEGER: out += std::to_string(value.integer); break;
        case Json::NUMBER: write_number(out, value.number); break;
        case Json::TEXT: write_text(out, value.text); break;
        case Json::ARRAY:
            out += '[';
            for (const Json& item : value.items) {
                out += between;
                write_json(out, item);
                between = ",";
            }
            out += ']';
            break;
        case Json::OBJECT:
            out += '{';
            for (const auto& [name, member] : value.members) {
                out += between;
                write_text(out, name);
                out += ':';
                write_json(out, member);
                between = ",";
            }
            out += '}';
            break;
    }
}

inline std::string to_json(const Json& value) {
    std::string out;
    write_json(out, value);
    return out;
}

}  // namespace bench
