// Tells canonical JSON from all else, without making anything of it.
//
// Law: what is read is accepted exactly if `realtime.values.canonical` writes the same bytes of the value that they stand
// for: no white space, keys sorted, each number and each string in its one form. Each method reads one thing where the text
// stands and leaves it behind that; false: it is something else, or not canonical, and nothing more can be read. Nothing
// beyond the end is looked at. The text must be UTF-8.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace realtime {

constexpr int CANONICAL_DEPTH_MAX = 32;  // of arrays and objects within each other

class CanonicalText {
   public:
    explicit CanonicalText(std::string_view text) : p_(text.data()), end_(p_ + text.size()) {}

    bool is_over() const { return p_ == end_; }
    bool at(char c) const { return p_ != end_ && *p_ == c; }
    const char* here() const { return p_; }
    std::string_view since(const char* start) const { return {start, static_cast<size_t>(p_ - start)}; }

    bool take(char c) {
        if (!at(c)) {
            return false;
        }
        ++p_;
        return true;
    }
    bool take(std::string_view word) {
        if (static_cast<size_t>(end_ - p_) < word.size() || std::memcmp(p_, word.data(), word.size()) != 0) {
            return false;
        }
        p_ += word.size();
        return true;
    }

    // `value` is the double that is nearest to the number.
    bool number(double& value);
    // `body` is what stands between the quotes.
    bool string(std::string_view& body, bool& has_escapes);
    // Arrays and objects count from `depth` on.
    bool value(int depth = 1);

   private:
    bool odd_number(const char* start, double& value);
    bool escape();
    bool array(int depth);
    bool object(int depth);

    const char* p_;
    const char* const end_;
};

// Appends what stands between a string's quotes, without the escapes that it has.
void append_unescaped(std::string& out, std::string_view body);

}  // namespace realtime
