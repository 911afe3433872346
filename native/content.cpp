// See content.h.

#include "content.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "json.h"

namespace realtime {

namespace {

char* copy(char* to, std::string_view text) {
    if (!text.empty()) {
        std::memcpy(to, text.data(), text.size());
    }
    return to + text.size();
}

}  // namespace

Content* ContentDraft::make() const {
    size_t text = 0;
    for (const Item& item : properties) {
        text += item.name.size() + 1 + item.json.size() + 1;
    }
    const size_t properties_bytes = text ? text - 1 : 0;
    size_t data = id.size() + kind.size() + properties_bytes;
    for (const Item& item : removed) {
        data += item.name.size();
    }
    void* memory = std::malloc(sizeof(Content) + properties.size() * sizeof(Property) + removed.size() * sizeof(Removed) + data);
    if (!memory) {
        throw std::bad_alloc();
    }
    Content* content = new (memory) Content();
    content->id_bytes_ = static_cast<uint16_t>(id.size());
    content->kind_bytes_ = static_cast<uint16_t>(kind.size());
    content->property_count_ = static_cast<uint16_t>(properties.size());
    content->removed_count_ = static_cast<uint16_t>(removed.size());
    content->properties_bytes_ = static_cast<uint32_t>(properties_bytes);
    Property* property = const_cast<Property*>(content->begin());
    Removed* gone = const_cast<Removed*>(content->removed());
    char* const base = const_cast<char*>(content->data());
    char* to = copy(copy(base, id), kind);
    for (size_t n = 0; n < properties.size(); ++n) {
        const Item& item = properties[n];
        if (n) {
            *to++ = ',';
        }
        *property++ = {item.version, static_cast<uint32_t>(to - base), static_cast<uint32_t>(item.name.size()),
                       static_cast<uint32_t>(item.json.size()), item.name.find('\\') != std::string_view::npos};
        to = copy(to, item.name);
        *to++ = ':';
        to = copy(to, item.json);
    }
    for (const Item& item : removed) {
        *gone++ = {item.version, static_cast<uint32_t>(to - base), static_cast<uint32_t>(item.name.size())};
        to = copy(to, item.name);
    }
    return content;
}

// Making contents

void ContentMaker::write_names(const Update& update) {
    draft_.clear();
    names_.clear();
    ends_.clear();
    for (size_t n = 0; n < update.property_count; ++n) {
        put_json_string(names_, update.properties[n].name);
        ends_.push_back(names_.size());
    }
    hint_ = 0;
}

// Returns which of the update's properties has this name, or how many there are. Publishers name properties in the same
// order each time: the one behind the last found is tried first.
size_t ContentMaker::find(std::string_view wanted) {
    const size_t count = ends_.size();
    for (size_t tried = 0; tried < count; ++tried) {
        const size_t n = hint_ + tried < count ? hint_ + tried : hint_ + tried - count;
        if (name(n) == wanted) {
            hint_ = n + 1 < count ? n + 1 : 0;
            return n;
        }
    }
    return count;
}

Content* ContentMaker::first(const Update& update, uint64_t version) {
    write_names(update);
    draft_.id = update.id;
    draft_.kind = update.kind;
    for (size_t n = 0; n < update.property_count; ++n) {
        if (!update.properties[n].json.empty()) {
            draft_.properties.push_back({name(n), update.properties[n].json, version});
        }
    }
    return draft_.properties.size() < PROPERTIES_MAX ? draft_.make() : nullptr;
}

Content* ContentMaker::next(const Content& old, const Update& update, uint64_t version, uint64_t& dropped) {
    const bool is_kind_changed = update.has_kind && update.kind != old.kind();
    dropped = 0;
    if (!update.has_properties && !is_kind_changed) {
        return nullptr;
    }
    write_names(update);
    draft_.id = old.id();
    draft_.kind = is_kind_changed ? update.kind : old.kind();
    bool is_changed = false;
    is_old_.assign(update.property_count, false);
    gone_.clear();
    for (const Property& property : old) {
        const size_t n = update.has_properties ? find(old.name(property)) : update.property_count;
        if (n == update.property_count) {
            if (update.has_properties && update.op == Op::UPSERT) {
                gone_.push_back({old.name(property), {}, version});
            } else {
                draft_.properties.push_back({old.name(property), old.json(property), property.version});
            }
            continue;
        }
        is_old_[n] = true;
        const std::string_view json = update.properties[n].json;
        if (json.empty()) {
            gone_.push_back({old.name(property), {}, version});
        } else if (json == old.json(property)) {
            draft_.properties.push_back({old.name(property), json, property.version});
        } else {
            is_changed = true;
            draft_.properties.push_back({old.name(property), json, version});
        }
    }
    for (size_t n = 0; n < update.property_count; ++n) {
        if (!is_old_[n] && !update.properties[n].json.empty()) {
            is_changed = true;
            draft_.properties.push_back({name(n), update.properties[n].json, version});
        }
    }
    if (!is_changed && gone_.empty() && !is_kind_changed) {
        return nullptr;
    }
    take_removed(old, update, dropped);
    if (draft_.properties.size() >= PROPERTIES_MAX) {
        draft_.properties.resize(PROPERTIES_MAX);  // refused right away, by its count
    }
    return draft_.make();
}

// What was removed before and is not back, and what is gone now; of too many the oldest are forgotten.
void ContentMaker::take_removed(const Content& old, const Update& update, uint64_t& dropped) {
    for (const Removed* removed = old.removed(); removed != old.removed() + old.removed_count(); ++removed) {
        const std::string_view name = old.name(*removed);
        const size_t n = find(name);
        if (n == update.property_count || update.properties[n].json.empty()) {
            draft_.removed.push_back({name, {}, removed->version});
        }
    }
    std::vector<ContentDraft::Item>& all = draft_.removed;
    all.insert(all.end(), gone_.begin(), gone_.end());
    if (all.size() > REMOVED_MAX) {
        const auto keep = all.end() - static_cast<std::ptrdiff_t>(REMOVED_MAX);
        for (auto item = all.begin(); item != keep; ++item) {
            dropped = std::max(dropped, item->version);
        }
        all.erase(all.begin(), keep);
    }
}

// Reading properties

bool PropertyReader::find(const void* self, std::string_view name, Value* value) {
    PropertyReader& reader = *const_cast<PropertyReader*>(static_cast<const PropertyReader*>(self));
    const Content& content = *reader.content_;
    size_t n = 0;
    for (const Property& property : content) {
        const std::string_view quoted = content.name(property);
        bool is_it;
        if (!property.is_escaped) {
            is_it = quoted.size() == name.size() + 2 && std::memcmp(quoted.data() + 1, name.data(), name.size()) == 0;
        } else {
            std::string encoded;
            put_json_string(encoded, name);
            is_it = encoded == quoted;
        }
        if (is_it) {
            if (n >= MEMO) {
                *value = value_of(content.json(property));
                return true;
            }
            if (!(reader.parsed_ >> n & 1)) {
                reader.values_[n] = value_of(content.json(property));
                reader.parsed_ |= uint64_t{1} << n;
            }
            *value = reader.values_[n];
            return true;
        }
        ++n;
    }
    return false;
}

}  // namespace realtime
