// Arbitrary bytes as a key, as properties and as an id: nothing crashes, and two readings of one key agree.
//
// The input is cut at line feeds: the key, the id, the kind, then names and values in turn.

#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "../filters.h"

namespace {

struct Entity {
    std::vector<std::string_view> lines;

    static bool find(const void* self, std::string_view name, realtime::Value* value) {
        const auto& lines = static_cast<const Entity*>(self)->lines;
        for (size_t i = 3; i + 1 < lines.size(); i += 2) {
            if (lines[i] != name) continue;
            *value = realtime::value_of(lines[i + 1]);
            return true;
        }
        return false;
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    Entity entity;
    for (size_t stop; (stop = rest.find('\n')) != std::string_view::npos; rest.remove_prefix(stop + 1)) {
        entity.lines.push_back(rest.substr(0, stop));
    }
    entity.lines.push_back(rest);
    if (entity.lines.size() < 3) entity.lines.resize(3);
    try {
        const realtime::Filter filter(entity.lines[0]), again(entity.lines[0]);
        const realtime::Subject subject{entity.lines[1], entity.lines[2], &entity, Entity::find};
        if (filter.passes(subject) != again.passes(subject) || filter.bytes() != again.bytes()) std::abort();
    } catch (const std::invalid_argument&) {
        // What is no key is refused; any other exception is a bug.
    }
    return 0;
}
