// Filters, compiled: whether an entity passes, decided by a flat program without allocation.
//
// Law: `Filter(key).passes(subject)` is what realtime/engine/predicates.py says of the tree whose JSON `key` is, for
// every subject whose properties are canonical JSON. Evaluation knows no errors and always ends, for every step of a
// program leads only forward: it costs at most one visit of each.
//
// The rules of the language are told in docs/filters.md, the tree in predicates.py.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace realtime {

enum class ValueKind : uint8_t { NUL, FALSE, TRUE, NUMBER, STRING, COMPOUND };

// A property as the world keeps it: `json` is its canonical JSON (a string's has its quotes and escapes); `kind` and
// `number` were read from it once. `number` is 0 for what is no number.
struct Value {
    ValueKind kind = ValueKind::NUL;
    double number = 0.0;
    std::string_view json;
};

// Reads what canonical JSON is. Other text is null or a compound; it never fails.
Value value_of(std::string_view json);

// An entity, as a filter sees it. All text is plain UTF-8, without quotes and escapes.
struct Subject {
    std::string_view id;
    std::string_view kind;  // empty: null
    const void* properties;  // handed to find
    bool (*find)(const void* properties, std::string_view name, Value* value);  // false: missing; value may be written all the same
};

class Filter {
public:
    static constexpr size_t KEY_BYTES_MAX = size_t{1} << 24;
    static constexpr size_t NODES_MAX = size_t{1} << 16;  // operators and literals; members of `in` count as none
    static constexpr size_t LEVELS_MAX = 64;              // operators within each other

    // Throws std::invalid_argument where `key` is no tree, or one beyond these bounds.
    explicit Filter(std::string_view key);

    // Whether the filter evaluates to exactly `true`.
    bool passes(const Subject& subject) const;

    // What it takes: itself and what it holds on the heap.
    size_t bytes() const;

private:
    friend class FilterCompiler;  // filter_compiler.cpp

    enum class Action : uint8_t {
        PROPERTY_IS,  // `kind`
        NUMBER_EQUAL,
        NUMBER_LESS,
        NUMBER_AT_MOST,
        NUMBER_MORE,
        NUMBER_AT_LEAST,
        STRING_EQUAL,
        STRING_ORDER,
        PROPERTY_IN,
        TEXT_IS_NULL,  // the text is the id or the kind
        TEXT_EQUAL,
        TEXT_ORDER,
        TEXT_IN,
        PAIR_EQUAL,
        PAIR_ORDER,
        BIT_SET,
        BIT_CLEAR,
        BIT_TEST,
    };

    enum class Order : uint8_t { LESS, AT_MOST, MORE, AT_LEAST };

    struct Text {
        uint32_t at, bytes;  // in texts_
    };

    // One test, and where to go on by its outcome. Two and a half of them fit in a cache line.
    struct Step {
        Action action;
        uint8_t detail;     // a ValueKind, an Order or the number of a bit
        uint16_t unused;
        uint32_t source;    // what is tested: an index into names_, or ID or KIND, or NOTHING
        uint32_t on_true;   // a step after this one, or PASS or FAIL
        uint32_t on_false;
        union {
            double number;   // what it is compared with, by the action
            Text text;
            uint32_t set;    // an index into sets_
            uint32_t other;  // the right side of a pair, as `source`
        };
    };

    // The members of one `in`. Few strings are looked through, many are found by a hash table.
    struct Set {
        uint32_t numbers_at, numbers;  // in numbers_, ascending
        uint32_t strings_at, strings;  // in strings_
        uint32_t slots_at, slots;      // in slots_, a power of two of them, each 0 or 1 + the index of a string; or none
        uint64_t seed;
        bool has_null, has_true, has_false;
    };

    static constexpr uint32_t FAIL = 0xFFFFFFFE, PASS = 0xFFFFFFFF;
    static constexpr uint32_t ID = 0xFFFFFFFD, KIND = 0xFFFFFFFE, NOTHING = 0xFFFFFFFF;

    // `comparison` is negative, zero or positive.
    static bool is_ordered(uint8_t order, int comparison) {
        switch (static_cast<Order>(order)) {
            case Order::LESS: return comparison < 0;
            case Order::AT_MOST: return comparison <= 0;
            case Order::MORE: return comparison > 0;
            case Order::AT_LEAST: break;
        }
        return comparison >= 0;
    }

    std::string_view text(Text text) const { return {texts_.data() + text.at, text.bytes}; }
    static uint64_t hash(std::string_view string, uint64_t seed);
    bool pair_passes(const Step& step, const Value& left, const Subject& subject) const;
    bool has_number(const Set& set, double number) const;
    bool has_string(const Set& set, std::string_view string) const;
    bool has_value(const Set& set, const Value& value) const;

    uint32_t start_ = FAIL;
    std::vector<Step> steps_;
    std::vector<Text> names_;
    std::vector<Set> sets_;
    std::vector<double> numbers_;
    std::vector<Text> strings_;
    std::vector<uint32_t> slots_;
    std::vector<char> texts_;
};

}  // namespace realtime
