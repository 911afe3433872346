// Rights as interned ids: principals, and the sets of them that entities are open to and that sessions have.
//
// Law: a principal or a set is kept as long as somebody refers to it, and no longer: publishers and tokens may name as many
// as they like over time. Set 0 is {public} and is never forgotten.

#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace realtime {

class Rights {
   public:
    static constexpr uint32_t PUBLIC = 0;      // the principal
    static constexpr uint32_t PUBLIC_SET = 0;  // the set of it alone
    static constexpr char END = '\xFF';        // of a name within a key: no UTF-8 has it

    Rights() {
        const std::string_view everybody[] = {"public"};
        enter(everybody, 1);
    }

    // Returns the set of a session's principals, `public` among them, referred to once more.
    uint32_t enter_session(const std::string_view* names, size_t count) {
        std::vector<std::string_view> all(names, names + count);
        all.push_back("public");
        std::sort(all.begin(), all.end());
        all.erase(std::unique(all.begin(), all.end()), all.end());
        return enter(all.data(), all.size());
    }

    // Returns the set of these principals, sorted by bytes and distinct, referred to once more.
    uint32_t enter(const std::string_view* names, size_t count) {
        if (count == 1 && names[0] == "public" && !sets_.empty()) {
            ++sets_[PUBLIC_SET].references;
            return PUBLIC_SET;
        }
        key_.clear();
        for (size_t n = 0; n < count; ++n) {
            key_.append(names[n]);
            key_.push_back(END);
        }
        const auto found = by_key_.find(key_);
        if (found != by_key_.end()) {
            ++sets_[found->second].references;
            return found->second;
        }
        uint32_t number;
        if (free_sets_.empty()) {
            number = static_cast<uint32_t>(sets_.size());
            sets_.emplace_back();
        } else {
            number = free_sets_.back();
            free_sets_.pop_back();
        }
        Set& set = sets_[number];
        set.references = 1;
        for (size_t n = 0; n < count; ++n) {
            set.principals.push_back(refer(names[n]));
        }
        std::sort(set.principals.begin(), set.principals.end());
        set.is_public = !set.principals.empty() && set.principals.front() == PUBLIC;
        set.key = by_key_.emplace(key_, number).first;
        return number;
    }

    // Returns the set of these principals if it is known; otherwise what no set is.
    uint32_t find(const std::string_view* names, size_t count) const {
        std::string key;
        for (size_t n = 0; n < count; ++n) {
            key.append(names[n]);
            key.push_back(END);
        }
        const auto found = by_key_.find(key);
        return found == by_key_.end() ? 0xFFFFFFFFu : found->second;
    }

    // Whether the set is the one of these principals, sorted by bytes and distinct.
    bool is(uint32_t set, const std::string_view* names, size_t count) const {
        std::string_view key = key_of(set);
        for (size_t n = 0; n < count; ++n) {
            const size_t bytes = names[n].size();
            if (key.size() <= bytes || key[bytes] != END || key.compare(0, bytes, names[n]) != 0) {
                return false;
            }
            key.remove_prefix(bytes + 1);
        }
        return key.empty();
    }

    // The names of a set in the order of their bytes, each with an END behind it.
    std::string_view key_of(uint32_t set) const { return sets_[set].key->first; }
    size_t size_of(uint32_t set) const { return sets_[set].principals.size(); }

    bool is_public(uint32_t set) const { return sets_[set].is_public; }
    void keep(uint32_t set) { ++sets_[set].references; }

    void leave(uint32_t number) {
        Set& set = sets_[number];
        if (--set.references || number == PUBLIC_SET) {
            return;
        }
        for (const uint32_t principal : set.principals) {
            drop(principal);
        }
        by_key_.erase(set.key);
        set = Set();
        free_sets_.push_back(number);
    }

    // Whether a session with the principals of set `session` may see what is open to the set `number`.
    bool allows(uint32_t number, uint32_t session) const {
        const Set& set = sets_[number];
        if (set.is_public) {
            return true;
        }
        const Principals& mine = sets_[session].principals;
        auto a = set.principals.begin();
        auto b = mine.begin();
        while (a != set.principals.end() && b != mine.end()) {
            if (*a == *b) {
                return true;
            }
            if (*a < *b) {
                ++a;
            } else {
                ++b;
            }
        }
        return false;
    }

    // How many principals and sets are kept: nothing may grow for ever.
    size_t principal_count() const { return by_name_.size(); }
    size_t set_count() const { return by_key_.size(); }

   private:
    using Principals = std::vector<uint32_t>;  // sorted

    struct Set {
        Principals principals;
        uint64_t references = 0;
        bool is_public = false;
        std::map<std::string, uint32_t>::iterator key;
    };
    struct Principal {
        uint64_t references = 0;
        std::string name;
    };

    uint32_t refer(std::string_view name) {
        const auto found = by_name_.find(std::string(name));
        if (found != by_name_.end()) {
            ++names_[found->second].references;
            return found->second;
        }
        uint32_t number;
        if (free_names_.empty()) {
            number = static_cast<uint32_t>(names_.size());
            names_.emplace_back();
        } else {
            number = free_names_.back();
            free_names_.pop_back();
        }
        names_[number].references = 1;
        names_[number].name = name;
        by_name_.emplace(name, number);
        return number;
    }

    void drop(uint32_t number) {
        Principal& principal = names_[number];
        if (--principal.references == 0) {
            by_name_.erase(principal.name);
            principal.name = std::string();
            free_names_.push_back(number);
        }
    }

    std::vector<Principal> names_;
    std::vector<uint32_t> free_names_;
    std::unordered_map<std::string, uint32_t> by_name_;
    std::vector<Set> sets_;
    std::vector<uint32_t> free_sets_;
    std::map<std::string, uint32_t> by_key_;
    std::string key_;
};

}  // namespace realtime
