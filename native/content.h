// The content of an entity: its id, its kind and its properties, with the versions that changed them.
//
// Law: a Content is one block of memory and is never changed; an update makes another one, or none where nothing differs.
// It is freed with `std::free`. Bytes are canonical JSON, made once by whoever decoded the update.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "filters.h"
#include "types.h"

namespace realtime {

constexpr size_t REMOVED_MAX = 64;         // removed properties remembered per entity, for patches
constexpr size_t PROPERTIES_MAX = 0xFFFF;  // fewer than so many can stand in a Content

// A property within a Content: `"name":json` stands at `at`.
struct Property {
    uint64_t version;  // the wire version that last changed it
    uint32_t at;
    uint32_t name_bytes;  // with its quotes
    uint32_t json_bytes;
    bool is_escaped;  // the name has a backslash in it
};

// A removed property: its name as JSON, and the version that removed it.
struct Removed {
    uint64_t version;
    uint32_t at;
    uint32_t name_bytes;
};

// Id, kind and properties of an entity in one block of memory, never changed: what comes next is another one.
class alignas(Property) Content {
   public:
    std::string_view id() const { return {data(), id_bytes_}; }
    std::string_view kind() const { return {data() + id_bytes_, kind_bytes_}; }
    // `"a":1,"b":2`, without the braces.
    std::string_view properties() const { return {data() + id_bytes_ + kind_bytes_, properties_bytes_}; }
    size_t property_count() const { return property_count_; }
    const Property* begin() const { return reinterpret_cast<const Property*>(this + 1); }
    const Property* end() const { return begin() + property_count_; }
    size_t removed_count() const { return removed_count_; }
    const Removed* removed() const { return reinterpret_cast<const Removed*>(end()); }
    std::string_view name(const Property& property) const { return {data() + property.at, property.name_bytes}; }
    std::string_view json(const Property& property) const { return {data() + property.at + property.name_bytes + 1, property.json_bytes}; }
    std::string_view name(const Removed& removed) const { return {data() + removed.at, removed.name_bytes}; }

    // What filters said of it, a bit for each of the first of them: an entity that merely moves need not be asked again.
    // Whoever numbers filters begins a new term when a number comes to mean another one.
    struct Verdicts {
        uint32_t term = 0, known = 0, passed = 0;
    };
    static constexpr uint32_t VERDICTS_MAX = 32;
    Verdicts& verdicts(uint32_t term) const {
        if (verdicts_.term != term) {
            verdicts_ = {term, 0, 0};
        }
        return verdicts_;
    }

   private:
    friend class ContentDraft;
    Content() = default;
    const char* data() const { return reinterpret_cast<const char*>(removed() + removed_count_); }

    uint16_t id_bytes_ = 0;
    uint16_t kind_bytes_ = 0;
    uint16_t property_count_ = 0;
    uint16_t removed_count_ = 0;
    uint32_t properties_bytes_ = 0;
    mutable Verdicts verdicts_;
};

// What a Content will be made of. All that it names must outlive `make`.
class ContentDraft {
   public:
    struct Item {
        std::string_view name;  // as JSON
        std::string_view json;  // empty: a removed property
        uint64_t version;
    };
    std::string_view id;
    std::string_view kind;
    std::vector<Item> properties;
    std::vector<Item> removed;

    void clear() {
        id = kind = {};
        properties.clear();
        removed.clear();
    }
    Content* make() const;
};

// Makes the contents of entities from what updates name. Its memory is kept for the next one.
class ContentMaker {
   public:
    // Of an entity that is born by an upsert; nullptr: it has more properties than a Content can hold.
    Content* first(const Update& update, uint64_t version);
    // Of an entity after an update; nullptr: nothing differs. `dropped` is the version of the last removal that was
    // forgotten, or 0.
    Content* next(const Content& old, const Update& update, uint64_t version, uint64_t& dropped);

   private:
    void write_names(const Update& update);
    std::string_view name(size_t n) const {
        const size_t begin = n ? ends_[n - 1] : 0;
        return std::string_view(names_).substr(begin, ends_[n] - begin);
    }
    size_t find(std::string_view name);
    void take_removed(const Content& old, const Update& update, uint64_t& dropped);

    ContentDraft draft_;
    std::string names_;        // of the update's properties, as JSON
    std::vector<size_t> ends_; // of each of them
    size_t hint_ = 0;          // the place behind the one that was found last
    std::vector<char> is_old_; // of each of the update's properties: the entity has it already
    std::vector<ContentDraft::Item> gone_;
};

// The properties of a Content, as a filter reads them; a number is parsed once, however many filters ask for it.
class PropertyReader {
   public:
    void read(const Content* content) {
        content_ = content;
        parsed_ = 0;
    }
    static bool find(const void* reader, std::string_view name, Value* value);

   private:
    static constexpr size_t MEMO = 64;
    const Content* content_ = nullptr;
    uint64_t parsed_ = 0;
    Value values_[MEMO];
};

}  // namespace realtime
