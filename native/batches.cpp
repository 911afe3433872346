// Batches of states; see states.h.

#include <algorithm>
#include <cstring>

#include "ingest.h"
#include "msgpack.h"
#include "msgpack_cursor.h"
#include "states.h"

namespace realtime {

namespace {

constexpr uint8_t ARRAY32 = 0xDD;

// Reads the head of any msgpack value, and what stands behind it but the members of an array or a map, of which there are
// `members`. False: it is none, or it is cut off.
bool skip_head(MsgpackCursor& cursor, bool& is_container, uint64_t& members) {
    uint8_t head;
    uint64_t count = 0;
    is_container = false;
    if (!cursor.read_byte(head)) {
        return false;
    }
    if (head <= 0x7F || head >= 0xE0) {
        return true;
    }
    if (head <= 0x9F) {
        is_container = true;
        members = static_cast<uint64_t>(head & 0x0F) * (head < 0x90 ? 2 : 1);
        return true;
    }
    if (head <= 0xBF) {
        return cursor.skip(head & 0x1F);
    }
    switch (head) {
        case 0xC0:
        case 0xC2:
        case 0xC3:
            return true;
        case 0xC4:
        case 0xD9:
            return cursor.read_big_endian<uint8_t>(count) && cursor.skip(count);
        case 0xC5:
        case 0xDA:
            return cursor.read_big_endian<uint16_t>(count) && cursor.skip(count);
        case 0xC6:
        case 0xDB:
            return cursor.read_big_endian<uint32_t>(count) && cursor.skip(count);
        case 0xC7:
            return cursor.read_big_endian<uint8_t>(count) && cursor.skip(count + 1);
        case 0xC8:
            return cursor.read_big_endian<uint16_t>(count) && cursor.skip(count + 1);
        case 0xC9:
            return cursor.read_big_endian<uint32_t>(count) && cursor.skip(count + 1);
        case 0xCA:
            return cursor.skip(4);
        case 0xCB:
            return cursor.skip(8);
        case 0xCC:
        case 0xCD:
        case 0xCE:
        case 0xCF:
            return cursor.skip(uint64_t{1} << (head - 0xCC));
        case 0xD0:
        case 0xD1:
        case 0xD2:
        case 0xD3:
            return cursor.skip(uint64_t{1} << (head - 0xD0));
        case 0xD4:
        case 0xD5:
        case 0xD6:
        case 0xD7:
        case 0xD8:
            return cursor.skip((uint64_t{1} << (head - 0xD4)) + 1);
        case 0xDC:
        case 0xDE:
            is_container = true;
            if (!cursor.read_big_endian<uint16_t>(count)) {
                return false;
            }
            break;
        case 0xDD:
        case 0xDF:
            is_container = true;
            if (!cursor.read_big_endian<uint32_t>(count)) {
                return false;
            }
            break;
        default:
            return false;
    }
    members = head < 0xDE ? count : 2 * count;
    return true;
}

// Returns where the msgpack value that begins at `p` ends, or nullptr where it is none, is cut off or nests too deep.
const char* skip_value(const char* p, const char* end) {
    MsgpackCursor cursor(p, end);
    uint64_t left[STATE_NESTING_MAX + 1] = {1};
    size_t depth = 0;
    for (;;) {
        while (left[depth] == 0) {
            if (depth == 0) {
                return cursor.here();
            }
            --depth;
        }
        --left[depth];
        bool is_container;
        uint64_t members;
        if (!skip_head(cursor, is_container, members) || (is_container && depth == STATE_NESTING_MAX)) {
            return nullptr;
        }
        if (is_container) {
            left[++depth] = members;
        }
    }
}

}  // namespace

// Reading

BatchReader::BatchReader(std::string_view batch) : p_(batch.data()), end_(p_ + batch.size()) {
    MsgpackCursor cursor(p_, end_);
    uint8_t head;
    uint64_t count;
    if (cursor.read_byte(head) && head == ARRAY32 && cursor.read_big_endian<uint32_t>(count)) {
        left_ = static_cast<uint32_t>(count);
        p_ = cursor.here();
        is_whole_ = true;
    }
}

// There is nothing more.
bool BatchReader::end() {
    is_whole_ = is_whole_ && left_ == 0 && p_ == end_;
    left_ = 0;
    return false;
}

BatchReader::Found BatchReader::next(State& state) {
    const char* const behind = left_ ? read_state(p_, end_, state) : nullptr;
    if (behind != nullptr) {
        --left_;
        p_ = behind;
        return Found::STATE;
    }
    std::string_view part;
    return next(part) ? Found::BAD : Found::NOTHING;
}

bool BatchReader::next(std::string_view& part) {
    const char* const behind = left_ ? skip_value(p_, end_) : nullptr;
    if (behind == nullptr) {
        return end();
    }
    part = std::string_view(p_, static_cast<size_t>(behind - p_));
    --left_;
    p_ = behind;
    return true;
}

// Writing

char* Batch::room(size_t bytes) {
    if (capacity_ - used_ < bytes || !bytes_) {
        const size_t larger = std::max(used_ + bytes, capacity_ * 2);
        std::unique_ptr<char[]> moved(new char[larger]);
        if (bytes_) {
            std::memcpy(moved.get() + HEAD_BYTES, bytes_.get() + HEAD_BYTES, used_ - HEAD_BYTES);
        }
        bytes_ = std::move(moved);
        capacity_ = larger;
    }
    return bytes_.get() + used_;
}

size_t Batch::take(const char* end) {
    const size_t before = used_;
    used_ = static_cast<size_t>(end - bytes_.get());
    ++count_;
    return used_ - before;
}

std::string_view Batch::bytes() {
    if (count_ == 0) {
        return {};
    }
    msgpack::write_big_endian(bytes_.get(), ARRAY32, count_);
    return {bytes_.get(), used_};
}

void Batch::clear() {
    used_ = HEAD_BYTES;
    count_ = 0;
    if (capacity_ > KEPT_BYTES_MAX) {
        bytes_.reset();
        capacity_ = 0;
    }
}

// Cutting

bool split_states(std::string_view batch, std::vector<std::pair<std::string_view, std::string_view>>& states) {
    BatchReader reader(batch);
    std::string_view part;
    while (reader.next(part)) {
        // Of the id the text alone is known to be one; its head may be longer than it needs to be.
        const uint8_t head = static_cast<uint8_t>(part[0]);
        const char* const end = part.data() + part.size();
        const char* const behind = head > 0x90 && head <= 0x9F ? skip_value(part.data() + 1, end) : nullptr;
        if (behind == nullptr) {
            return false;
        }
        MsgpackCursor cursor(part.data() + 1, behind);
        uint8_t kind = 0;
        uint64_t bytes = 0;
        cursor.read_byte(kind);
        const bool is_text = (kind & 0xE0) == 0xA0 || (kind == 0xD9 && cursor.read_big_endian<uint8_t>(bytes)) ||
                             (kind == 0xDA && cursor.read_big_endian<uint16_t>(bytes)) ||
                             (kind == 0xDB && cursor.read_big_endian<uint32_t>(bytes));
        const std::string_view id(cursor.here(), static_cast<size_t>(behind - cursor.here()));
        if (!is_text || !ingest::is_id(id) || !ingest::is_utf8(id)) {
            return false;
        }
        states.emplace_back(id, part);
    }
    return reader.is_whole();
}

}  // namespace realtime
