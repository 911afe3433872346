// Filters, compiled: a tree is made into the program of a filter.
//
// Law: a program is made from its end: each piece is told where to go on when it is true and when it is false, both
// already there, and says where it begins itself. So `all`, `any`, `!` and comparisons with constants cost no step at
// all, no step leads back, and no tree makes more than four steps a node. Only where two truths are compared, a bit
// keeps the first of them.

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "filter_tree.h"
#include "filters.h"
#include "json.h"

namespace realtime {

using filter_tree::is_truth;
using filter_tree::KeyReader;
using filter_tree::Literal;
using filter_tree::Node;
using filter_tree::Operator;

// Makes the program. `t` and `f` are always where to go on when what is compiled is true and when it is false; what is
// returned is where it begins.
class FilterCompiler {
public:
    FilterCompiler(std::string_view key, Filter* filter) : reader_(key), filter_(*filter) {
        filter_.start_ = test(reader_.root(), Filter::PASS, Filter::FAIL);
        turn_around();
        shrink();
    }

private:
    using Action = Filter::Action;
    using Order = Filter::Order;
    using Set = Filter::Set;
    using Step = Filter::Step;
    using Text = Filter::Text;

    static constexpr uint32_t STRINGS_LOOKED_THROUGH_MAX = 8;
    static constexpr uint32_t PROBES_MAX = 24;

    uint32_t test(uint32_t index, uint32_t t, uint32_t f) {
        const Node& node = reader_.node(index);
        switch (node.op) {
            case Operator::LITERAL: return node.literal.kind == ValueKind::TRUE ? t : f;
            case Operator::KIND:
            case Operator::ID: return f;
            case Operator::GET: return is_single(node, ValueKind::TRUE, t, f);
            case Operator::HAS: return is_single(node, ValueKind::NUL, f, t);
            case Operator::NOT: return test(node.operands[0], f, t);
            case Operator::ALL: {
                uint32_t begin = t;
                for (size_t i = node.operands.size(); i-- != 0;) begin = test(node.operands[i], begin, f);
                return begin;
            }
            case Operator::ANY: {
                uint32_t begin = f;
                for (size_t i = node.operands.size(); i-- != 0;) begin = test(node.operands[i], t, begin);
                return begin;
            }
            case Operator::EQUAL: return equal(node.operands[0], node.operands[1], t, f);
            case Operator::UNEQUAL: return equal(node.operands[0], node.operands[1], f, t);
            case Operator::IN: return member(node.operands[0], node.members, t, f);
            default: return ordered(node.op, node.operands[0], node.operands[1], t, f);
        }
    }

    uint32_t equal(uint32_t left_index, uint32_t right_index, uint32_t t, uint32_t f) {
        const Node &left = reader_.node(left_index), &right = reader_.node(right_index);
        if (right.op == Operator::LITERAL) return equals_literal(left_index, right.literal, t, f);
        if (left.op == Operator::LITERAL) return equals_literal(right_index, left.literal, t, f);
        if (is_truth(left) && is_truth(right)) return both_or_neither(left_index, right_index, t, f);
        if (is_truth(left)) return test(left_index, is_single(right, ValueKind::TRUE, t, f), is_single(right, ValueKind::FALSE, t, f));
        if (is_truth(right)) return equal(right_index, left_index, t, f);
        return pair(Action::PAIR_EQUAL, Order::LESS, left, right, t, f);
    }

    uint32_t both_or_neither(uint32_t left, uint32_t right, uint32_t t, uint32_t f) {
        // Bits in use are those of the levels around; the left side is through before its bit is needed.
        const uint8_t bit = bits_++;
        const uint32_t after_true = emit(Action::BIT_TEST, bit, Filter::NOTHING, t, f);
        const uint32_t after_false = emit(Action::BIT_TEST, bit, Filter::NOTHING, f, t);
        const uint32_t second = test(right, after_true, after_false);
        --bits_;
        const uint32_t set = emit(Action::BIT_SET, bit, Filter::NOTHING, second, second);
        const uint32_t clear = emit(Action::BIT_CLEAR, bit, Filter::NOTHING, second, second);
        return test(left, set, clear);
    }

    // A source that is compared with null, true or false.
    uint32_t is_single(const Node& node, ValueKind kind, uint32_t t, uint32_t f) {
        if (node.op == Operator::GET || node.op == Operator::HAS) {
            return emit(Action::PROPERTY_IS, static_cast<uint8_t>(kind), source(node), t, f);
        }
        if (node.op == Operator::KIND && kind == ValueKind::NUL) return emit(Action::TEXT_IS_NULL, 0, source(node), t, f);
        return f;
    }

