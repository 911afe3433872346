// Entities' ids as 32-bit keys: 8 bits of interned prefix and 24 of number for `bus-17`; anything else is interned whole.
//
// Law: equal ids have equal keys and unequal ids unequal ones, whatever is sent: a number with a leading zero or beyond 24
// bits is none. Reads may go up to 16 bytes beyond an id, which receive buffers allow for.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace bench {

inline uint64_t load64(const char* at) {
    uint64_t word = 0;
    std::memcpy(&word, at, 8);  // of little-endian machines, as is all below
    return word;
}

// How many of eight characters, from the first on, are decimal digits. A carry spoils only what is behind the first other one.
inline int count_digits(uint64_t word) {
    uint64_t x = word ^ 0x3030303030303030u;
    uint64_t others = ((x + 0x7676767676767676u) | x) & 0x8080808080808080u;
    return others == 0 ? 8 : __builtin_ctzll(others) >> 3;
}

// The number that the first `count` (1 to 8) characters are, known to be digits.
inline uint32_t to_number(uint64_t word, int count) {
    uint64_t x = (word ^ 0x3030303030303030u) << ((8 - count) * 8);
    x = (x * 10 + (x >> 8)) & 0x00FF00FF00FF00FFu;
    x = (x * 100 + (x >> 16)) & 0x0000FFFF0000FFFFu;
    return static_cast<uint32_t>(x * 10000 + (x >> 32));
}

class Ids {
public:
    static constexpr uint32_t NONE = 0xFFFFFFFF;  // no id has this key
    static constexpr int NUMBER_BITS = 24;

    // The key of any id.
    uint32_t of(std::string_view id) {
        size_t digits = 0;
        while (digits < id.size() && digits < 8 && is_digit(id[id.size() - 1 - digits])) {
            digits++;
        }
        std::string_view prefix = id.substr(0, id.size() - digits), number = id.substr(id.size() - digits);
        bool is_numbered = digits != 0 && !prefix.empty() && prefix.back() == '-' && (number[0] != '0' || digits == 1);
        uint32_t value = 0;
        for (char digit : number) {
            value = value * 10 + static_cast<uint32_t>(digit - '0');
        }
        if (is_numbered && value >> NUMBER_BITS == 0) {
            uint32_t place = prefix_of(prefix);
            if (place != OTHERS) {
                return place << NUMBER_BITS | value;
            }
        }
        auto [found, is_new] = others_.try_emplace(std::string(id), static_cast<uint32_t>(other_names_.size()));
        if (is_new) {
            other_names_.push_back(found->first);
        }
        return OTHERS << NUMBER_BITS | found->second;
    }

    // The id behind a quote of JSON text, if it is of a known prefix and a number; `at` is then moved onto the closing quote.
    bool take_quoted(const char*& at, uint32_t& key) {
        if ((load64(at) & recent_->mask) != recent_->word && !choose(at)) {
            return false;
        }
        const Fast* fast = recent_;
        uint64_t rest = load64(at + fast->size);
        int digits = count_digits(rest);
        if (digits == 0 || digits == 8 || (digits > 1 && (rest & 0xFF) == '0') || at[fast->size + static_cast<uint32_t>(digits)] != '"') {
            return false;
        }
        at += fast->size + static_cast<uint32_t>(digits);
        key = fast->base | to_number(rest, digits);  // of at most seven digits, which 24 bits hold
        return true;
    }

    // The key of an id of a known length.
    uint32_t of_sized(const char* at, size_t size) {
        const Fast* fast = recent_;
        size_t digits = size - fast->size;
        if ((load64(at) & fast->mask) == fast->word && digits - 1 < 7) {
            uint64_t rest = load64(at + fast->size);
            if (count_digits(rest) >= static_cast<int>(digits) && (digits == 1 || (rest & 0xFF) != '0')) {
                return fast->base | to_number(rest, static_cast<int>(digits));
            }
        }
        uint32_t key = of(std::string_view(at, size));
        choose(at);
        return key;
    }

    std::string name(uint32_t key) const {
        uint32_t place = key >> NUMBER_BITS, number = key & ((1u << NUMBER_BITS) - 1);
        return place == OTHERS ? other_names_[number] : prefixes_[place] + std::to_string(number);
    }

private:
    static constexpr uint32_t OTHERS = 254;  // the prefix of those that are interned whole
    static constexpr size_t FAST_MAX = 16;

    // A prefix of at most eight bytes, to be compared as a word.
    struct Fast {
        uint64_t word = 1, mask = 0;  // matches nothing
        uint32_t size = 0, base = 0;
    };

    static bool is_digit(char one) { return one >= '0' && one <= '9'; }

    uint32_t prefix_of(std::string_view prefix) {
        auto found = prefix_places_.find(std::string(prefix));
        if (found != prefix_places_.end()) {
            return found->second;
        }
        if (prefixes_.size() == OTHERS) {
            return OTHERS;
        }
        auto place = static_cast<uint32_t>(prefixes_.size());
        prefixes_.emplace_back(prefix);
        prefix_places_.emplace(prefix, place);
        if (prefix.size() <= 8 && fast_count_ < FAST_MAX && prefix.find_first_of("\"\\") == std::string_view::npos) {
            Fast& made = fast_[fast_count_++];
            made.mask = prefix.size() == 8 ? ~uint64_t{0} : (uint64_t{1} << (prefix.size() * 8)) - 1;
            char padded[8] = {};
            std::memcpy(padded, prefix.data(), prefix.size());
            made.word = load64(padded);
            made.size = static_cast<uint32_t>(prefix.size());
            made.base = place << NUMBER_BITS;
        }
        return place;
    }

    // Makes the prefix that is found at `at` the recent one.
    bool choose(const char* at) {
        uint64_t word = load64(at);
        for (size_t i = 0; i < fast_count_; i++) {
            if ((word & fast_[i].mask) == fast_[i].word) {
                recent_ = &fast_[i];
                return true;
            }
        }
        return false;
    }

    Fast fast_[FAST_MAX];
    size_t fast_count_ = 0;
    const Fast* recent_ = &fast_[0];
    std::vector<std::string> prefixes_;
    std::unordered_map<std::string, uint32_t> prefix_places_;
    std::unordered_map<std::string, uint32_t> others_;
    std::vector<std::string> other_names_;
};

}  // namespace bench
