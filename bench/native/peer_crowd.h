// A crowd of viewers and one publisher in one thread: connects, publishes in an open loop, reads, judges.
//
// Law: a change is published when it is due, not when the last one was answered; what the publisher's socket does not take
// waits, and is counted from when it was due. Everything has an end: connecting, filling, the load, and becoming quiet.
//
// What a peer's wire looks like is its dialect, a struct with
//   Fill fill; bool tells_leaving, is_websocket, has_lines; const char* path
//   std::string greeting(crowd, viewer)                    what a viewer sends, once connected
//   size_t take(crowd, viewer, data, size, now)            reads whole messages; returns how many bytes they were
//   std::string publisher_greeting(crowd)                  what the publisher sends before viewers connect
//   void announce(out, entity, version, old, place)        appends a change; `old` is null for what was never elsewhere
//   void take_answers(crowd, data, size, out)              what the publisher is answered; counts `answers` and `errors`
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <string>
#include <string_view>

#include "peer_city.h"
#include "peer_tally.h"
#include "peer_websocket.h"

constexpr double PATIENCE_S = 20;       // for connecting and filling
constexpr double QUIET_S = 0.6;         // without anything arriving: all that comes has come
constexpr double DRAIN_S = 6;           // after the load, for becoming quiet
constexpr double HOPELESS_S = 5;        // a wait after which the load is given up
constexpr double LEAD_S = 0.2;          // from the decision to publish to the first change
constexpr size_t CONNECTING = 50;       // viewers at once
constexpr size_t SLICE_CHANGES = 500;   // published between two looks at the sockets
constexpr size_t UNSENT_BYTES = 1 << 20; // beyond it nothing more is handed to the publisher's socket
constexpr size_t READ_BYTES = 256 << 10;

// When the world is published: before anybody looks, once all look (nobody is told what was before), or not from here.
enum class Fill { before, after, never };

struct Load {
    double rate = 100, warm_up_s = 2, seconds = 8;
    int port = 0, publish_port = 0;
    size_t sampled = 50;
};

struct Viewer {
    uint32_t number = 0;
    int fd = -1;
    bool is_upgraded = false, is_ready = false; // the dialect says when it will be told of changes
    std::string rest;                           // of a message that is not whole yet
    websocket::Unframer unframer;
};

