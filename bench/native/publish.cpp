// The publisher: posts moves as NDJSON when they are due, whatever the server does, and uses little of its core.
//
//     {"number":1,"do":"load","path":FILE}   FILE has a line `id lon lat` for each move of all rounds
//     {"number":2,"do":"publish","host":"127.0.0.1","port":8766,"start":…,"rate":200000,"first_version":100001,"first_move":0,
//      "count":6000000,"until":…,"batch_ms":2,"body_s":1}       -> {"sent","accepted","refused","behind_max_s",…}
//     {"number":3,"do":"quit"}
//
// Law: the move with number n is due at `start + n / rate`. What is due is sent at once, in chunks of a streaming body that
// is ended every `body_s` seconds for its verdicts (0: each batch is a body of its own). Being late changes nothing of when
// a change was due; what is not sent at the time `until` is given up. Moves follow each other as in the file, which is gone
// through again and again.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iostream>

#include "json.h"

namespace {

using bench::Json;

constexpr int ANSWER_PATIENCE_S = 30;
constexpr size_t CHUNK_BYTES_MAX = 1 << 20;
constexpr size_t BODY_BYTES_MAX = 32u << 20;  // below what the server takes as one body

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

// All moves as text, but for their versions.
class Moves {
public:
    void load(const std::string& path) {
        std::ifstream file(path);
        std::string id, lon, lat;
        texts_.clear();
        ends_.clear();
        while (file >> id >> lon >> lat) {
            texts_ += "{\"op\":\"move\",\"id\":\"" + id + "\",\"version\":";
            ends_.push_back(texts_.size());
            texts_ += ",\"lon\":" + lon + ",\"lat\":" + lat + "}\n";
            ends_.push_back(texts_.size());
        }
        if (ends_.empty()) {
            throw std::invalid_argument("path: no moves are there");
        }
    }

    size_t size() const { return ends_.size() / 2; }

    char* write(char* to, uint64_t move, uint64_t version) const {
        size_t place = move % size() * 2;
        size_t begin = place == 0 ? 0 : ends_[place - 1], middle = ends_[place], end = ends_[place + 1];
        to = std::copy(texts_.data() + begin, texts_.data() + middle, to);
        to = std::to_chars(to, to + 20, version).ptr;
        return std::copy(texts_.data() + middle, texts_.data() + end, to);
    }

private:
    std::string texts_;
    std::vector<size_t> ends_;  // of the part before the version, and of the part behind it
};

// One keep-alive connection to the API, which blocks: a publisher has nothing else to do.
class Api {
public:
    Api(const std::string& host, int port) : host_(host + ":" + std::to_string(port)) {
        fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(static_cast<uint16_t>(port));
        int on = 1;
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        timeval patience{ANSWER_PATIENCE_S, 0};
        setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (inet_pton(AF_INET, host.c_str(), &to.sin_addr) != 1 || connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
            close(fd_);
            throw std::invalid_argument(std::string("connect: ") + std::strerror(errno));
        }
    }

    ~Api() { close(fd_); }
    Api(const Api&) = delete;
    Api& operator=(const Api&) = delete;

