// The pump over socket pairs: frames as a client reads them, order, partial sends, who is done by hand, slices.

#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "../pump.h"
#include "check.h"

namespace {

using realtime::Frame;
using realtime::Outlet;
using realtime::Outlets;
using realtime::Pump;

constexpr uint8_t TEXT = 1;

// Has deltas prepared for each session.
struct Script {
    std::map<uint64_t, std::vector<std::string>> deltas;
    std::vector<uint64_t> dirty;
    std::vector<uint64_t> drained;

    void take_dirty(double, std::vector<uint64_t>& taken) {
        taken.insert(taken.end(), dirty.begin(), dirty.end());
        dirty.clear();
    }

    bool drain(uint64_t session, size_t budget, double, std::string& out) {
        CHECK(budget == 64);
        drained.push_back(session);
        auto& waiting = deltas[session];
        if (waiting.empty()) return false;
        out += waiting.front();
        waiting.erase(waiting.begin());
        return true;
    }

    void offer(uint64_t session, std::string delta) {
        deltas[session].push_back(std::move(delta));
        dirty.push_back(session);
    }
};

// Two ends of a stream; the kernel of the near one holds little.
struct Pair {
    int near, far;

    explicit Pair(int send_bytes = 0) {
        int ends[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        near = ends[0];
        far = ends[1];
        if (send_bytes) CHECK(setsockopt(near, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes) == 0);
    }

    ~Pair() {
        ::close(near);
        if (far >= 0) ::close(far);
    }

    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    std::string read_all() const {
        std::string all(1 << 22, '\0');
        size_t size = 0;
        ssize_t came;
        while ((came = recv(far, all.data() + size, all.size() - size, MSG_DONTWAIT)) > 0) size += static_cast<size_t>(came);
        all.resize(size);
        return all;
    }
};

std::string framed(const std::string& payload) {
    Frame frame;
    frame.open() += payload;
    return std::string(frame.seal(TEXT));
}

}  // namespace

TEST(a_frame_has_the_shortest_header_for_its_length) {
    const struct {
        size_t size;
        std::string header;
    } cases[] = {
        {0, std::string("\x81\x00", 2)},
        {125, std::string("\x81\x7d", 2)},
        {126, std::string("\x81\x7e\x00\x7e", 4)},
        {65535, std::string("\x81\x7e\xff\xff", 4)},
        {65536, std::string("\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10)},
        {70000, std::string("\x81\x7f\x00\x00\x00\x00\x00\x01\x11\x70", 10)},
    };
    Frame frame;
    for (const auto& expected : cases) {
        const std::string payload(expected.size, 'x');
        frame.open() += payload;
        CHECK(frame.payload_bytes() == expected.size);
        CHECK(frame.seal(TEXT) == expected.header + payload);
    }
    frame.open() += "a";
    CHECK(frame.seal(2) == "\x82\x01" "a");
}

TEST(outlets_are_found_whatever_came_and_went) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
        Outlets outlets;
        std::map<uint64_t, int> expected;
        uint64_t state = seed;
        for (int step = 0; step < 5000; ++step) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            // Few low bits, so that many want the same place.
            const uint64_t session = 1 + (state >> 60) + (((state >> 33) % 40) << 24);
            if ((state >> 50) % 3 == 0) {
                outlets.erase(session);
                expected.erase(session);
            } else {
                Outlet outlet;
                outlet.session = session;
                outlet.fd = expected[session] = step;
                outlets.put(outlet);
            }
            CHECK(outlets.size() == expected.size());
            const Outlet* found = outlets.find(session);
            CHECK(expected.count(session) ? found && found->fd == expected[session] : !found);
            if (step % 100) continue;
            for (uint64_t low = 1; low <= 16; ++low)
                for (uint64_t high = 0; high < 40; ++high) {
                    const uint64_t each = low + (high << 24);
                    const Outlet* outlet = outlets.find(each);
                    CHECK(expected.count(each) ? outlet && outlet->fd == expected[each] : !outlet);
                }
        }
    }
}

TEST(deltas_reach_their_sockets_in_order) {
    Script engine;
    Pump<Script> pump(engine, 64);
    Pair one, two;
    pump.open(1, one.near, TEXT);
    pump.open(2, two.near, 2);
    pump.set_direct(1, true);
    pump.set_direct(2, true);
    engine.offer(1, "a");
    engine.offer(2, "b");
    engine.offer(1, "c");
    pump.take(0);
    CHECK(pump.waiting() == 3);
    CHECK(!pump.run(0, 60));
    CHECK(pump.waiting() == 0);
    CHECK((engine.drained == std::vector<uint64_t>{1, 2, 1}));
    CHECK(one.read_all() == "\x81\x01" "a" "\x81\x01" "c");
    CHECK(two.read_all() == "\x82\x01" "b");
    CHECK(pump.take_written(1) == 6 && pump.take_written(2) == 3 && pump.take_written(1) == 0 && pump.take_written(9) == 0);
    uint64_t frames, payload_bytes;
    pump.take_counts(frames, payload_bytes);
    CHECK(frames == 3 && payload_bytes == 3);
    pump.take_counts(frames, payload_bytes);
    CHECK(frames == 0 && payload_bytes == 0);
}

