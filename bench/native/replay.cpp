// A server that knows nothing: it tells every viewer the same prepared deltas, as fast as the sockets take them.
//
//     replay json|msgpack CONNECTIONS ENTITIES MOVES_PER_FRAME FRAMES
//
// What it finds out is how fast the load client is. Law: all frames are made before the first is sent, and sending is all
// that is done then. It prints its port, and when the last byte is sent {"seconds", "frames", "bytes", "moves"}.

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "pack.h"

namespace {

using bench::Json;

struct Peer {
    int fd = -1;
    std::string head;
    bool is_upgraded = false;
    size_t frame = 0, offset = 0;  // of what is sent next
};

double now_s() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::string framed(const Json& message, bool is_text) {
    std::string payload, frame(1, static_cast<char>(is_text ? 0x81 : 0x82));
    if (is_text) {
        bench::write_json(payload, message);
    } else {
        bench::write_pack(payload, message);
    }
    bool is_short = payload.size() < 1u << 16;
    if (payload.size() < 126) {
        frame += static_cast<char>(payload.size());
    } else {
        frame += static_cast<char>(is_short ? 126 : 127);
        bench::write_big(frame, payload.size(), is_short ? 2 : 8);
    }
    return frame + payload;
}

// The first frame tells of all entities; each other one moves some of them, in a random order that repeats.
std::vector<std::string> make_frames(bool is_text, int entities, int moves_per_frame, int frames) {
    std::mt19937_64 chance(1);
    std::vector<int> order(100000);
    for (int i = 0; i < 100000; i++) {
        order[static_cast<size_t>(i)] = i;
    }
    for (size_t i = order.size() - 1; i > 0; i--) {
        std::swap(order[i], order[chance() % (i + 1)]);
    }
    order.resize(static_cast<size_t>(entities));
    auto coordinate = [&](int64_t from) { return Json(static_cast<double>(from + static_cast<int64_t>(chance() % 200000)) / 1e6); };
    std::vector<std::string> made;
    int64_t version = 0;
    size_t next = 0;
    for (int number = 0; number <= frames; number++) {
        Json delta = Json::object();
        delta.set("type", "delta").set("seq", number + 1).set("view", 1);
        Json list = Json::array();
        int count = number == 0 ? entities : moves_per_frame;
        for (int i = 0; i < count; i++, next = (next + 1) % order.size()) {
            std::string id = "bus-" + std::to_string(order[next]);
            Json place = Json::array();
            place.items = {coordinate(-97800000), coordinate(30200000)};
            if (number == 0) {
                Json geometry = Json::object();
                geometry.set("type", "Point").set("coordinates", std::move(place));
                Json feature = Json::object();
                feature.set("type", "Feature").set("id", id).set("version", ++version).set("kind", "bus");
                feature.set("geometry", std::move(geometry)).set("properties", Json::object().set("speed", 7));
                list.items.push_back(std::move(feature));
            } else {
                Json move = Json::array();
                move.items = {Json(id), Json(++version), place.items[0], place.items[1]};
                list.items.push_back(std::move(move));
            }
        }
        if (number == 0) {
            delta.set("reset", true).set("total", entities).set("sampled", 1);
        }
        made.push_back(framed(delta.set(number == 0 ? "enter" : "move", std::move(list)), is_text));
    }
    return made;
}

// Answers the upgrade, and is done with its head when the view has come.
void take(Peer& peer, bool is_text) {
    char data[4096];
    ssize_t got = recv(peer.fd, data, sizeof data, 0);
    if (got <= 0) {
        return;
    }
    peer.head.append(data, static_cast<size_t>(got));
    size_t end = peer.head.find("\r\n\r\n");
    if (!peer.is_upgraded && end != std::string::npos) {
        peer.is_upgraded = true;
        peer.head.erase(0, end + 4);
        std::string answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                             "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: realtime.v1.";
        answer += is_text ? "json\r\n\r\n" : "msgpack\r\n\r\n";
        if (send(peer.fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) {
            std::perror("send");
        }
    }
}

// Sends on until the socket takes no more, or frame `stop` is reached; returns whether it is.
bool push(Peer& peer, const std::vector<std::string>& frames, size_t stop) {
    while (peer.frame < stop) {
        const std::string& frame = frames[peer.frame];
        ssize_t sent = send(peer.fd, frame.data() + peer.offset, frame.size() - peer.offset, MSG_NOSIGNAL);
        if (sent < 0) {
            return false;
        }
        peer.offset += static_cast<size_t>(sent);
        if (peer.offset < frame.size()) {
            return false;
        }
        peer.offset = 0;
        peer.frame++;
    }
    return true;
}

// Sends every peer all frames up to `stop`, in turns of one frame.
void push_all(std::vector<Peer>& peers, const std::vector<std::string>& frames, size_t stop, int epoll) {
    size_t left = peers.size();
    std::vector<epoll_event> events(512);
    for (Peer& peer : peers) {
        epoll_event event{};
        event.events = EPOLLOUT;
        event.data.ptr = &peer;
        epoll_ctl(epoll, EPOLL_CTL_MOD, peer.fd, &event);
    }
    while (left != 0) {
        int count = epoll_wait(epoll, events.data(), static_cast<int>(events.size()), 10000);
        if (count <= 0) {
            std::fprintf(stderr, "nobody reads\n");
            std::exit(1);
        }
        for (int i = 0; i < count; i++) {
            Peer& peer = *static_cast<Peer*>(events[static_cast<size_t>(i)].data.ptr);
            push(peer, frames, std::min(peer.frame + 1, stop));
            if (peer.frame == stop) {
                epoll_event event{};
                event.data.ptr = &peer;
                epoll_ctl(epoll, EPOLL_CTL_MOD, peer.fd, &event);
                left--;
            }
        }
    }
}

int listen_on_any_port() {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, send_bytes = 131072;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof own;
    if (bind(fd, reinterpret_cast<sockaddr*>(&own), size) != 0 || listen(fd, 4096) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
        std::perror("listen");
        std::exit(1);
    }
    std::printf("%d\n", ntohs(own.sin_port));
    std::fflush(stdout);
    return fd;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 6) {
        std::fprintf(stderr, "replay json|msgpack CONNECTIONS ENTITIES MOVES_PER_FRAME FRAMES\n");
        return 2;
    }
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    bool is_text = std::strcmp(argv[1], "json") == 0;
    auto connections = static_cast<size_t>(std::atoi(argv[2]));
    int entities = std::atoi(argv[3]), moves = std::atoi(argv[4]), count = std::atoi(argv[5]);
    std::vector<std::string> frames = make_frames(is_text, entities, moves, count);
    int listener = listen_on_any_port(), epoll = epoll_create1(EPOLL_CLOEXEC);
    std::vector<Peer> peers(connections);
    size_t accepted = 0, ready = 0;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    while (ready < connections) {
        epoll_event found{};
        if (epoll_wait(epoll, &found, 1, 20000) <= 0) {
            std::fprintf(stderr, "nobody comes\n");
            return 1;
        }
        if (found.data.ptr == nullptr) {
            Peer& peer = peers[accepted++];
            peer.fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            event.data.ptr = &peer;
            epoll_ctl(epoll, EPOLL_CTL_ADD, peer.fd, &event);
            continue;
        }
        Peer& peer = *static_cast<Peer*>(found.data.ptr);
        take(peer, is_text);
        if (peer.is_upgraded && !peer.head.empty()) {
            bool is_filled = push(peer, frames, 1);
            ready += is_filled;
            epoll_event wanted{};
            wanted.events = is_filled ? 0u : EPOLLOUT;
            wanted.data.ptr = &peer;
            epoll_ctl(epoll, EPOLL_CTL_MOD, peer.fd, &wanted);
        }
    }
    if (std::getchar() == EOF) {  // a line says that the viewers are ready
        return 0;
    }
    double begun = now_s();
    push_all(peers, frames, frames.size(), epoll);
    double seconds = now_s() - begun;
    size_t bytes = 0;
    for (size_t i = 1; i < frames.size(); i++) {
        bytes += frames[i].size() * connections;
    }
    std::printf("{\"seconds\":%.6f,\"frames\":%zu,\"bytes\":%zu,\"moves\":%zu}\n", seconds, connections * static_cast<size_t>(count), bytes,
                connections * static_cast<size_t>(count) * static_cast<size_t>(moves));
    std::fflush(stdout);
    while (std::getchar() != EOF) {  // so that what was sent can be read to its end
    }
    return 0;
}