    void begin_body() {
        send_all("POST /v1/updates HTTP/1.1\r\nHost: " + host_ +
                 "\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    // `chunk` begins with `HEAD_BYTES` to spare, and ends with two.
    static constexpr size_t HEAD_BYTES = 10, TAIL_BYTES = 2;

    void send_chunk(char* chunk, size_t size) {
        char head[HEAD_BYTES + 1];
        std::snprintf(head, sizeof head, "%08zx\r\n", size);
        std::memcpy(chunk, head, HEAD_BYTES);
        std::memcpy(chunk + HEAD_BYTES + size, "\r\n", TAIL_BYTES);
        send_all({chunk, HEAD_BYTES + size + TAIL_BYTES});
    }

    // Ends the body; returns the verdicts.
    Json end_body() {
        send_all("0\r\n\r\n");
        std::string answer;
        size_t head = 0, length = 0;
        while (head == 0 || answer.size() < head + length) {
            char data[65536];
            ssize_t got = recv(fd_, data, sizeof data, 0);
            if (got <= 0) {
                throw std::invalid_argument("the API did not answer");
            }
            answer.append(data, static_cast<size_t>(got));
            size_t end = answer.find("\r\n\r\n");
            if (head == 0 && end != std::string::npos) {
                head = end + 4;
                std::string fields = answer.substr(0, head);
                for (char& one : fields) {
                    one = one >= 'A' && one <= 'Z' ? static_cast<char>(one | 32) : one;
                }
                size_t field = fields.find("\r\ncontent-length:");
                length = field == std::string::npos ? 0 : std::strtoul(fields.c_str() + field + 17, nullptr, 10);
            }
        }
        if (answer.compare(0, 12, "HTTP/1.1 200") != 0) {
            throw std::invalid_argument("the API answered " + answer.substr(0, 300));
        }
        return bench::JsonReader::read(std::string_view(answer).substr(head));
    }

private:
    void send_all(std::string_view data) {
        while (!data.empty()) {
            ssize_t sent = send(fd_, data.data(), data.size(), MSG_NOSIGNAL);
            if (sent <= 0) {
                throw std::invalid_argument(std::string("send: ") + std::strerror(errno));
            }
            data.remove_prefix(static_cast<size_t>(sent));
        }
    }

    int fd_;
    std::string host_;
};

class Publisher {
public:
    Publisher(const Moves& moves, const Json& command)
        : moves_(moves),
          api_(command.at("host").text, static_cast<int>(command.at("port").number)),
          start_s_(command.at("start").number),
          rate_(command.at("rate").number),
          first_version_(static_cast<uint64_t>(command.at("first_version").number)),
          first_move_(static_cast<uint64_t>(command.at("first_move").number)),
          count_(static_cast<uint64_t>(command.at("count").number)),
          batch_s_(command.number_or("batch_ms", 2) * 1e-3),
          body_s_(command.number_or("body_s", 1)),
          until_s_(command.at("until").number),
          chunk_(CHUNK_BYTES_MAX + 1024) {}

    Json run() {
        double cpu_before = cpu_s();
        while (sent_ < count_ && !is_over_) {
            double now = wait_due();
            is_over_ = now >= until_s_;
            behind_max_s_ = std::max(behind_max_s_, now - start_s_ - static_cast<double>(sent_) / rate_);
            if (!is_in_body_) {
                api_.begin_body();
                is_in_body_ = true;
                body_until_s_ = now + body_s_;
                body_bytes_ = 0;
            }
            send_due(now);
            if (now >= body_until_s_ || body_bytes_ >= BODY_BYTES_MAX || sent_ == count_ || is_over_) {
                take_verdicts();
            }
        }
        Json made = Json::object();
        made.set("sent", sent_).set("accepted", accepted_).set("refused", sent_ - accepted_).set("behind_max_s", behind_max_s_);
        made.set("bodies", bodies_).set("answer_max_s", answer_max_s_).set("bytes", bytes_).set("first_refusal", first_refusal_);
        return made.set("cpu_s", cpu_s() - cpu_before).set("seconds", now_s() - start_s_);
    }

private:
    // Sleeps until a change is due, and a batch after the one before; returns the time. One that is late does not sleep.
    double wait_due() {
        double next = std::max(start_s_ + static_cast<double>(sent_) / rate_, last_s_ + batch_s_);
        for (double now = now_s();; now = now_s()) {
            if (now >= next) {
                last_s_ = now;
                return now;
            }
            double left = next - now;
            timespec pause{static_cast<time_t>(left), static_cast<long>((left - static_cast<double>(static_cast<time_t>(left))) * 1e9)};
            nanosleep(&pause, nullptr);
        }
    }

    void send_due(double now) {
        auto due = std::min(count_, static_cast<uint64_t>((now - start_s_) * rate_) + 1);
        char *begin = chunk_.data() + Api::HEAD_BYTES, *to = begin;
        while (sent_ < due && to < begin + CHUNK_BYTES_MAX - 512) {
            to = moves_.write(to, first_move_ + sent_, first_version_ + sent_);
            sent_++;
        }
        api_.send_chunk(chunk_.data(), static_cast<size_t>(to - begin));
        body_bytes_ += static_cast<size_t>(to - begin);
        bytes_ += static_cast<uint64_t>(to - begin);
    }

    void take_verdicts() {
        double begun = now_s();
        Json answer = api_.end_body();
        answer_max_s_ = std::max(answer_max_s_, now_s() - begun);
        accepted_ += static_cast<uint64_t>(answer.at("accepted").number);
        bodies_++;
        is_in_body_ = false;
        const Json* rejected = answer.find("rejected");
        if (rejected != nullptr && !rejected->items.empty() && first_refusal_.empty()) {
            first_refusal_ = bench::to_json(rejected->items[0]);
        }
    }

    const Moves& moves_;
    Api api_;
    double start_s_, rate_;
    uint64_t first_version_, first_move_, count_;
    double batch_s_, body_s_, until_s_;
    std::vector<char> chunk_;
    uint64_t sent_ = 0, accepted_ = 0, bodies_ = 0, bytes_ = 0;
    size_t body_bytes_ = 0;
    bool is_in_body_ = false, is_over_ = false;
    double last_s_ = 0, body_until_s_ = 0, behind_max_s_ = 0, answer_max_s_ = 0;
    std::string first_refusal_;
};

}  // namespace

int main() {
    Moves moves;
    std::string line;
    while (std::getline(std::cin, line)) {
        Json answer = Json::object();
        int64_t number = -1;
        std::string what;
        try {
            Json command = bench::JsonReader::read(line);
            number = command.at("number").integer;
            what = command.at("do").text;
            if (what == "load") {
                moves.load(command.at("path").text);
                answer.set("moves", moves.size());
            } else if (what == "publish") {
                if (moves.size() == 0) {
                    throw std::invalid_argument("publish: nothing is loaded");
                }
                answer = Publisher(moves, command).run();
            } else if (what != "quit") {
                throw std::invalid_argument("do: load, publish, quit");
            }
        } catch (const std::invalid_argument& error) {
            answer.set("error", error.what());
        }
        std::cout << bench::to_json(answer.set("number", number)) << std::endl;
        if (what == "quit") {
            return 0;
        }
    }
    return 0;
}
