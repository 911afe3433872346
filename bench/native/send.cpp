// The yardstick: what the kernel lets one core send, and nothing else. One process sends, another one receives.
//
//     {"number":1,"do":"listen","send_buffer_bytes":131072,"unsent_bytes":16384}          -> {"port"}
//     {"number":2,"do":"connect","port":…,"sockets":1000}                                   (the receiver)
//     {"number":3,"do":"accept","sockets":1000}
//     {"number":4,"do":"run","sizes":[[bytes, weight]…],"seconds":2,"seed":1}             -> {"frames","bytes","refused",…}
//     {"number":5,"do":"stats"}                                                           -> {"bytes","reads","cpu_s"}
//
// Law: sockets have the options that the server gives its own; each gets a frame in its turn. One that takes none is passed
// over, one that takes a part gets the rest in its next turn; a frame counts when its last byte is taken. The receiver's
// reads are those of the load client, without what that does with them.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <random>

#include "json.h"

namespace {

using bench::Json;

constexpr size_t RECEIVE_BYTES = 256 * 1024;
constexpr size_t SIZES = 1 << 16;  // drawn before they are used
constexpr int NOTSENT_LOWAT = 25;  // TCP_NOTSENT_LOWAT
constexpr int PATIENCE_S = 20;

double now_s() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double cpu_s() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    auto seconds = [](const timeval& one) { return static_cast<double>(one.tv_sec) + static_cast<double>(one.tv_usec) * 1e-6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

[[noreturn]] void fail(const char* what) { throw std::invalid_argument(std::string(what) + ": " + std::strerror(errno)); }

sockaddr_in loopback(int port) {
    sockaddr_in made{};
    made.sin_family = AF_INET;
    made.sin_port = htons(static_cast<uint16_t>(port));
    made.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return made;
}

class Ends {
public:
    explicit Ends(int epoll) : epoll_(epoll), buffer_(RECEIVE_BYTES) {}

    Json perform(const Json& command, const std::string& what) {
        if (what == "listen") {
            return listen_on(static_cast<int>(command.at("send_buffer_bytes").number), static_cast<int>(command.at("unsent_bytes").number));
        }
        if (what == "connect") {
            return connect_all(static_cast<int>(command.at("port").number), static_cast<int>(command.at("sockets").number));
        }
        if (what == "accept") {
            return accept_all(static_cast<size_t>(command.at("sockets").number));
        }
        if (what == "run") {
            draw(command.at("sizes"), static_cast<uint64_t>(command.number_or("seed", 1)));
            return run(command.at("seconds").number);
        }
        if (what == "stats") {
            return Json::object().set("bytes", received_).set("reads", reads_).set("cpu_s", cpu_s());
        }
        throw std::invalid_argument("do: listen, connect, accept, run, stats");
    }

    void drain(int fd) {
        ssize_t got = recv(fd, buffer_.data(), buffer_.size(), 0);
        if (got > 0) {
            received_ += static_cast<uint64_t>(got);
            reads_++;
        } else if (got == 0 || errno != EAGAIN) {
            epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
        }
    }

private:
    struct Peer {
        int fd;
        size_t left;  // of the frame that it has taken a part of
    };

    Json listen_on(int send_buffer_bytes, int unsent_bytes) {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int on = 1;
        setsockopt(listener_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(listener_, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof send_buffer_bytes);
        setsockopt(listener_, IPPROTO_TCP, NOTSENT_LOWAT, &unsent_bytes, sizeof unsent_bytes);
        sockaddr_in own = loopback(0);
        socklen_t size = sizeof own;
        timeval patience{PATIENCE_S, 0};
        setsockopt(listener_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (bind(listener_, reinterpret_cast<sockaddr*>(&own), size) != 0 || listen(listener_, 32768) != 0 ||
            getsockname(listener_, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
            fail("listen");
        }
        return Json::object().set("port", ntohs(own.sin_port));
    }

    Json connect_all(int port, int sockets) {
        sockaddr_in to = loopback(port);
        for (int i = 0; i < sockets; i++) {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
                fail("connect");
            }
            epoll_event event{};
            event.events = EPOLLIN;
            event.data.fd = fd;
            epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
        }
        return Json::object();
    }

    Json accept_all(size_t sockets) {
        while (peers_.size() < sockets) {
            int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) {
                fail("accept");
            }
            peers_.push_back({fd, 0});
        }
        return Json::object();
    }

    void draw(const Json& weighted, uint64_t seed) {
        std::vector<double> weights;
        size_t longest = 0;
        for (const Json& one : weighted.items) {
            if (one.items.size() != 2 || one.items[0].number < 1) {
                throw std::invalid_argument("sizes: [[bytes, weight]] are expected");
            }
            weights.push_back(one.items[1].number);
            longest = std::max(longest, static_cast<size_t>(one.items[0].number));
        }
        std::mt19937_64 chance(seed);
        std::discrete_distribution<size_t> place(weights.begin(), weights.end());
        sizes_.resize(SIZES);
        for (size_t& size : sizes_) {
            size = static_cast<size_t>(weighted.items[place(chance)].items[0].number);
        }
        data_.assign(longest, 'x');
    }

    Json run(double seconds) {
        uint64_t frames = 0, bytes = 0, calls = 0, refused = 0, partial = 0;
        double cpu_before = cpu_s(), begun = now_s(), stop = begun + seconds, now = begun;
        while (now < stop && !peers_.empty()) {
            for (Peer& peer : peers_) {
                size_t size = peer.left != 0 ? peer.left : sizes_[frames % SIZES];
                ssize_t sent = send(peer.fd, data_.data(), size, MSG_NOSIGNAL);
                calls++;
                if (sent < 0) {
                    if (errno != EAGAIN) {
                        fail("send");
                    }
                    refused++;
                } else {
                    bytes += static_cast<uint64_t>(sent);
                    peer.left = size - static_cast<size_t>(sent);
                    frames += peer.left == 0;
                    partial += peer.left != 0;
                }
                if (calls % 64 == 0 && (now = now_s()) >= stop) {
                    break;
                }
            }
        }
        double elapsed = now_s() - begun;
        Json made = Json::object();
        made.set("frames", frames).set("bytes", bytes).set("calls", calls).set("refused", refused).set("partial", partial);
        return made.set("seconds", elapsed).set("cpu_s", cpu_s() - cpu_before);
    }

    int epoll_;
    int listener_ = -1;
    std::vector<char> buffer_, data_;
    std::vector<Peer> peers_;
    std::vector<size_t> sizes_;
    uint64_t received_ = 0, reads_ = 0;
};

void obey(Ends& ends, const std::string& line) {
    Json answer = Json::object();
    int64_t number = -1;
    try {
        Json command = bench::JsonReader::read(line);
        number = command.at("number").integer;
        answer = ends.perform(command, command.at("do").text);
    } catch (const std::invalid_argument& error) {
        answer.set("error", error.what());
    }
    std::string text = bench::to_json(answer.set("number", number)) + "\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

}  // namespace

int main() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    Ends ends(epoll);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = STDIN_FILENO;
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    std::vector<epoll_event> events(512);
    std::string lines;
    char input[4096];
    while (true) {
        int count = epoll_wait(epoll, events.data(), static_cast<int>(events.size()), -1);
        for (int i = 0; i < count; i++) {
            int fd = events[static_cast<size_t>(i)].data.fd;
            if (fd != STDIN_FILENO) {
                ends.drain(fd);
                continue;
            }
            ssize_t got = read(STDIN_FILENO, input, sizeof input);
            if (got <= 0) {
                return 0;
            }
            lines.append(input, static_cast<size_t>(got));
            for (size_t end; (end = lines.find('\n')) != std::string::npos; lines.erase(0, end + 1)) {
                obey(ends, lines.substr(0, end));
            }
        }
    }
}
