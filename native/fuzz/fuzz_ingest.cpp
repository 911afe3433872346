// libFuzzer: bytes are a stream of updates; whatever they are, nothing outside of them is read, and what is read is sound.
//
//     clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all fuzz_ingest.cpp ../ingest.cpp
//         ../canonical_reader.cpp ../update_reader.cpp ../lines.cpp ../json.cpp -o fuzz_ingest

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "../ingest.h"
#include "../lines.h"

namespace {

using namespace realtime;
using namespace realtime::ingest;

constexpr size_t ENTITY_BYTES = 200;
constexpr size_t PROPERTIES = 8;
constexpr size_t LINE_BYTES = 512;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

// Read every byte that an update points to, and hold it against what the engine relies on.
void inspect(const Update& update) {
    require(is_id(update.id) && is_utf8(update.id) && update.version <= VERSION_MAX);
    if (update.geometry.box_count != 0) {
        require(update.geometry.box_count == 1 && is_box(update.geometry.boxes[0]) && is_utf8(update.geometry.text));
        require(update.geometry.text.find(update.geometry.is_point ? ',' : '[') != std::string_view::npos);
    }
    require((update.op != Op::UPSERT && update.op != Op::MOVE) || update.geometry.box_count == 1);
    size_t size = 0, count = 0;
    for (size_t i = 0; i < update.property_count; ++i) {
        const NamedProperty& property = update.properties[i];
        require(is_utf8(property.name) && is_utf8(property.json));
        require(update.op == Op::PATCH || !property.json.empty());
        size += property.json.empty() ? 0 : property.name.size() + 2 + property.json.size();
        count += !property.json.empty();
        for (size_t j = 0; j < i; ++j) {
            require(update.properties[j].name != property.name);
        }
    }
    require(size <= ENTITY_BYTES && count <= PROPERTIES);
    require(update.kind.empty() || is_id(update.kind));
    for (size_t i = 0; i < update.access_count; ++i) {
        require(is_principal(update.access[i]) && (i == 0 || update.access[i - 1] < update.access[i]));
    }
}

void feed(LineSplitter& splitter, UpdateReader& reader, std::string_view piece) {
    const std::unique_ptr<char[]> exact(new char[piece.size()]);
    if (!piece.empty()) {
        std::memcpy(exact.get(), piece.data(), piece.size());
    }
    std::string_view rest(exact.get(), piece.size());
    LineSplitter::Line line;
    Update update;
    while (splitter.next(rest, line)) {
        require(line.is_too_long || (!line.text.empty() && line.text.size() <= LINE_BYTES));
        if (!line.is_too_long && reader.parse(line.text, update)) {
            inspect(update);
        }
    }
    require(rest.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const IngestLimits limits{ENTITY_BYTES, PROPERTIES, {"public"}};
    UpdateReader reader(limits);
    LineSplitter splitter('\n', LINE_BYTES);
    const std::string_view stream(reinterpret_cast<const char*>(data), size);
    // The first byte says where the stream is cut in two.
    const size_t cut = size == 0 ? 0 : static_cast<size_t>(data[0]) * size / 256;
    feed(splitter, reader, stream.substr(0, cut));
    feed(splitter, reader, stream.substr(cut));
    LineSplitter::Line line;
    Update update;
    if (splitter.end(line) && !line.is_too_long) {
        const std::string text(line.text);
        const std::unique_ptr<char[]> exact(new char[text.size()]);
        std::memcpy(exact.get(), text.data(), text.size());
        if (reader.parse({exact.get(), text.size()}, update)) {
            inspect(update);
        }
    }
    return 0;
}