TEST(who_is_not_direct_or_unknown_is_left_to_the_hand_undrained) {
    Script engine;
    Pump<Script> pump(engine, 64);
    Pair one, two;
    pump.open(1, one.near, TEXT);
    pump.open(2, two.near, TEXT);
    pump.set_direct(2, true);
    pump.set_direct(7, true);
    for (const uint64_t session : {1, 2, 3}) engine.offer(session, "x");
    pump.take(0);
    CHECK(pump.run(0, 60) && pump.session() == 1 && pump.rest().empty());
    CHECK(pump.run(0, 60) && pump.session() == 3 && pump.rest().empty());
    CHECK(!pump.run(0, 60));
    CHECK((engine.drained == std::vector<uint64_t>{2}));
    CHECK(one.read_all().empty() && two.read_all() == framed("x"));
    pump.close(2);
    pump.push(2);
    CHECK(pump.run(0, 60) && pump.session() == 2 && pump.rest().empty());
}

TEST(nothing_to_say_writes_nothing) {
    Script engine;
    Pump<Script> pump(engine, 64);
    Pair one;
    pump.open(1, one.near, TEXT);
    pump.set_direct(1, true);
    pump.push(1);
    CHECK(!pump.run(0, 60));
    CHECK(engine.drained.size() == 1 && one.read_all().empty() && pump.take_written(1) == 0);
}

TEST(what_a_full_socket_does_not_take_is_handed_back) {
    Script engine;
    Pump<Script> pump(engine, 64);
    Pair one(4096);
    pump.open(1, one.near, TEXT);
    pump.set_direct(1, true);
    std::string expected, left;
    bool has_stopped = false;
    for (size_t i = 0; !has_stopped; ++i) {
        CHECK(i < 10000);
        const std::string delta(1 + i * 37 % 9000, static_cast<char>('a' + i % 26));
        expected += framed(delta);
        engine.offer(1, delta);
        pump.take(0);
        has_stopped = pump.run(0, 60);
        left = pump.rest();
    }
    CHECK(pump.session() == 1 && !left.empty());
    CHECK(pump.take_written(1) == expected.size());
    CHECK(one.read_all() + left == expected);
    // The rest is on its way by other means: from here on nothing goes past it.
    engine.offer(1, "later");
    pump.take(0);
    CHECK(pump.run(0, 60) && pump.session() == 1 && pump.rest().empty());
    CHECK(one.read_all().empty());
    pump.set_direct(1, true);
    pump.push(1);
    CHECK(!pump.run(0, 60));
    CHECK(one.read_all() == framed("later"));
}

TEST(a_broken_socket_hands_the_whole_frame_back) {
    Script engine;
    Pump<Script> pump(engine, 64);
    Pair one;
    ::close(one.far);
    one.far = -1;
    pump.open(1, one.near, TEXT);
    pump.set_direct(1, true);
    engine.offer(1, "x");
    pump.take(0);
    CHECK(pump.run(0, 60) && pump.session() == 1);  // and no SIGPIPE
    CHECK(pump.rest() == framed("x"));
}

TEST(a_slice_ends_and_gets_at_least_one_done) {
    Script engine;
    Pump<Script> pump(engine, 64);
    Pair one;
    pump.open(1, one.near, TEXT);
    pump.set_direct(1, true);
    for (size_t i = 0; i < 3; ++i) engine.offer(1, "x");
    pump.take(0);
    for (size_t left : {2, 1, 0}) {
        CHECK(!pump.run(0, -1));
        CHECK(pump.waiting() == left);
    }
    CHECK(!pump.run(0, -1));
    CHECK(engine.drained.size() == 3);
}

TEST(no_session_has_the_number_0) {
    Script engine;
    Pump<Script> pump(engine, 64);
    pump.open(0, 0, TEXT);
    pump.set_direct(0, true);
    pump.close(0);
    CHECK(pump.take_written(0) == 0);
    Outlets outlets;
    outlets.erase(0);
    CHECK(outlets.size() == 0 && !outlets.find(0));
}
