// States: what one node tells another of an entity, and the batches that they travel in, as bytes.
//
// Law: the bytes are those of realtime/engine/states.py, which is their description: a state is read exactly if it is
// taken there, but for its geometry and its properties, which whoever knows the entity looks at. A batch comes from a
// network or a disk: nothing outside of it is read, and what can be found in it is found, however broken the rest is.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "types.h"

namespace realtime {

constexpr size_t PRINCIPALS_MAX = 1000;  // of one entity
constexpr size_t PRINCIPAL_BYTES_MAX = 256;
constexpr size_t STATE_NESTING_MAX = 8;  // of arrays and maps in what may be a state; a real one nests two deep

// A state; what it names lies in the batch.
struct State {
    enum class Form : uint8_t { ALIVE, DEAD, UNKNOWN };

    Form form = Form::UNKNOWN;
    bool by_publisher = false;
    bool is_expired = false;  // of the dead: it was not deleted
    uint32_t access_count = 0;
    std::string_view id;
    uint64_t id_hash = 0;  // IdTable::hash_of
    uint64_t seen = 0, wire = 0;
    double ttl = 0.0, deadline = 0.0;  // 0: none
    double died = 0.0;
    double min_zoom = 0.0, rank = 0.0;
    std::string_view kind;
    std::string_view access;  // principals, each as msgpack, in the order of their bytes
    std::string_view geometry, properties;  // JSON, as it came
};

// Returns where the state that begins at `p` ends, or nullptr if it is none.
const char* read_state(const char* p, const char* end, State& state);

// Gives the principals of a state.
void name_access(const State& state, std::vector<std::string_view>& out);

// Reads properties that came as JSON. What they name lies in there and in here.
class PropertiesReader {
   public:
    // False: `json` is no object of at most so many properties in canonical JSON, none of which is null.
    bool read(std::string_view json, size_t count_max);
    const std::vector<NamedProperty>& properties() const { return properties_; }

   private:
    bool is_named(std::string_view name, uint64_t bit) const;

    std::vector<NamedProperty> properties_;
    std::string unescaped_;  // names that had escapes
    uint64_t names_ = 0;     // a bit of each name: one whose bit is not set is new
};

// Finds states in a batch, one after the other.
class BatchReader {
   public:
    enum class Found : uint8_t { STATE, BAD, NOTHING };

    explicit BatchReader(std::string_view batch);
    // A state; something that is none; or that there is nothing more that could be found.
    Found next(State& state);
    // Something that may be a state: its bytes. False: there is nothing more.
    bool next(std::string_view& part);
    // Whether all of the batch was found, once there is nothing more.
    bool is_whole() const { return is_whole_; }

   private:
    bool end();

    const char* p_;
    const char* const end_;
    uint32_t left_ = 0;  // states still to come
    bool is_whole_ = false;
};

// A batch that is being written.
class Batch {
   public:
    static constexpr size_t HEAD_BYTES = 5;

    // Room for so many bytes; `take` says where they end, and that they were a state.
    char* room(size_t bytes);
    size_t take(const char* end);
    // The whole batch; nothing if there is no state in it.
    std::string_view bytes();
    void clear();

   private:
    static constexpr size_t KEPT_BYTES_MAX = 1 << 20;

    std::unique_ptr<char[]> bytes_;
    size_t capacity_ = 0;
    size_t used_ = HEAD_BYTES;
    uint32_t count_ = 0;
};

// Pieces of a state; each writes behind `out` and returns the end.
namespace states {

constexpr size_t FIXED_BYTES_MAX = 128;  // what a state takes beside id, kind, access, geometry and properties, at most

char* put_head(char* out, size_t members, std::string_view id);
char* put_bool(char* out, bool value);
char* put_bytes_head(char* out, size_t bytes);
char* put_text(char* out, std::string_view text);

}  // namespace states

// The states of a batch with their ids, of which alone they are known to be states; false: the batch is broken.
bool split_states(std::string_view batch, std::vector<std::pair<std::string_view, std::string_view>>& states);

}  // namespace realtime