    uint32_t equals_literal(uint32_t index, const Literal& literal, uint32_t t, uint32_t f) {
        const Node& node = reader_.node(index);
        if (literal.kind == ValueKind::COMPOUND) return f;
        if (node.op == Operator::LITERAL) return node.literal == literal ? t : f;
        if (is_truth(node)) {
            if (literal.kind == ValueKind::TRUE) return test(index, t, f);
            if (literal.kind == ValueKind::FALSE) return test(index, f, t);
            return f;
        }
        if (literal.kind == ValueKind::STRING) {
            if (node.op == Operator::GET) return emit_text(Action::STRING_EQUAL, 0, node, json_of(literal.text), t, f);
            return emit_text(Action::TEXT_EQUAL, 0, node, literal.text, t, f);
        }
        if (literal.kind != ValueKind::NUMBER) return is_single(node, literal.kind, t, f);
        return node.op == Operator::GET ? emit_number(Action::NUMBER_EQUAL, node, literal.number, t, f) : f;
    }

    uint32_t ordered(Operator op, uint32_t left_index, uint32_t right_index, uint32_t t, uint32_t f) {
        const Node &left = reader_.node(left_index), &right = reader_.node(right_index);
        if (is_truth(left) || is_truth(right)) return f;
        const auto order = static_cast<Order>(static_cast<uint8_t>(op) - static_cast<uint8_t>(Operator::LESS));
        if (right.op == Operator::LITERAL) return is_ordered_to(order, left, right.literal, t, f);
        if (left.op == Operator::LITERAL) return is_ordered_to(mirrored(order), right, left.literal, t, f);
        return pair(Action::PAIR_ORDER, order, left, right, t, f);
    }

    static Order mirrored(Order order) {
        switch (order) {
            case Order::LESS: return Order::MORE;
            case Order::AT_MOST: return Order::AT_LEAST;
            case Order::MORE: return Order::LESS;
            case Order::AT_LEAST: break;
        }
        return Order::AT_MOST;
    }

    uint32_t is_ordered_to(Order order, const Node& node, const Literal& literal, uint32_t t, uint32_t f) {
        const uint8_t detail = static_cast<uint8_t>(order);
        if (node.op == Operator::LITERAL) {
            const Literal& own = node.literal;
            if (own.kind != literal.kind) return f;
            if (own.kind == ValueKind::STRING) return Filter::is_ordered(detail, own.text.compare(literal.text)) ? t : f;
            if (own.kind != ValueKind::NUMBER) return f;
            return Filter::is_ordered(detail, own.number < literal.number ? -1 : own.number > literal.number) ? t : f;
        }
        if (literal.kind == ValueKind::STRING) {
            return emit_text(node.op == Operator::GET ? Action::STRING_ORDER : Action::TEXT_ORDER, detail, node, literal.text, t, f);
        }
        if (literal.kind != ValueKind::NUMBER || node.op != Operator::GET) return f;
        const auto action = static_cast<Action>(static_cast<uint8_t>(Action::NUMBER_LESS) + detail);
        return emit_number(action, node, literal.number, t, f);
    }

    uint32_t pair(Action action, Order order, const Node& left, const Node& right, uint32_t t, uint32_t f) {
        const uint32_t other = source(right);
        const uint32_t begin = emit(action, static_cast<uint8_t>(order), source(left), t, f);
        filter_.steps_[begin].other = other;
        return begin;
    }

    uint32_t member(uint32_t index, const std::vector<Literal>& members, uint32_t t, uint32_t f) {
        const Node& node = reader_.node(index);
        if (members.empty()) return f;
        if (members.size() == 1) return equals_literal(index, members[0], t, f);
        const auto has = [&](ValueKind kind) {
            return std::any_of(members.begin(), members.end(), [kind](const Literal& one) { return one.kind == kind; });
        };
        if (node.op == Operator::LITERAL) return std::find(members.begin(), members.end(), node.literal) != members.end() ? t : f;
        if (is_truth(node)) return test(index, has(ValueKind::TRUE) ? t : f, has(ValueKind::FALSE) ? t : f);
        const bool is_property = node.op == Operator::GET;
        Set set{};
        set.has_null = has(ValueKind::NUL);
        set.has_true = has(ValueKind::TRUE);
        set.has_false = has(ValueKind::FALSE);
        add_numbers(members, &set);
        add_strings(members, is_property, &set);
        const uint32_t begin = emit(is_property ? Action::PROPERTY_IN : Action::TEXT_IN, 0, source(node), t, f);
        filter_.steps_[begin].set = static_cast<uint32_t>(filter_.sets_.size());
        filter_.sets_.push_back(set);
        return begin;
    }

    void add_numbers(const std::vector<Literal>& members, Set* set) {
        std::vector<double>& all = filter_.numbers_;
        set->numbers_at = static_cast<uint32_t>(all.size());
        for (const Literal& one : members) {
            if (one.kind == ValueKind::NUMBER) all.push_back(one.number);
        }
        std::sort(all.begin() + set->numbers_at, all.end());
        set->numbers = static_cast<uint32_t>(all.size()) - set->numbers_at;
    }

