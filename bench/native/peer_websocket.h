// As much of RFC 6455 as a client needs that wants what is in the frames and nothing else.
//
// Law: works in place and on any cut of the stream; payload bytes are moved at most once. What a server sends beside data
// frames is skipped, but for a close.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

namespace websocket {

inline std::string upgrade(const std::string& path, int port) {
    return "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
           "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
}

// One frame as a client sends it. It is masked with zeros: right on the wire, and nobody here needs protection from us.
inline std::string frame(const std::string& payload, bool is_text) {
    std::string made(1, static_cast<char>(is_text ? 0x81 : 0x82));
    const size_t size = payload.size();
    if (size < 126) {
        made += static_cast<char>(0x80 | size);
    } else {
        made += static_cast<char>(0x80 | (size < 65536 ? 126 : 127));
        for (int shift = size < 65536 ? 8 : 56; shift >= 0; shift -= 8) made += static_cast<char>(size >> shift);
    }
    return made.append(4, '\0') + payload;
}

// Takes the frames off a stream of bytes. With `lines`, each message is closed by a newline.
class Unframer {
  public:
    bool is_closed = false;

    // Reads [from, from + size), writes payload to `to`, which may be the same place; returns how much. With `lines` it must
    // be at least a byte further down: the head of a frame, whose room the newline takes, may have come the last time.
    size_t take(char* from, size_t size, char* to, bool lines) {
        char *const begin = to, *const end = from + size;
        while (from < end) {
            if (left_ == 0 && !is_in_payload_) {
                from = take_head(from, end);
                if (!is_in_payload_) break;
            }
            const size_t now = static_cast<size_t>(std::min<uint64_t>(left_, static_cast<uint64_t>(end - from)));
            if (opcode_ < 8) {
                std::memmove(to, from, now);
                to += now;
            }
            from += now;
            left_ -= now;
            if (left_ == 0) {
                is_in_payload_ = false;
                is_closed |= opcode_ == 8;
                if (lines && is_last_ && opcode_ < 8) *to++ = '\n';
            }
        }
        return static_cast<size_t>(to - begin);
    }

  private:
    uint8_t head_[10] = {};
    size_t head_size_ = 0;
    uint64_t left_ = 0; // of the payload
    uint8_t opcode_ = 0;
    bool is_last_ = false, is_in_payload_ = false;

    char* take_head(char* from, char* end) {
        while (from < end) {
            head_[head_size_++] = static_cast<uint8_t>(*from++);
            const uint8_t length = head_[1] & 0x7F;
            const size_t needed = head_size_ < 2 || length < 126 ? 2 : length == 126 ? 4 : 10;
            if (head_size_ < needed) continue;
            left_ = needed == 2 ? length : 0;
            for (size_t place = 2; place < needed; ++place) left_ = left_ << 8 | head_[place];
            opcode_ = head_[0] & 0x0F;
            is_last_ = head_[0] & 0x80;
            is_in_payload_ = true;
            head_size_ = 0;
            break;
        }
        return from;
    }
};

} // namespace websocket
