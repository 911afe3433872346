#include "pieces.h"

#include <cstdlib>

#include "msgpack.h"

namespace realtime {

namespace {

void put_geometry(std::string& out, const Entity& entity) {
    const std::string_view text = entity.geometry_text();
    if (entity.is_point) {
        out += R"({"type":"Point","coordinates":[)";
        out += text;
        out += "]}";
    } else {
        out += text;
    }
}

void put_move(std::string& out, const Entity& entity) {
    out += '[';
    put_json_string(out, entity.id());
    out += ',';
    put_json_uint(out, entity.wire);
    out += ',';
    out += entity.geometry_text();
    out += ']';
}

void put_patch(std::string& out, const Entity& entity, uint64_t held) {
    out += R"({"id":)";
    put_json_string(out, entity.id());
    out += R"(,"version":)";
    put_json_uint(out, entity.wire);
    if (entity.geometry_version > held) {
        out += R"(,"geometry":)";
        put_geometry(out, entity);
    }
    const Content& content = *entity.content;
    bool is_first = true;
    const auto open = [&] {
        out += is_first ? R"(,"properties":{)" : ",";
        is_first = false;
    };
    for (const Property& property : content) {
        if (property.version > held) {
            open();
            out += content.name(property);
            out += ':';
            out += content.json(property);
        }
    }
    for (size_t n = 0; n < content.removed_count(); ++n) {
        const Removed& removed = content.removed()[n];
        if (removed.version > held && !BROKEN(FORGETS_REMOVED_PROPERTIES)) {
            open();
            out += content.name(removed);
            out += ":null";
        }
    }
    out += is_first ? "}" : "}}";
}

// As `[id, version, lon, lat]` in msgpack, straight from the text of the coordinates.
void put_packed_move(std::string& out, const Entity& entity) {
    put_array_head(out, 4);
    put_string(out, entity.id());
    put_uint(out, entity.wire);
    const std::string_view text = entity.geometry_text();
    const size_t comma = text.find(',');
    transcode(text.substr(0, comma), out);
    transcode(text.substr(comma + 1), out);
}

}  // namespace

void Pieces::put_feature(std::string& out, const Entity& entity) {
    out += R"({"type":"Feature","id":)";
    put_json_string(out, entity.id());
    out += R"(,"version":)";
    put_json_uint(out, entity.wire);
    if (!entity.content->kind().empty()) {
        out += R"(,"kind":)";
        put_json_string(out, entity.content->kind());
    }
    out += R"(,"geometry":)";
    put_geometry(out, entity);
    out += R"(,"properties":{)";
    out += entity.content->properties();
    out += "}}";
}

std::string_view Pieces::make(Entity& entity, uint32_t slot, How how, uint64_t held, Encoding encoding, uint32_t& place) {
    const uint64_t told = held;
    made_.clear();
    if (how == How::MOVE) {
        encoding == Encoding::JSON ? put_move(made_, entity) : put_packed_move(made_, entity);
    } else {
        std::string& json = encoding == Encoding::JSON ? made_ : scratch_;
        json.clear();
        if (how == How::PATCH && entity.known && BROKEN(TELLS_PATCHES_FROM_THE_LAST_VERSION)) {
            held = entity.known->versions[entity.known->count - 1];
        }
        how == How::ENTER ? put_feature(json, entity) : put_patch(json, entity, held);
        if (encoding == Encoding::MSGPACK) {
            transcode(json, made_);
        }
    }
    if (encoding == Encoding::JSON) {
        made_ += ',';
    }
    if (made_.size() > LARGE) {
        return made_;
    }
    const size_t head_units = how == How::PATCH ? 2 : 1;
    const uint32_t units = static_cast<uint32_t>(head_units + (made_.size() + UNIT - 1) / UNIT);
    if ((end_ & MASK) + units > MASK + 1) {
        end_ += MASK + 1 - (end_ & MASK);  // does not fit behind the last one: on to the beginning of the ring
    }
    if (end_ == 0) {
        end_ = 1;
    }
    place = end_;
    end_ += units;
    char* const at = ring_ + (place & MASK) * UNIT;
    *reinterpret_cast<Head*>(at) = {label_of(entity.wire, how, encoding), slot, static_cast<uint32_t>(made_.size())};
    std::memcpy(at + sizeof(Head), &told, sizeof told);
    char* const piece = at + head_units * UNIT;
    std::memcpy(piece, made_.data(), made_.size());
    return {piece, made_.size()};
}

}  // namespace realtime
