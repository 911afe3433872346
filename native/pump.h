// From the engine to the sockets: the deltas of the sessions that are due, each written with one send() of its own.
//
// Law: the pump writes to a socket only while nothing else of its connection waits to be written, so that the bytes of a
// connection keep their order; its owner says so (`set_direct`) and takes it back. Whatever else there is about a session
// (its socket took a part, it has no socket here, something waits before its delta) is handed back to be done by hand.
// What is counted as written was handed to the kernel, or handed back as a rest. Nothing here blocks.

#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace realtime {

// A WebSocket frame of a server, in a buffer that is used again: the payload is appended behind room for the longest
// header, and the header is written in front of it once its length is known.
class Frame {
public:
    static constexpr size_t HEADER_BYTES_MAX = 10;

    // Where to append the payload.
    std::string& open() {
        bytes_.resize(HEADER_BYTES_MAX);
        return bytes_;
    }

    size_t payload_bytes() const { return bytes_.size() - HEADER_BYTES_MAX; }

    // The whole frame; it lies here until `open`.
    std::string_view seal(uint8_t opcode) {
        const size_t size = payload_bytes();
        auto* header = reinterpret_cast<uint8_t*>(bytes_.data());
        size_t begin;
        if (size < 126) {
            begin = 8;
            header[9] = static_cast<uint8_t>(size);
        } else if (size < 1u << 16) {
            begin = 6;
            header[7] = 126;
            put(header + 8, size, 2);
        } else {
            begin = 0;
            header[1] = 127;
            put(header + 2, size, 8);
        }
        header[begin] = FINAL | opcode;
        return std::string_view(bytes_).substr(begin);
    }

private:
    static constexpr uint8_t FINAL = 0x80;

    static void put(uint8_t* at, uint64_t value, size_t bytes) {
        for (size_t i = 0; i < bytes; ++i) at[i] = static_cast<uint8_t>(value >> (8 * (bytes - 1 - i)));
    }

    std::string bytes_ = std::string(HEADER_BYTES_MAX, '\0');
};

// How many bytes a socket took at once: all, some, or none, be it for want of room or because it is broken. Whoever
// writes the rest by other means meets the same error there.
inline size_t send_now(int fd, std::string_view bytes) {
    ssize_t sent;
    do sent = ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? 0 : static_cast<size_t>(sent);
}

// Where the deltas of a session go.
struct Outlet {
    uint64_t session = 0;  // 0: none
    uint64_t written_bytes = 0;
    int fd = -1;
    uint8_t opcode = 0;
    bool is_direct = false;  // nothing else of its connection waits to be written
};

// Outlets by session: open addressing with linear probing. The low bits of the numbers, which an engine gives out densely,
// are the place, so that a look is one cache line, and known early enough to be fetched ahead.
class Outlets {
public:
    Outlet* find(uint64_t session) {
        for (size_t at = home(session);; at = next(at)) {
            if (places_[at].session == 0) return nullptr;
            if (places_[at].session == session) return &places_[at];
        }
    }

    void fetch(uint64_t session) const { __builtin_prefetch(&places_[home(session)]); }

    // Replaces what is there; `outlet.session` is not 0.
    void put(const Outlet& outlet) {
        if (Outlet* found = find(outlet.session)) {
            *found = outlet;
            return;
        }
        if (4 * (count_ + 1) > 3 * places_.size()) grow();
        ++count_;
        place(outlet);
    }

    void erase(uint64_t session) {
        const Outlet* found = find(session);
        if (!found) return;
        --count_;
        // Whoever was driven off by it moves up, so that no search ends too early.
        size_t hole = static_cast<size_t>(found - places_.data());
        for (size_t at = next(hole); places_[at].session != 0; at = next(at)) {
            const size_t way = (at - home(places_[at].session)) & (places_.size() - 1);
            if (way >= ((at - hole) & (places_.size() - 1))) {
                places_[hole] = places_[at];
                hole = at;
            }
        }
        places_[hole] = Outlet{};
    }

    size_t size() const { return count_; }

private:
    size_t home(uint64_t session) const { return session & (places_.size() - 1); }
    size_t next(size_t at) const { return (at + 1) & (places_.size() - 1); }

    void place(const Outlet& outlet) {
        size_t at = home(outlet.session);
        while (places_[at].session != 0) at = next(at);
        places_[at] = outlet;
    }

    void grow() {
        std::vector<Outlet> old(2 * places_.size());
        old.swap(places_);
        for (const Outlet& outlet : old)
            if (outlet.session != 0) place(outlet);
    }

