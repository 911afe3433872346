// Filters, evaluated. How a key becomes a program is told in filter_tree.h and filter_compiler.cpp; the law is in filters.h.

#include "filters.h"

#include <cstring>

#include "json.h"

namespace realtime {

namespace {

template <class Word>
inline Word load(const char* at) {
    Word word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

// As `a == b`, without a call for the short strings that filters are made of: two words that may overlap cover them.
inline bool is_same(std::string_view a, std::string_view b) {
    const size_t bytes = a.size();
    if (bytes != b.size()) return false;
    const char *x = a.data(), *y = b.data();
    if (bytes > 16) return std::memcmp(x, y, bytes) == 0;
    if (bytes >= 8) {
        const size_t last = bytes - 8;
        return ((load<uint64_t>(x) ^ load<uint64_t>(y)) | (load<uint64_t>(x + last) ^ load<uint64_t>(y + last))) == 0;
    }
    if (bytes >= 4) {
        const size_t last = bytes - 4;
        return ((load<uint32_t>(x) ^ load<uint32_t>(y)) | (load<uint32_t>(x + last) ^ load<uint32_t>(y + last))) == 0;
    }
    for (size_t i = 0; i < bytes; ++i) {
        if (x[i] != y[i]) return false;
    }
    return true;
}

// A string as it is kept: plain, or as what stands between the quotes of its JSON.
struct String {
    std::string_view body;
    bool has_escapes;

    static String of_plain(std::string_view text) { return {text, false}; }

    static String of_json(std::string_view json) {
        const std::string_view body = json.size() >= 2 ? json.substr(1, json.size() - 2) : std::string_view{};
        return {body, body.find('\\') != std::string_view::npos};
    }
};

// The bytes that a string means, one after the other.
class Bytes {
public:
    explicit Bytes(String string) : at_(string.body.data()), end_(at_ + string.body.size()), has_escapes_(string.has_escapes) {}

    // The next byte, or -1 at the end.
    int next() {
        if (taken_ < pending_) return static_cast<uint8_t>(text_[taken_++]);
        if (at_ == end_) return -1;
        if (has_escapes_ && *at_ == '\\') {
            const char* const behind = read_escape(at_ + 1, end_, text_, &pending_);
            if (behind != nullptr) {
                at_ = behind;
                taken_ = 1;
                return static_cast<uint8_t>(text_[0]);
            }
            pending_ = 0;  // not canonical: a backslash like any other byte
            taken_ = 0;
        }
        return static_cast<uint8_t>(*at_++);
    }

private:
    const char *at_, *end_;
    bool has_escapes_;
    char text_[4] = {};
    size_t pending_ = 0, taken_ = 0;
};

// Negative, zero or positive, by code point, which is the order of UTF-8's bytes.
int compare_strings(String a, String b) {
    if (!a.has_escapes && !b.has_escapes) return a.body.compare(b.body);
    Bytes left(a), right(b);
    for (;;) {
        const int x = left.next(), y = right.next();
        if (x != y) return x - y;
        if (x < 0) return 0;
    }
}

// An operand of a comparison of two, whatever it is. A plain string is known by having no JSON.
struct Operand {
    ValueKind kind;
    double number;
    String string;
};

Operand operand_of(const Value& value) {
    return {value.kind, value.number, value.kind == ValueKind::STRING ? String::of_json(value.json) : String{}};
}

Operand operand_of_plain(std::string_view text, bool is_null) {
    return {is_null ? ValueKind::NUL : ValueKind::STRING, 0.0, String::of_plain(text)};
}

}  // namespace

Value value_of(std::string_view json) {
    if (json.empty()) return {};
    switch (json.front()) {
        case '"': return {ValueKind::STRING, 0.0, json};
        case '[':
        case '{': return {ValueKind::COMPOUND, 0.0, json};
        case 'n': return {ValueKind::NUL, 0.0, json};
        case 't': return {ValueKind::TRUE, 0.0, json};
        case 'f': return {ValueKind::FALSE, 0.0, json};
        default: break;
    }
    Number number;
    const char* const end = json.data() + json.size();
    if (read_number(json.data(), end, &number) != end) return {ValueKind::COMPOUND, 0.0, json};
    return {ValueKind::NUMBER, number.real, json};
}

// Words of 8 bytes multiplied and folded. A filter keeps the seed with which its own strings hardly collide.
uint64_t Filter::hash(std::string_view string, uint64_t seed) {
    constexpr uint64_t ODD = 0x9E3779B97F4A7C15;
    const char* at = string.data();
    size_t bytes = string.size();
    uint64_t state = seed ^ bytes;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        state = (state ^ load<uint64_t>(at)) * ODD;
        state ^= state >> 32;
    }
    uint64_t rest = 0;
    if (bytes >= 4) {
        rest = load<uint32_t>(at) | static_cast<uint64_t>(load<uint32_t>(at + bytes - 4)) << 32;
    } else if (bytes != 0) {
        rest = static_cast<uint8_t>(at[0]) | static_cast<uint64_t>(static_cast<uint8_t>(at[bytes / 2])) << 8 |
               static_cast<uint64_t>(static_cast<uint8_t>(at[bytes - 1])) << 16;
    }
    state = (state ^ rest) * ODD;
    return state ^ state >> 32;
}

inline bool Filter::has_number(const Set& set, double number) const {
    const double* at = numbers_.data() + set.numbers_at;
    for (uint32_t left = set.numbers; left > 1;) {
        const uint32_t half = left / 2;
        at += at[half - 1] < number ? half : 0;
        left -= half;
    }
    return set.numbers != 0 && *at == number;
}

inline bool Filter::has_string(const Set& set, std::string_view string) const {
    const Text* const strings = strings_.data() + set.strings_at;
    if (set.slots == 0) {
        for (uint32_t i = 0; i < set.strings; ++i) {
            if (is_same(text(strings[i]), string)) return true;
        }
        return false;
    }
    const uint32_t* const slots = slots_.data() + set.slots_at;
    for (uint64_t slot = hash(string, set.seed);; ++slot) {
        const uint32_t found = slots[slot & (set.slots - 1)];
        if (found == 0) return false;
        if (is_same(text(strings[found - 1]), string)) return true;
    }
}

inline bool Filter::has_value(const Set& set, const Value& value) const {
    switch (value.kind) {
        case ValueKind::NUL: return set.has_null;
        case ValueKind::FALSE: return set.has_false;
        case ValueKind::TRUE: return set.has_true;
        case ValueKind::NUMBER: return has_number(set, value.number);
        case ValueKind::STRING: return has_string(set, value.json);
        case ValueKind::COMPOUND: break;
    }
    return false;
}

bool Filter::pair_passes(const Step& step, const Value& left, const Subject& subject) const {
    const auto read = [&](uint32_t source) {
        if (source == ID) return operand_of_plain(subject.id, false);
        if (source == KIND) return operand_of_plain(subject.kind, subject.kind.empty());
        Value value;
        if (!subject.find(subject.properties, text(names_[source]), &value)) value = Value{};
        return operand_of(value);
    };
    const Operand a = step.source < ID ? operand_of(left) : read(step.source);
    const Operand b = read(step.other);
    if (a.kind != b.kind || a.kind == ValueKind::COMPOUND) return false;
    if (step.action == Action::PAIR_EQUAL) {
        if (a.kind == ValueKind::STRING) return compare_strings(a.string, b.string) == 0;
        return a.kind != ValueKind::NUMBER || a.number == b.number;
    }
    if (a.kind == ValueKind::STRING) return is_ordered(step.detail, compare_strings(a.string, b.string));
    if (a.kind != ValueKind::NUMBER) return false;
    return is_ordered(step.detail, a.number < b.number ? -1 : a.number > b.number);
}

bool Filter::passes(const Subject& subject) const {
    const Step* const steps = steps_.data();
    Value value;
    uint32_t read = NOTHING;  // the property that `value` is
    uint64_t bits = 0;
    uint32_t at = start_;
    while (at < FAIL) {
        const Step& step = steps[at];
        if (step.source < ID && step.source != read) {
            if (!subject.find(subject.properties, text(names_[step.source]), &value)) value = Value{};
            read = step.source;
        }
        const std::string_view plain = step.source == ID ? subject.id : subject.kind;
        const bool is_null = step.source == KIND && plain.empty();
        bool is_true = false;
        switch (step.action) {
            case Action::PROPERTY_IS: is_true = value.kind == static_cast<ValueKind>(step.detail); break;
            // What is no number has some number all the same, so that both can be looked at without a branch between.
            case Action::NUMBER_EQUAL: is_true = (value.kind == ValueKind::NUMBER) & (value.number == step.number); break;
            case Action::NUMBER_LESS: is_true = (value.kind == ValueKind::NUMBER) & (value.number < step.number); break;
            case Action::NUMBER_AT_MOST: is_true = (value.kind == ValueKind::NUMBER) & (value.number <= step.number); break;
            case Action::NUMBER_MORE: is_true = (value.kind == ValueKind::NUMBER) & (value.number > step.number); break;
            case Action::NUMBER_AT_LEAST: is_true = (value.kind == ValueKind::NUMBER) & (value.number >= step.number); break;
            case Action::STRING_EQUAL: is_true = value.kind == ValueKind::STRING && is_same(value.json, text(step.text)); break;
            case Action::STRING_ORDER:
                is_true = value.kind == ValueKind::STRING &&
                          is_ordered(step.detail, compare_strings(String::of_json(value.json), String::of_plain(text(step.text))));
                break;
            case Action::PROPERTY_IN: is_true = has_value(sets_[step.set], value); break;
            case Action::TEXT_IS_NULL: is_true = is_null; break;
            case Action::TEXT_EQUAL: is_true = !is_null && is_same(plain, text(step.text)); break;
            case Action::TEXT_ORDER: is_true = !is_null && is_ordered(step.detail, plain.compare(text(step.text))); break;
            case Action::TEXT_IN: is_true = is_null ? sets_[step.set].has_null : has_string(sets_[step.set], plain); break;
            case Action::PAIR_EQUAL:
            case Action::PAIR_ORDER: is_true = pair_passes(step, value, subject); break;
            case Action::BIT_SET:
                bits |= uint64_t{1} << step.detail;
                is_true = true;
                break;
            case Action::BIT_CLEAR: bits &= ~(uint64_t{1} << step.detail); break;
            case Action::BIT_TEST: is_true = (bits >> step.detail & 1) != 0; break;
        }
        at = is_true ? step.on_true : step.on_false;
    }
    return at == PASS;
}

size_t Filter::bytes() const {
    const auto held = [](const auto& all) { return all.capacity() * sizeof all[0]; };
    return sizeof *this + held(steps_) + held(names_) + held(sets_) + held(numbers_) + held(strings_) + held(slots_) + held(texts_);
}

}  // namespace realtime
