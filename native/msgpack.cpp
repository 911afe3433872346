// Canonical JSON made into MessagePack, in one pass. The law is in msgpack.h.

#include "msgpack.h"

#include <cstring>

namespace realtime {

namespace {

// An array or object that is being read.
struct Open {
    char* head;  // one byte was left for it; a longer head moves what follows
    size_t count;
    bool is_map;
};

// `at` is behind the opening quote; returns what is behind the closing one, or nullptr.
const char* transcode_string(const char* at, const char* end, char** out) {
    const char* special = find_special(at, end);
    if (special == end) return nullptr;
    if (*special == '"') {
        const size_t bytes = static_cast<size_t>(special - at);
        *out = msgpack::write_string_head(*out, bytes);
        std::memcpy(*out, at, bytes);
        *out += bytes;
        return special + 1;
    }
    while (*special == '\\') {
        if (end - special < 3) return nullptr;  // an escape, and a quote behind it
        special = find_special(special + 2, end);
        if (special == end) return nullptr;
    }
    if (*special != '"') return nullptr;
    // The head comes first and depends on the length, so the text is put behind where the longest could end, and moved.
    char* const begin = *out + 5;
    char* const stop = unescape({at, static_cast<size_t>(special - at)}, begin);
    if (stop == nullptr) return nullptr;
    const size_t bytes = static_cast<size_t>(stop - begin);
    *out = msgpack::write_string_head(*out, bytes);
    std::memmove(*out, begin, bytes);
    *out += bytes;
    return special + 1;
}

const char* transcode_number(const char* at, const char* end, char** out) {
    Number number;
    at = read_number(at, end, &number);
    if (at == nullptr) return nullptr;
    switch (number.kind) {
        case Number::Kind::UNSIGNED: *out = msgpack::write_uint(*out, number.magnitude); break;
        case Number::Kind::NEGATIVE: *out = msgpack::write_negative(*out, number.magnitude); break;
        case Number::Kind::DOUBLE: *out = msgpack::write_double(*out, number.real); break;
    }
    return at;
}

const char* transcode_scalar(const char* at, const char* end, char** out) {
    const std::string_view rest(at, static_cast<size_t>(end - at));
    switch (*at) {
        case '"': return transcode_string(at + 1, end, out);
        case 'n':
            if (rest.substr(0, 4) != "null") return nullptr;
            *(*out)++ = static_cast<char>(0xC0);
            return at + 4;
        case 'f':
            if (rest.substr(0, 5) != "false") return nullptr;
            *(*out)++ = static_cast<char>(0xC2);
            return at + 5;
        case 't':
            if (rest.substr(0, 4) != "true") return nullptr;
            *(*out)++ = static_cast<char>(0xC3);
            return at + 4;
        default: return transcode_number(at, end, out);
    }
}

// Writes the head of a container that ends at `out`, now that its members are counted; returns its new end.
char* close(const Open& open, char* out) {
    char head[5];
    const char* const end = open.is_map ? msgpack::write_map_head(head, open.count) : msgpack::write_array_head(head, open.count);
    const size_t bytes = static_cast<size_t>(end - head);
    if (bytes > 1) std::memmove(open.head + bytes, open.head + 1, static_cast<size_t>(out - open.head) - 1);
    std::memcpy(open.head, head, bytes);
    return out + bytes - 1;
}

}  // namespace

char* write_transcoded(char* out, std::string_view json) {
    const char* at = json.data();
    const char* const end = at + json.size();
    Open opens[TRANSCODED_LEVELS_MAX];
    size_t level = 0;
    bool wants_key = false;
    for (;;) {
        if (wants_key) {
            if (at == end || *at != '"') return nullptr;
            at = transcode_string(at + 1, end, &out);
            if (at == nullptr || at == end || *at++ != ':') return nullptr;
        }
        if (at == end) return nullptr;
        bool is_closed = true;
        if (*at == '[' || *at == '{') {
            if (level == TRANSCODED_LEVELS_MAX) return nullptr;
            Open& open = opens[level++];
            open = {out++, 0, *at == '{'};
            wants_key = open.is_map;
            ++at;
            if (at == end) return nullptr;
            if (*at != (open.is_map ? '}' : ']')) continue;
            ++at;
            out = close(open, out);
            --level;
        } else {
            at = transcode_scalar(at, end, &out);
            if (at == nullptr) return nullptr;
        }
        // A value has ended; so may those around it.
        while (is_closed) {
            if (level == 0) return at == end ? out : nullptr;
            Open& open = opens[level - 1];
            ++open.count;
            if (at == end) return nullptr;
            const char byte = *at++;
            if (byte == ',') {
                wants_key = open.is_map;
                is_closed = false;
            } else if (byte == (open.is_map ? '}' : ']')) {
                out = close(open, out);
                --level;
            } else {
                return nullptr;
            }
        }
    }
}

}  // namespace realtime