    std::vector<Outlet> places_ = std::vector<Outlet>(16);  // a power of two, never full
    size_t count_ = 0;
};

// `Engine` has `void take_dirty(double now, std::vector<uint64_t>& taken)`, which appends the numbers of the sessions that
// are due, and `bool drain(uint64_t session, size_t budget, double now, std::string& out)`, which appends the next delta
// and returns false where there is nothing to say. No session has the number 0.
template <class Engine>
class Pump {
public:
    Pump(Engine& engine, size_t budget) : engine_(engine), budget_(budget) {}

    // The sockets

    // Let the session's deltas go to `fd` in frames of this opcode, once they may (`set_direct`).
    void open(uint64_t session, int fd, uint8_t opcode) {
        Outlet outlet;
        outlet.session = session;
        outlet.fd = fd;
        outlet.opcode = opcode;
        if (session != 0) outlets_.put(outlet);
    }

    // Forget the socket; must be called before it is closed, as the number may then be another's.
    void close(uint64_t session) { outlets_.erase(session); }

    // Say whether nothing else of the connection waits to be written.
    void set_direct(uint64_t session, bool is_direct) {
        if (Outlet* outlet = outlets_.find(session)) outlet->is_direct = is_direct;
    }

    // How many bytes were written for the session since this was asked before.
    uint64_t take_written(uint64_t session) {
        Outlet* outlet = outlets_.find(session);
        return outlet ? std::exchange(outlet->written_bytes, 0) : 0;
    }

    size_t sockets() const { return outlets_.size(); }

    // The sessions that wait to be drained

    void take(double now) {
        if (head_ == queue_.size()) {
            queue_.clear();
            head_ = 0;
        }
        engine_.take_dirty(now, queue_);
    }

    void push(uint64_t session) { queue_.push_back(session); }

    size_t waiting() const { return queue_.size() - head_; }

    // Drain in order for so long, and one at least. Returns false when none is left or the time is over; true: `session` must
    // be served by hand: drained, or its `rest` written where there is one. Call again to go on.
    bool run(double now, double seconds) {
        const auto stop = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
        rest_ = {};
        size_t unseen_bytes = LOOK_BYTES;
        while (head_ < queue_.size()) {
            session_ = queue_[head_++];
            if (head_ < queue_.size()) outlets_.fetch(queue_[head_]);
            Outlet* outlet = outlets_.find(session_);
            if (!outlet || !outlet->is_direct) return true;
            if (!write(*outlet, now)) return true;
            unseen_bytes += FRAME_COST_BYTES + frame_.payload_bytes();
            if (unseen_bytes < LOOK_BYTES) continue;
            unseen_bytes = 0;
            if (Clock::now() >= stop) break;
        }
        return false;
    }

    // The session that was served last, also where the engine threw.
    uint64_t session() const { return session_; }

    // What its socket did not take of its delta; empty: it was not drained.
    std::string_view rest() const { return rest_; }

    // How many frames, and how many bytes of payload, were written since this was asked before.
    void take_counts(uint64_t& frames, uint64_t& payload_bytes) {
        frames = frames_;
        payload_bytes = payload_bytes_;
        frames_ = payload_bytes_ = 0;
    }

private:
    using Clock = std::chrono::steady_clock;

    // A look at the clock costs a hundredth of a small frame: there is one after the first, and then after as many bytes
    // as take some 20 microseconds to make and send, where a frame counts as its payload and what sending it costs.
    static constexpr size_t LOOK_BYTES = 4096;
    static constexpr size_t FRAME_COST_BYTES = 800;

    // Drain a session; false: `rest_` is to be written by hand.
    bool write(Outlet& outlet, double now) {
        if (!engine_.drain(session_, budget_, now, frame_.open())) return true;
        const std::string_view bytes = frame_.seal(outlet.opcode);
        outlet.written_bytes += bytes.size();
        ++frames_;
        payload_bytes_ += frame_.payload_bytes();
        const size_t sent = send_now(outlet.fd, bytes);
        if (sent == bytes.size()) return true;
        rest_ = bytes.substr(sent);
        outlet.is_direct = false;
        return false;
    }

    Engine& engine_;
    const size_t budget_;
    Outlets outlets_;
    std::vector<uint64_t> queue_;  // from head_ on they wait
    size_t head_ = 0;
    Frame frame_;
    std::string_view rest_;
    uint64_t session_ = 0;
    uint64_t frames_ = 0;
    uint64_t payload_bytes_ = 0;
};

}  // namespace realtime
