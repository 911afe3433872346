// Reads MessagePack, in its shortest form alone.
//
// Law: each method reads one thing and leaves the cursor behind it; false: it is something else, is not in its shortest form
// or is cut off, and nothing more can be read. Nothing beyond the end is looked at.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace realtime {

class MsgpackCursor {
   public:
    MsgpackCursor(const char* p, const char* end) : p_(p), end_(end) {}

    const char* here() const { return p_; }

    bool read_byte(uint8_t& out) {
        if (p_ == end_) {
            return false;
        }
        out = static_cast<uint8_t>(*p_++);
        return true;
    }

    template <class Unsigned>
    bool read_big_endian(uint64_t& out) {
        if (static_cast<size_t>(end_ - p_) < sizeof(Unsigned)) {
            return false;
        }
        out = 0;
        for (size_t n = 0; n < sizeof(Unsigned); ++n) {
            out = out << 8 | static_cast<uint8_t>(p_[n]);
        }
        p_ += sizeof(Unsigned);
        return true;
    }

    bool read_uint(uint64_t& out) {
        uint8_t head;
        if (!read_byte(head)) {
            return false;
        }
        switch (head) {
            case 0xCC:
                return read_big_endian<uint8_t>(out) && out > 0x7F;
            case 0xCD:
                return read_big_endian<uint16_t>(out) && out > 0xFF;
            case 0xCE:
                return read_big_endian<uint32_t>(out) && out > 0xFFFF;
            case 0xCF:
                return read_big_endian<uint64_t>(out) && out > 0xFFFFFFFF;
            default:
                out = head;
                return head <= 0x7F;
        }
    }

    bool read_double(double& out) {
        uint8_t head;
        uint64_t bits;
        if (!read_byte(head) || head != 0xCB || !read_big_endian<uint64_t>(bits)) {
            return false;
        }
        std::memcpy(&out, &bits, sizeof out);
        return std::isfinite(out);
    }

    bool read_bool(bool& out) {
        uint8_t head;
        const bool is_read = read_byte(head);
        out = is_read && head == 0xC3;
        return is_read && (head == 0xC2 || head == 0xC3);
    }

    bool read_text(std::string_view& out) {
        uint8_t head;
        uint64_t bytes = 0;
        if (!read_byte(head)) {
            return false;
        }
        if (head >= 0xA0 && head <= 0xBF) {
            return read_raw(head & 0x1F, out);
        }
        switch (head) {
            case 0xD9:
                return read_big_endian<uint8_t>(bytes) && bytes > 31 && read_raw(bytes, out);
            case 0xDA:
                return read_big_endian<uint16_t>(bytes) && bytes > 0xFF && read_raw(bytes, out);
            default:
                return false;  // nothing in a state may be longer
        }
    }

    bool read_bytes(std::string_view& out) {
        uint8_t head;
        uint64_t bytes = 0;
        if (!read_byte(head)) {
            return false;
        }
        switch (head) {
            case 0xC4:
                return read_big_endian<uint8_t>(bytes) && read_raw(bytes, out);
            case 0xC5:
                return read_big_endian<uint16_t>(bytes) && bytes > 0xFF && read_raw(bytes, out);
            case 0xC6:
                return read_big_endian<uint32_t>(bytes) && bytes > 0xFFFF && read_raw(bytes, out);
            default:
                return false;
        }
    }

    bool read_array_head(uint64_t& count) {
        uint8_t head;
        if (!read_byte(head)) {
            return false;
        }
        count = head & 0x0F;
        return (head & 0xF0) == 0x90 || (head == 0xDC && read_big_endian<uint16_t>(count) && count > 15);
    }

    bool skip(uint64_t bytes) {
        if (static_cast<uint64_t>(end_ - p_) < bytes) {
            return false;
        }
        p_ += bytes;
        return true;
    }

   private:
    bool read_raw(uint64_t bytes, std::string_view& out) {
        out = std::string_view(p_, static_cast<size_t>(bytes));
        return skip(bytes);
    }

    const char* p_;
    const char* const end_;
};

}  // namespace realtime
