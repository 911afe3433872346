// One WebSocket over a socket that never blocks: upgrade, frames cut from what was received, small messages sent.
//
// Law: what is received is read in place. Only the part of a frame whose rest has not come yet is copied, once, into room
// for the whole of it, and the rest is received straight behind. It knows as much of RFC 6455 as a client of this server
// needs: no extensions, no fragments; both are faults.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "group.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

namespace bench {

constexpr size_t RECEIVE_BYTES = 256 * 1024;
constexpr size_t PAD_BYTES = 64;               // behind what is read, for those who read by words
constexpr size_t FRAME_BYTES_MAX = 4u << 20;   // a longer one is a fault
constexpr size_t HEAD_BYTES_MAX = 8192;
constexpr int TEXT_FRAME = 1, BINARY_FRAME = 2, CLOSE_FRAME = 8, PING_FRAME = 9, PONG_FRAME = 10;

// Of RFC 6455, section 1.3: one key will do, as nobody else listens.
constexpr const char* KEY = "dGhlIHNhbXBsZSBub25jZQ==";
constexpr std::string_view ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

enum class Phase : uint8_t { CONNECTING, UPGRADING, OPEN, CLOSED };

class Connection {
public:
    // Opens a socket and begins to connect, from 127.0.0.`from`: so the ports of one address are not the bound.
    // Returns an errno, 0 if all is well.
    int start(const sockaddr_in& to, uint32_t from, int receive_buffer_bytes) {
        fd_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd_ < 0) {
            return errno;
        }
        int on = 1;
        setsockopt(fd_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (receive_buffer_bytes > 0) {
            setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
        }
        sockaddr_in own{};
        own.sin_family = AF_INET;
        own.sin_addr.s_addr = htonl((127u << 24) + from);
        bool is_loopback = ntohl(to.sin_addr.s_addr) >> 24 == 127;
        if (is_loopback && bind(fd_, reinterpret_cast<sockaddr*>(&own), sizeof own) != 0) {
            return errno;
        }
        if (connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
            return errno;
        }
        return 0;
    }

    void ask_upgrade(const std::string& host, bool is_text) {
        phase_ = Phase::UPGRADING;
        write("GET /ws HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
              "Sec-WebSocket-Key: " + KEY + "\r\nSec-WebSocket-Protocol: realtime.v1." + (is_text ? "json" : "msgpack") + "\r\n\r\n");
    }

    int fd() const { return fd_; }
    Phase phase() const { return phase_; }
    bool is_open() const { return phase_ == Phase::OPEN; }
    bool has_unsent() const { return !unsent_.empty(); }

    // Receives once, at most `limit` bytes, and hands each whole frame to `on_frame(first_byte, begin, end, header_bytes)`;
    // the frames of one call came in one piece. Returns what recv did: 0 at the end of the stream, -1 where nothing is there.
    template <class OnFrame>
    ssize_t receive(char* shared, size_t limit, Group& group, OnFrame on_frame) {
        size_t wanted = rest_whole_ > rest_size_ ? rest_whole_ - rest_size_ : 0;
        size_t kept = 0;
        if (wanted == 0 && rest_size_ != 0) {  // not even its header is whole: go on behind it
            kept = rest_size_;
            std::memcpy(shared, rest_.get(), kept);
        }
        iovec parts[2] = {{wanted != 0 ? rest_.get() + rest_size_ : nullptr, std::min(wanted, limit)},
                          {shared + kept, std::min(RECEIVE_BYTES - kept, limit - std::min(wanted, limit))}};
        ssize_t got = readv(fd_, parts, 2);
        if (got <= 0) {
            return got;
        }
        auto size = static_cast<size_t>(got);
        if (wanted != 0) {
            rest_size_ += std::min(size, wanted);
            if (size < wanted) {
                return got;
            }
            size -= wanted;
            std::unique_ptr<char[]> whole = std::move(rest_);
            size_t whole_size = rest_size_;
            drop_rest();
            cut(whole.get(), whole.get() + whole_size, group, on_frame);
        } else {
            size += kept;
            drop_rest();
        }
        if (phase_ != Phase::CLOSED && size != 0) {
            const char* left = cut(shared, shared + size, group, on_frame);
            keep(left, shared + size);
        }
        return got;
    }

