// The key of a filter, read into a tree. Only filter_compiler.cpp needs it.
//
// Law: reading is bounded in bytes, nodes and levels (those of `Filter`); whatever is beyond, or is no tree, is thrown as
// std::invalid_argument. What comes out has every operand that its operator takes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "filters.h"
#include "json.h"

namespace realtime::filter_tree {

// From HAS on, they are never anything but true or false.
enum class Operator : uint8_t {
    LITERAL,  // also null, true, false, a number, a string
    KIND,
    ID,
    GET,
    HAS,
    NOT,
    ALL,
    ANY,
    EQUAL,
    UNEQUAL,
    LESS,
    AT_MOST,
    MORE,
    AT_LEAST,
    IN,
};

struct Spelling {
    std::string_view name;
    Operator op;
};

inline constexpr Spelling SPELLINGS[] = {
    {"literal", Operator::LITERAL}, {"kind", Operator::KIND},   {"id", Operator::ID},         {"get", Operator::GET},
    {"has", Operator::HAS},         {"!", Operator::NOT},       {"all", Operator::ALL},       {"any", Operator::ANY},
    {"==", Operator::EQUAL},        {"!=", Operator::UNEQUAL},  {"<", Operator::LESS},        {"<=", Operator::AT_MOST},
    {">", Operator::MORE},          {">=", Operator::AT_LEAST}, {"in", Operator::IN},
};

// A scalar, or a compound, which equals nothing.
struct Literal {
    ValueKind kind = ValueKind::COMPOUND;
    double number = 0.0;
    std::string text;  // plain

    bool operator==(const Literal& other) const {
        return kind == other.kind && kind != ValueKind::COMPOUND && number == other.number && text == other.text;
    }
};

struct Node {
    Operator op = Operator::LITERAL;
    Literal literal;               // of LITERAL; its text is the name of GET and HAS
    std::vector<Literal> members;  // of IN
    std::vector<uint32_t> operands;
};

[[noreturn]] inline void refuse(const char* why) { throw std::invalid_argument(std::string("filter key: ") + why); }

// Reads a key. White space is not skipped, as there is none.
class KeyReader {
public:
    explicit KeyReader(std::string_view key) : at_(key.data()), end_(at_ + key.size()) {
        if (key.size() > Filter::KEY_BYTES_MAX) refuse("too long");
        root_ = tree(0);
        if (at_ != end_) refuse("something follows the tree");
    }

    const Node& node(uint32_t index) const { return nodes_[index]; }
    uint32_t root() const { return root_; }

private:
    bool take(char byte) {
        if (at_ == end_ || *at_ != byte) return false;
        ++at_;
        return true;
    }

    void expect(char byte) {
        if (!take(byte)) refuse("not the JSON of a tree");
    }

    bool take_word(std::string_view word) {
        if (std::string_view(at_, static_cast<size_t>(end_ - at_)).substr(0, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    std::string string() {
        expect('"');
        const char* stop = find_special(at_, end_);
        while (stop != end_ && *stop == '\\') {
            if (end_ - stop < 3) refuse("a string does not end");
            stop = find_special(stop + 2, end_);
        }
        if (stop == end_ || *stop != '"') refuse("a string does not end");
        std::string text(static_cast<size_t>(stop - at_), '\0');
        const char* const text_end = unescape({at_, text.size()}, text.data());
        if (text_end == nullptr) refuse("an escape is malformed");
        text.resize(static_cast<size_t>(text_end - text.data()));
        at_ = stop + 1;
        return text;
    }

    Literal scalar() {
        if (at_ == end_) refuse("it ends too soon");
        Literal literal;
        if (*at_ == '"') {
            literal.kind = ValueKind::STRING;
            literal.text = string();
        } else if (take_word("null")) {
            literal.kind = ValueKind::NUL;
        } else if (take_word("true")) {
            literal.kind = ValueKind::TRUE;
        } else if (take_word("false")) {
            literal.kind = ValueKind::FALSE;
        } else {
            Number number;
            at_ = read_number(at_, end_, &number);
            if (at_ == nullptr) refuse("not the JSON of a tree");
            literal.kind = ValueKind::NUMBER;
            literal.number = number.real;
        }
        return literal;
    }

    std::vector<Literal> scalars() {
        std::vector<Literal> all;
        expect('[');
        if (take(']')) return all;
        do {
            all.push_back(scalar());
        } while (take(','));
        expect(']');
        return all;
    }

    Operator op() {
        const std::string name = string();
        for (const Spelling& spelling : SPELLINGS) {
            if (spelling.name == name) return spelling.op;
        }
        refuse("an unknown operator");
    }

    uint32_t tree(size_t level) {
        if (nodes_.size() == Filter::NODES_MAX) refuse("too many nodes");
        const uint32_t index = static_cast<uint32_t>(nodes_.size());
        nodes_.emplace_back();
        Node node;
        if (!take('[')) {
            node.literal = scalar();
        } else {
            if (level == Filter::LEVELS_MAX) refuse("too many levels");
            node.op = op();
            operands(&node, level + 1);
            expect(']');
        }
        nodes_[index] = std::move(node);
        return index;
    }

    void operands(Node* node, size_t level) {
        switch (node->op) {
            case Operator::LITERAL:
            case Operator::KIND:
            case Operator::ID: return;
            case Operator::GET:
            case Operator::HAS:
                expect(',');
                node->literal.text = string();
                return;
            case Operator::ALL:
            case Operator::ANY:
                while (take(',')) node->operands.push_back(tree(level));
                return;
            default: break;
        }
        expect(',');
        node->operands.push_back(tree(level));
        if (node->op == Operator::NOT) return;
        expect(',');
        if (node->op == Operator::IN) {
            node->members = scalars();
        } else {
            node->operands.push_back(tree(level));
        }
    }

    const char* at_;
    const char* end_;
    std::vector<Node> nodes_;
    uint32_t root_ = 0;
};

// Whether it is an expression that is always true or false.
inline bool is_truth(const Node& node) { return node.op >= Operator::HAS; }

}  // namespace realtime::filter_tree