template <class Dialect> class Crowd {
  public:
    const City& city;
    Tally tally;
    size_t answers = 0, errors = 0; // to the publisher; that it or viewers were told of

    Crowd(const City& city, const Load& load)
        : city(city), tally(city, load.sampled), load_(load), viewers_(city.views.size()), buffer_(READ_BYTES * 2) {
        epoll_ = epoll_create1(0);
    }

    int run() {
        open_publisher();
        if (Dialect::fill == Fill::before) fill();
        unsent_ += dialect_.publisher_greeting(*this);
        for (size_t first = 0; first < viewers_.size(); first += CONNECTING) connect_some(first);
        if (Dialect::fill == Fill::after) fill();
        settle(PATIENCE_S);
        const Mirrors filled = tally.compare(0);
        publish();
        settle(DRAIN_S);
        report(filled, tally.compare(sent_), tally.judge(Dialect::tells_leaving));
        return 0;
    }

  private:
    const Load load_;
    Dialect dialect_;
    std::vector<Viewer> viewers_;
    std::vector<char> buffer_;
    int epoll_ = -1, publisher_ = -1;
    std::string unsent_;
    size_t unsent_from_ = 0;
    size_t sent_ = 0, closed_ = 0;
    double behind_max_s_ = 0, begun_ = 0, ended_ = 0, cpu_s_ = 0;
    bool is_given_up_ = false;

    static double clock(clockid_t which) {
        timespec time{};
        clock_gettime(which, &time);
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
    }
    static double now() { return clock(CLOCK_MONOTONIC); }
    static void say(const char* what) {
        std::printf("{\"at\":\"%s\"}\n", what);
        std::fflush(stdout);
    }

    // Connections

    static int connect_to(int port) {
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) throw std::runtime_error("cannot connect");
        const int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        return fd;
    }

    void watch(int fd, uint64_t which) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = which;
        epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    }

    // What viewers say is little and goes into an empty socket: it is taken whole, or something is wrong.
    static void send_whole(int fd, const std::string& data) {
        if (send(fd, data.data(), data.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(data.size())) throw std::runtime_error("cannot send");
    }

    void connect_some(size_t first) {
        const size_t end = std::min(viewers_.size(), first + CONNECTING);
        for (size_t number = first; number < end; ++number) {
            Viewer& viewer = viewers_[number];
            viewer.number = static_cast<uint32_t>(number);
            viewer.fd = connect_to(load_.port);
            watch(viewer.fd, number);
            if (Dialect::is_websocket) send_whole(viewer.fd, websocket::upgrade(Dialect::path, load_.port));
            else send_whole(viewer.fd, dialect_.greeting(*this, viewer.number));
        }
        const double stop = now() + PATIENCE_S;
        size_t ready = first;
        while (ready < end) {
            turn(0.01);
            while (ready < end && viewers_[ready].is_ready) ++ready;
            if (now() > stop || closed_) throw std::runtime_error("viewers were not let in");
        }
    }

    void open_publisher() {
        publisher_ = connect_to(load_.publish_port ? load_.publish_port : load_.port);
        watch(publisher_, viewers_.size());
    }

    // Publishing

    void fill() {
        const double stop = now() + PATIENCE_S;
        for (size_t entity = 0; entity < city.first.size();) {
            while (entity < city.first.size() && unsent_.size() - unsent_from_ < UNSENT_BYTES / 16) {
                dialect_.announce(unsent_, static_cast<uint32_t>(entity), entity + 1, nullptr, city.first[entity]);
                ++entity;
            }
            turn(0.001);
            if (now() > stop) throw std::runtime_error("the world was not taken");
        }
        while (Dialect::fill == Fill::before && answers < city.first.size()) {
            turn(0.001);
            if (now() > stop) throw std::runtime_error("the world was not taken");
        }
    }

    void publish() {
        const Schedule schedule{now() + LEAD_S, load_.rate};
        tally.schedule = schedule;
        tally.begin = schedule.start + load_.warm_up_s;
        tally.end = tally.begin + load_.seconds;
        tally.first_move = static_cast<size_t>(load_.rate * load_.warm_up_s);
        tally.end_move = std::min(city.moved.size(), static_cast<size_t>(load_.rate * (load_.warm_up_s + load_.seconds)));
        say("filled");
        while (sent_ < tally.end_move && !is_given_up_) {
            const double time = now();
            if (begun_ == 0 && time >= tally.begin) mark(begun_, "begin");
            append_due(time);
            turn(0.001);
            is_given_up_ = tally.wait_last_s > HOPELESS_S || time - schedule.due(sent_) > HOPELESS_S;
        }
        while (now() < tally.end && !is_given_up_) {
            if (begun_ == 0 && now() >= tally.begin) mark(begun_, "begin");
            turn(0.001);
        }
        if (begun_ == 0) begun_ = now();
        tally.end = std::min(tally.end, now());
        mark(ended_, "end");
        tally.end_move = std::max(tally.first_move + 1, sent_);
    }

    void mark(double& time, const char* what) {
        time = now();
        cpu_s_ = clock(CLOCK_PROCESS_CPUTIME_ID) - cpu_s_;
        say(what);
    }

    void append_due(double time) {
        for (size_t slice = 0; slice < SLICE_CHANGES && sent_ < tally.end_move; ++slice, ++sent_) {
            const double behind_s = time - tally.schedule.due(sent_);
            if (behind_s < 0 || unsent_.size() - unsent_from_ > UNSENT_BYTES) return;
            if (begun_ != 0) behind_max_s_ = std::max(behind_max_s_, behind_s);
            dialect_.announce(unsent_, city.entities[sent_], city.first.size() + 1 + sent_, &city.left[sent_], city.moved[sent_]);
        }
    }

    void flush_publisher() {
        if (unsent_from_ == unsent_.size()) return;
        const ssize_t taken = send(publisher_, unsent_.data() + unsent_from_, unsent_.size() - unsent_from_, MSG_NOSIGNAL);
        if (taken < 0 && errno != EAGAIN) throw std::runtime_error("the publisher was cut off");
        if (taken > 0) unsent_from_ += static_cast<size_t>(taken);
        if (unsent_from_ == unsent_.size() || unsent_from_ > UNSENT_BYTES) {
            unsent_.erase(0, unsent_from_);
            unsent_from_ = 0;
        }
    }

    // Reading

    void turn(double wait_s) {
        epoll_event events[256];
        flush_publisher();
        const int count = epoll_wait(epoll_, events, 256, static_cast<int>(wait_s * 1000));
        for (int place = 0; place < count; ++place) {
            if (events[place].data.u64 == viewers_.size()) read_publisher();
            else read_viewer(viewers_[events[place].data.u64]);
        }
    }

    void read_publisher() {
        const ssize_t size = recv(publisher_, buffer_.data(), READ_BYTES, 0);
        if (size == 0 || (size < 0 && errno != EAGAIN)) throw std::runtime_error("the publisher was cut off");
        if (size > 0) dialect_.take_answers(*this, buffer_.data(), static_cast<size_t>(size), unsent_);
    }

    void read_viewer(Viewer& viewer) {
        constexpr size_t GAP = 8; // the unframer wants to write below where it reads
        const size_t kept = viewer.rest.size();
        if (buffer_.size() < kept + GAP + READ_BYTES) buffer_.resize(kept + GAP + READ_BYTES);
        char* data = buffer_.data();
        std::memcpy(data, viewer.rest.data(), kept);
        char* into = data + kept + (Dialect::is_websocket && viewer.is_upgraded ? GAP : 0);
        const ssize_t got = recv(viewer.fd, into, READ_BYTES, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (got <= 0) return close_viewer(viewer);
        size_t size = kept + static_cast<size_t>(got);
        if (Dialect::is_websocket) {
            if (!viewer.is_upgraded) return upgrade(viewer, data, size);
            size = kept + viewer.unframer.take(into, static_cast<size_t>(got), data + kept, Dialect::has_lines);
        }
        take(viewer, data, size);
    }

    void take(Viewer& viewer, const char* data, size_t size) {
        const size_t used = dialect_.take(*this, viewer, data, size, now());
        viewer.rest.assign(data + used, size - used);
        if (viewer.unframer.is_closed) close_viewer(viewer);
    }

    void upgrade(Viewer& viewer, const char* data, size_t size) {
        const std::string_view head(data, size);
        const size_t end = head.find("\r\n\r\n");
        if (end == std::string_view::npos) return void(viewer.rest.assign(data, size));
        if (head.substr(0, 13) != "HTTP/1.1 101 ") throw std::runtime_error("no upgrade: " + std::string(head.substr(0, 60)));
        viewer.is_upgraded = true;
        viewer.rest.clear();
        std::string after(1, ' '); // the byte of room that the unframer wants
        after += head.substr(end + 4);
        const size_t payload = viewer.unframer.take(after.data() + 1, after.size() - 1, after.data(), Dialect::has_lines);
        send_whole(viewer.fd, dialect_.greeting(*this, viewer.number));
        take(viewer, after.data(), payload);
    }

    void close_viewer(Viewer& viewer) {
        if (viewer.fd < 0) return;
        close(viewer.fd);
        viewer.fd = -1;
        ++closed_;
    }

    void settle(double patience_s) {
        const double stop = now() + patience_s;
        tally.last_arrival = std::max(tally.last_arrival, now() - QUIET_S / 2);
        while (now() < stop && now() - tally.last_arrival < QUIET_S) turn(0.01);
    }

    // The result

    static std::string seconds(double value) { return std::isfinite(value) ? std::to_string(value) : "null"; }
    static std::string json(const Mirrors& mirrors) {
        char text[200];
        std::snprintf(text, sizeof text, "{\"compared\":%zu,\"wrong\":%zu,\"entities\":%zu,\"missing\":%zu,\"stale\":%zu,\"ghosts\":%zu}",
                      size_t(mirrors.compared), size_t(mirrors.wrong), size_t(mirrors.entities), size_t(mirrors.missing),
                      size_t(mirrors.stale), size_t(mirrors.ghosts));
        return text;
    }

    void report(const Mirrors& filled, const Mirrors& mirrors, const Judged& judged) const {
        const double window_s = std::max(1e-3, tally.end - tally.begin);
        std::printf("{\"at\":\"done\",\"seconds\":%f,\"taken\":%zu,\"wanted\":%zu,\"left\":%zu,\"over_fetched\":%zu,", window_s,
                    tally.end_move - tally.first_move, size_t(tally.wanted), size_t(tally.left), size_t(tally.over_fetched));
        std::printf("\"expected\":%zu,\"came\":%zu,\"p50_s\":%s,\"p99_s\":%s,\"max_s\":%s,\"growth_s\":%s,\"silence_max_s\":%s,",
                    size_t(judged.expected), size_t(judged.came), seconds(judged.p50_s).c_str(), seconds(judged.p99_s).c_str(),
                    seconds(judged.max_s).c_str(), seconds(judged.growth_s).c_str(), seconds(tally.silence_max_s).c_str());
        std::printf("\"behind_max_s\":%s,\"load_cpu_s\":%s,\"is_given_up\":%s,", seconds(behind_max_s_).c_str(), seconds(cpu_s_).c_str(),
                    is_given_up_ ? "true" : "false");
        std::printf("\"closed\":%zu,\"errors\":%zu,\"backwards\":%zu,\"distorted\":%zu,", closed_, errors, size_t(tally.backwards),
                    size_t(tally.distorted));
        std::printf("\"filled\":%s,\"mirrors\":%s}\n", json(filled).c_str(), json(mirrors).c_str());
    }
};

// A load program: `PROGRAM --city FILE --port N [--publish-port N] --rate R --warm-up S --seconds S [--sampled N]`.
template <class Dialect> int load_main(int count, char** arguments) {
    std::string path;
    Load load;
    for (int place = 1; place + 1 < count; place += 2) {
        const std::string_view name = arguments[place];
        const char* value = arguments[place + 1];
        if (name == "--city") path = value;
        else if (name == "--port") load.port = std::atoi(value);
        else if (name == "--publish-port") load.publish_port = std::atoi(value);
        else if (name == "--rate") load.rate = std::atof(value);
        else if (name == "--warm-up") load.warm_up_s = std::atof(value);
        else if (name == "--seconds") load.seconds = std::atof(value);
        else if (name == "--sampled") load.sampled = static_cast<size_t>(std::atoi(value));
        else return std::fprintf(stderr, "%s?\n", arguments[place]), 2;
    }
    try {
        const City city(path.c_str());
        return Crowd<Dialect>(city, load).run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