    void send(int opcode, std::string_view payload) {
        std::string frame(1, static_cast<char>(0x80 | opcode));
        if (payload.size() < 126) {
            frame += static_cast<char>(0x80 | payload.size());
        } else {
            bool is_short = payload.size() < 1u << 16;
            frame += static_cast<char>(0x80 | (is_short ? 126 : 127));
            for (int shift = is_short ? 8 : 56; shift >= 0; shift -= 8) {
                frame += static_cast<char>(static_cast<uint64_t>(payload.size()) >> shift);
            }
        }
        frame.append(4, '\0');  // masked with zeros: right on the wire, and nobody here needs protection from ourselves
        frame += payload;
        write(frame);
    }

    // Sends what waits; what the socket does not take goes on waiting.
    void send_waiting() {
        while (!unsent_.empty()) {
            ssize_t sent = ::send(fd_, unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
            if (sent <= 0) {
                return;  // a broken socket is seen by whoever reads it
            }
            unsent_.erase(0, static_cast<size_t>(sent));
        }
    }

    void close() {
        if (fd_ >= 0) {
            ::close(fd_);
        }
        fd_ = -1;
        phase_ = Phase::CLOSED;
        drop_rest();
        unsent_.clear();
    }

private:
    void write(std::string_view data) {
        if (phase_ != Phase::CLOSED) {
            unsent_ += data;
            send_waiting();
        }
    }

    void drop_rest() {
        rest_.reset();
        rest_size_ = rest_whole_ = 0;
    }

    void keep(const char* begin, const char* end) {
        rest_size_ = static_cast<size_t>(end - begin);
        if (rest_size_ == 0 || phase_ == Phase::CLOSED) {
            drop_rest();
            return;
        }
        rest_whole_ = whole_size(begin, end);
        rest_.reset(new char[std::max(rest_size_, rest_whole_) + PAD_BYTES]);
        std::memcpy(rest_.get(), begin, rest_size_);
    }

    // The size of the frame that begins here, 0 while its header is not whole.
    size_t whole_size(const char* begin, const char* end) const {
        auto known = static_cast<size_t>(end - begin);
        if (phase_ != Phase::OPEN || known < 2) {
            return 0;
        }
        size_t length = static_cast<unsigned char>(begin[1]) & 0x7F, header = length < 126 ? 2 : length == 126 ? 4 : 10;
        if (known < header) {
            return 0;
        }
        if (header > 2) {
            length = 0;
            for (size_t i = 2; i < header; i++) {
                length = length << 8 | static_cast<unsigned char>(begin[i]);
            }
        }
        return header + length;
    }

    // Returns where the first frame begins that is not whole.
    template <class OnFrame>
    const char* cut(const char* at, const char* end, Group& group, OnFrame on_frame) {
        if (phase_ == Phase::UPGRADING) {
            at = take_head(at, end, group, on_frame);
        }
        while (phase_ == Phase::OPEN) {
            size_t whole = whole_size(at, end);
            if (whole > FRAME_BYTES_MAX) {
                group.fault("frame: too long");
                phase_ = Phase::CLOSED;
            }
            if (whole == 0 || whole > static_cast<size_t>(end - at)) {
                break;
            }
            auto first = static_cast<unsigned char>(at[0]), second = static_cast<unsigned char>(at[1]);
            size_t header = (second & 0x7F) < 126 ? 2 : (second & 0x7F) == 126 ? 4 : 10;
            if ((first & 0xF0) != 0x80 || (second & 0x80) != 0) {
                group.fault("frame: a fragment, an extension or masked", {at, std::min<size_t>(whole, 16)});
            }
            on_frame(first & 15, at + header, at + whole, header);
            at += whole;
        }
        return at;
    }

    template <class OnFrame>
    const char* take_head(const char* begin, const char* end, Group& group, OnFrame on_frame) {
        std::string_view head(begin, static_cast<size_t>(end - begin));
        size_t stop = head.find("\r\n\r\n");
        if (stop == std::string_view::npos) {
            if (head.size() > HEAD_BYTES_MAX) {
                group.fault("upgrade: the head does not end");
                phase_ = Phase::CLOSED;
            }
            return begin;
        }
        head = head.substr(0, stop);
        if (head.substr(0, 13) != "HTTP/1.1 101 " || head.find(ACCEPT) == std::string_view::npos) {
            group.fault("upgrade: refused", head);
            phase_ = Phase::CLOSED;
        } else {
            phase_ = Phase::OPEN;
            on_frame(0, begin, begin, 0);
        }
        return begin + stop + 4;
    }

    int fd_ = -1;
    Phase phase_ = Phase::CONNECTING;
    std::unique_ptr<char[]> rest_;  // of a frame that is not whole, with room for all of it if its size is known
    size_t rest_size_ = 0;
    size_t rest_whole_ = 0;  // 0: not known
    std::string unsent_;
};

}  // namespace bench
