// See states.h.

#include "states.h"

#include <algorithm>
#include <cstring>

#include "canonical.h"
#include "ingest.h"
#include "msgpack.h"
#include "msgpack_cursor.h"
#include "slots.h"

namespace realtime {

namespace {

constexpr uint8_t ALIVE_HEAD = 0x9C, DEAD_HEAD = 0x96, UNKNOWN_HEAD = 0x91;  // arrays of 12, 6, 1

bool is_ascii(std::string_view text) {
    const char* p = text.data();
    const char* const end = p + text.size();
    uint64_t seen = 0;
    for (; end - p >= 8; p += 8) {
        uint64_t part;
        std::memcpy(&part, p, 8);
        seen |= part;
    }
    for (; p != end; ++p) {
        seen |= static_cast<uint64_t>(*p & 0x80);
    }
    return (seen & 0x8080808080808080ull) == 0;
}

bool is_utf8(std::string_view text) { return is_ascii(text) || ingest::is_utf8(text); }

bool read_access(MsgpackCursor& cursor, State& state) {
    uint64_t count;
    if (!cursor.read_array_head(count) || count > PRINCIPALS_MAX) {
        return false;
    }
    const char* const start = cursor.here();
    std::string_view before, principal;
    for (uint64_t n = 0; n < count; ++n) {
        if (!cursor.read_text(principal) || principal.size() > PRINCIPAL_BYTES_MAX || !is_utf8(principal) || (n && before >= principal)) {
            return false;
        }
        before = principal;
    }
    state.access_count = static_cast<uint32_t>(count);
    state.access = std::string_view(start, static_cast<size_t>(cursor.here() - start));
    return true;
}

bool read_id(MsgpackCursor& cursor, std::string_view& out) { return cursor.read_text(out) && ingest::is_id(out) && is_utf8(out); }

bool read_version(MsgpackCursor& cursor, uint64_t version_max, uint64_t& out) {
    return cursor.read_uint(out) && out >= 1 && out <= version_max;
}

bool read_alive(MsgpackCursor& cursor, State& state) {
    if (!read_version(cursor, state.seen, state.wire) || !cursor.read_double(state.ttl) || !cursor.read_double(state.deadline) ||
        !cursor.read_text(state.kind) || !cursor.read_double(state.min_zoom) || !cursor.read_double(state.rank) ||
        !read_access(cursor, state) || !cursor.read_bytes(state.geometry) || !cursor.read_bytes(state.properties)) {
        return false;
    }
    return state.ttl >= 0.0 && state.rank >= 0.0 && state.rank <= 1.0 &&
           (state.kind.empty() || (ingest::is_id(state.kind) && is_utf8(state.kind)));
}

}  // namespace

const char* read_state(const char* p, const char* end, State& state) {
    MsgpackCursor cursor(p, end);
    uint8_t head;
    if (!cursor.read_byte(head) || (head != ALIVE_HEAD && head != DEAD_HEAD && head != UNKNOWN_HEAD) || !read_id(cursor, state.id)) {
        return nullptr;
    }
    state.id_hash = IdTable::hash_of(state.id);
    if (head == UNKNOWN_HEAD) {
        state.form = State::Form::UNKNOWN;
        return cursor.here();
    }
    if (!read_version(cursor, ingest::VERSION_MAX, state.seen) || !cursor.read_bool(state.by_publisher)) {
        return nullptr;
    }
    state.form = head == ALIVE_HEAD ? State::Form::ALIVE : State::Form::DEAD;
    const bool is_read = head == ALIVE_HEAD
                             ? read_alive(cursor, state)
                             : cursor.read_double(state.died) && cursor.read_bool(state.is_expired) && read_access(cursor, state);
    return is_read ? cursor.here() : nullptr;
}

void name_access(const State& state, std::vector<std::string_view>& out) {
    out.resize(state.access_count);
    MsgpackCursor cursor(state.access.data(), state.access.data() + state.access.size());
    for (std::string_view& principal : out) {
        cursor.read_text(principal);
    }
}

// Properties

bool PropertiesReader::is_named(std::string_view name, uint64_t bit) const {
    const auto has_it = [name](const NamedProperty& other) { return other.name == name; };
    return (names_ & bit) != 0 && std::any_of(properties_.begin(), properties_.end(), has_it);
}

bool PropertiesReader::read(std::string_view json, size_t count_max) {
    properties_.clear();
    unescaped_.clear();
    names_ = 0;
    CanonicalText text(json);
    if (!is_utf8(json) || !text.take('{')) {
        return false;
    }
    if (text.take('}')) {
        return text.is_over();
    }
    do {
        std::string_view name;
        bool has_escapes;
        if (properties_.size() == count_max || !text.string(name, has_escapes) || !text.take(':')) {
            return false;
        }
        if (has_escapes) {
            unescaped_.reserve(json.size());  // so that it never moves: no name gets longer
            const size_t start = unescaped_.size();
            append_unescaped(unescaped_, name);
            name = std::string_view(unescaped_).substr(start);
        }
        const char* const start = text.here();
        if (!text.value() || text.since(start) == "null") {
            return false;
        }
        const unsigned first = name.empty() ? 0 : static_cast<unsigned char>(name.front());
        const unsigned last = name.empty() ? 0 : static_cast<unsigned char>(name.back());
        const uint64_t bit = uint64_t{1} << ((first * 7 + last * 3 + name.size()) % 64);
        if (is_named(name, bit)) {
            return false;
        }
        names_ |= bit;
        properties_.push_back({name, text.since(start)});
    } while (text.take(','));
    return text.take('}') && text.is_over();
}

// Writing

namespace states {

char* put_text(char* out, std::string_view text) {
    out = msgpack::write_string_head(out, text.size());
    if (!text.empty()) {
        std::memcpy(out, text.data(), text.size());
    }
    return out + text.size();
}

char* put_head(char* out, size_t members, std::string_view id) { return put_text(msgpack::write_array_head(out, members), id); }

char* put_bool(char* out, bool value) {
    *out = static_cast<char>(value ? 0xC3 : 0xC2);
    return out + 1;
}

char* put_bytes_head(char* out, size_t bytes) {
    if (bytes <= 0xFF) {
        return msgpack::write_big_endian(out, 0xC4, static_cast<uint8_t>(bytes));
    }
    if (bytes <= 0xFFFF) {
        return msgpack::write_big_endian(out, 0xC5, static_cast<uint16_t>(bytes));
    }
    return msgpack::write_big_endian(out, 0xC6, static_cast<uint32_t>(bytes));
}

}  // namespace states

}  // namespace realtime