    void add_strings(const std::vector<Literal>& members, bool as_json, Set* set) {
        std::vector<std::string_view> texts;
        for (const Literal& one : members) {
            if (one.kind == ValueKind::STRING) texts.push_back(one.text);
        }
        std::sort(texts.begin(), texts.end());
        texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
        set->strings_at = static_cast<uint32_t>(filter_.strings_.size());
        set->strings = static_cast<uint32_t>(texts.size());
        for (const std::string_view text : texts) filter_.strings_.push_back(as_json ? add_text(json_of(text)) : add_text(text));
        if (set->strings > STRINGS_LOOKED_THROUGH_MAX) add_slots(set);
    }

    // Tries some seeds, and larger tables, until no string is far from its place: whoever wrote the list may know the hash.
    void add_slots(Set* set) {
        std::vector<uint32_t> slots, fewest;
        uint32_t fewest_probes = 0xFFFFFFFF;
        uint32_t count = 1;
        while (count < 2 * set->strings) count *= 2;
        for (uint64_t attempt = 1; attempt <= 6 && fewest_probes > PROBES_MAX; ++attempt) {
            if (attempt % 2 == 0) count *= 2;
            const uint64_t seed = attempt * 0xD6E8FEB86659FD93;
            const uint32_t probes = fill_slots(*set, seed, count, &slots);
            if (probes < fewest_probes) {
                fewest_probes = probes;
                fewest.swap(slots);
                set->seed = seed;
            }
        }
        set->slots_at = static_cast<uint32_t>(filter_.slots_.size());
        set->slots = static_cast<uint32_t>(fewest.size());
        filter_.slots_.insert(filter_.slots_.end(), fewest.begin(), fewest.end());
    }

    // Returns how many slots the string farthest from its place makes a search look at.
    uint32_t fill_slots(const Set& set, uint64_t seed, uint32_t count, std::vector<uint32_t>* slots) {
        slots->assign(count, 0);
        uint32_t most = 0;
        for (uint32_t i = 0; i < set.strings; ++i) {
            uint64_t slot = Filter::hash(filter_.text(filter_.strings_[set.strings_at + i]), seed);
            uint32_t probes = 1;
            for (; (*slots)[slot & (count - 1)] != 0; ++slot) ++probes;
            (*slots)[slot & (count - 1)] = i + 1;
            most = std::max(most, probes);
        }
        return most;
    }

    static std::string json_of(std::string_view text) {
        std::string json;
        put_json_string(json, text);
        return json;
    }

    Text add_text(std::string_view text) {
        const Text added{static_cast<uint32_t>(filter_.texts_.size()), static_cast<uint32_t>(text.size())};
        filter_.texts_.insert(filter_.texts_.end(), text.begin(), text.end());
        return added;
    }

    uint32_t source(const Node& node) {
        if (node.op == Operator::ID) return Filter::ID;
        if (node.op == Operator::KIND) return Filter::KIND;
        const auto [found, is_new] = names_.try_emplace(node.literal.text, static_cast<uint32_t>(filter_.names_.size()));
        if (is_new) filter_.names_.push_back(add_text(node.literal.text));
        return found->second;
    }

    uint32_t emit(Action action, uint8_t detail, uint32_t source, uint32_t t, uint32_t f) {
        Step step{};
        step.action = action;
        step.detail = detail;
        step.source = source;
        step.on_true = t;
        step.on_false = f;
        filter_.steps_.push_back(step);
        return static_cast<uint32_t>(filter_.steps_.size()) - 1;
    }

    uint32_t emit_number(Action action, const Node& node, double number, uint32_t t, uint32_t f) {
        const uint32_t begin = emit(action, 0, source(node), t, f);
        filter_.steps_[begin].number = number;
        return begin;
    }

    uint32_t emit_text(Action action, uint8_t detail, const Node& node, std::string_view text, uint32_t t, uint32_t f) {
        const uint32_t begin = emit(action, detail, source(node), t, f);
        filter_.steps_[begin].text = add_text(text);
        return begin;
    }

    // The program was made from its end; turned around it is read forward.
    void turn_around() {
        const uint32_t count = static_cast<uint32_t>(filter_.steps_.size());
        const auto turned = [count](uint32_t step) { return step < count ? count - 1 - step : step; };
        std::reverse(filter_.steps_.begin(), filter_.steps_.end());
        for (Step& step : filter_.steps_) {
            step.on_true = turned(step.on_true);
            step.on_false = turned(step.on_false);
        }
        filter_.start_ = turned(filter_.start_);
    }

    void shrink() {
        filter_.steps_.shrink_to_fit();
        filter_.names_.shrink_to_fit();
        filter_.sets_.shrink_to_fit();
        filter_.numbers_.shrink_to_fit();
        filter_.strings_.shrink_to_fit();
        filter_.slots_.shrink_to_fit();
        filter_.texts_.shrink_to_fit();
    }

    KeyReader reader_;
    Filter& filter_;
    std::map<std::string_view, uint32_t> names_;
    uint8_t bits_ = 0;
};

Filter::Filter(std::string_view key) { FilterCompiler(key, this); }

}  // namespace realtime
