// How updates get in: JSON text, line by line, into `Update`s.
//
// Law: this is a fast path and no authority. `UpdateReader::parse` says true only where `realtime/updates.py` accepts the
// same text and makes exactly the same update of it; whatever is wrong, unusual or merely not worth a line here gets
// false and goes there, where what is wrong is named. So nothing here words an error, and a false is never wrong.
// Nothing is read outside of the text that was given, and nothing is allocated for an update once the buffers have
// grown to the largest seen.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "types.h"

namespace realtime::ingest {

// What the checks of an update depend on, beside the rules that are the same everywhere.
struct IngestLimits {
    size_t entity_bytes = 16 * 1024;
    size_t entity_properties = 64;
    std::vector<std::string> default_access;  // of what names no `access`; principals
};

// The rules of `realtime/updates.py` and `realtime/values.py` that are numbers.
constexpr size_t ID_BYTES_MAX = 128;
constexpr uint64_t VERSION_MAX = (uint64_t{1} << 53) - (uint64_t{1} << 32);
constexpr size_t ACCESS_PRINCIPALS_MAX = 64;
constexpr double MIN_ZOOM_MAX = 64.0;
constexpr double MIN_ZOOM_DEFAULT = -64.0;
constexpr double RANK_DEFAULT = 0.5;
constexpr double TTL_MAX_S = 10 * 366 * 86400.0;

// What is not worth the quick way.
constexpr size_t NAMED_MAX = 256;  // properties that one update names, those that it removes among them
constexpr int NESTING_MAX = 16;    // of arrays and objects in a value; the rule allows twice as many

constexpr uint64_t EXACT_DIGITS = 1'000'000'000'000'000;  // 10^15: fewer digits come back from a double as they were
constexpr double SMALLEST_PLAIN = 1e-5;                   // below it canonical JSON has an exponent
constexpr size_t NUMBER_BYTES_MAX = 32;  // what either writes at most

// Write the canonical JSON of a number; return its length, or 0 where it is left to others: exponents, minus zero.
size_t write_double(double value, char* out);
size_t write_integer(int64_t value, char* out);

// Whether the text may stand as an id or a kind: 1 to 128 bytes without control characters. It must be UTF-8.
bool is_id(std::string_view text);

// Whether the text is a principal: `public`, `user:ID` or `group:NAME`. It must be UTF-8.
bool is_principal(std::string_view text);

// The length of the UTF-8 sequence at `p`, whose first byte is not ASCII; 0 if it is none.
size_t utf8_sequence(const char* p, const char* end);

// Whether the text is UTF-8: Unicode scalar values in their shortest form.
bool is_utf8(std::string_view text);

// Whether the text stands in JSON as it is, without escapes.
bool is_plain(std::string_view text);

// The members of an update that mean something.
enum class Member : uint8_t { OP, TYPE, ID, VERSION, GEOMETRY, PROPERTIES, KIND, MIN_ZOOM, RANK, ACCESS, TTL, LON, LAT, OTHER };

Member member_named(std::string_view name);

// Whether the name is that of an operation; a Feature is an upsert without naming it.
bool parse_op(std::string_view name, Op* op);

// What one update needs beside the bytes that it was read from. What was taken stays in place until `clear`.
class Scratch {
   public:
    explicit Scratch(const IngestLimits& limits);
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    void clear();

    // Bytes: room for so many more, or nullptr where an update would need more than it may have.
    char* room(size_t bytes) { return bytes <= bytes_max_ - used_ ? bytes_.get() + used_ : nullptr; }
    void take(size_t bytes) { used_ += bytes; }
    void rewind(const char* start) { used_ = static_cast<size_t>(start - bytes_.get()); }
    bool append(std::string_view text);
    // Append a text as a JSON string.
    bool quote(std::string_view text);
    // What was appended since `room(0)` was `start`.
    std::string_view since(const char* start) const { return {start, static_cast<size_t>(bytes_.get() + used_ - start)}; }

    // Note a property; an empty `json` is null. False: named twice, or beyond a limit.
    // The name must be one that JSON writes without escapes.
    bool add(std::string_view name, std::string_view json);
    // Note a property of an update that was checked elsewhere.
    void put(std::string_view name, std::string_view json) { properties_.push_back({name, json}); }
    void put_principal(std::string_view principal) { principals_.push_back(principal); }
    size_t principal_count() const { return principals_.size(); }

    // Give the update the properties that were noted. An upsert has none that are null.
    void name_properties(Update& update);
    // Give it the principals that were noted, as the engine wants them; or the default ones.
    void name_access(Update& update);
    void name_default_access(Update& update);
    // Put a Point where the update has its geometry; false: it is not on this globe. `text` is that of types.h.
    static bool name_point(Update& update, double lon, double lat, std::string_view text, bool is_point);
    // Make an upsert of what was named: all else takes its default.
    void complete(Update& update);
    // Leave of what was named only operation, id and version.
    static void strip(Update& update);

   private:
    bool is_named(std::string_view name) const;

    size_t entity_bytes_, entity_properties_;
    std::vector<std::string> default_access_texts_;
    std::vector<std::string_view> default_access_;
    size_t bytes_max_;
    std::unique_ptr<char[]> bytes_;
    size_t used_ = 0;
    std::vector<NamedProperty> properties_;
    std::vector<std::string_view> principals_;
    uint64_t names_ = 0;  // one bit of a hash of each name: a name whose bit is not set is new
    size_t size_ = 0;     // of names and values as JSON
    size_t counted_ = 0;  // those that are not null
    bool has_null_ = false;
};

// Reads updates from JSON texts. What an `Update` points to lives in the text and in here, until the next `parse`.
class UpdateReader {
   public:
    explicit UpdateReader(const IngestLimits& limits) : scratch_(limits) {}

    // Whether `json` is surely one good update; if so, it is in `update`, otherwise nothing there means anything.
    bool parse(std::string_view json, Update& update);

    // For updates that come in another form; likewise one at a time.
    Scratch& scratch() { return scratch_; }

   private:
    Scratch scratch_;
};

}  // namespace realtime::ingest
