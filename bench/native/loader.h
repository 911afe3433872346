// The viewers of one process: connects them, reads for them, lets them pan, and counts what they get.
//
// Law: one thread, one epoll. Each readiness is answered by one read of at most 256 KiB, so that nobody waits for long;
// the time of a change's arrival is taken once for each read, before anything of it is parsed.
#pragma once

#include <netdb.h>
#include <sys/epoll.h>
#include <time.h>

#include <deque>
#include <functional>

#include "json_delta.h"
#include "pack_delta.h"
#include "viewer.h"

namespace bench {

inline double now_us() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) * 1e-3;
}

class Loader {
public:
    static constexpr int PAN_STEPS = 8;  // to the east, and as many back
    static constexpr double TICK_US = 5000;
    static constexpr size_t HALF_OPEN_MAX = 256;

    struct Checked {
        uint64_t asked = 0, answered = 0, wrong = 0, pending = 0;
    };

    Loader() : epoll_(epoll_create1(EPOLL_CLOEXEC)), shared_(RECEIVE_BYTES + PAD_BYTES) {}

    int epoll() const { return epoll_; }
    Schedule schedule;
    Checked checked;
    uint64_t turns = 0;
    Histogram turn_us;  // what one round of reads took: so late can a reading be because of this process
    std::map<std::string, std::unique_ptr<Group>> groups;
    std::deque<std::unique_ptr<Viewer>> viewers;
    Ids ids;
    Texts texts;

    Group& group(const std::string& name) {
        std::unique_ptr<Group>& found = groups[name];
        if (found == nullptr) {
            found = std::make_unique<Group>();
            found->name = name;
        }
        return *found;
    }

    // Viewers to be connected, a few at a time, by `tick`.
    void add(std::unique_ptr<Kind> kind, const Json& given, Level level) {
        const Kind* shared = kind.get();
        kinds_.push_back(std::move(kind));
        uint32_t number = 0;
        for (const Json& one : given.items) {
            auto viewer = std::make_unique<Viewer>();
            viewer->kind = shared;
            viewer->number = number++;
            viewer->view = one.at("view");
            viewer->token = one.text_or("token", "");
            const Json* whole = one.find("whole");
            viewer->mirror.set_level(whole != nullptr && whole->boolean ? Level::WHOLE : level);
            viewer->mirror.is_panning = shared->mode == Mode::PANNING;
            waiting_.push_back(viewer.get());
            viewers.push_back(std::move(viewer));
        }
    }

    bool is_connecting() const { return !waiting_.empty() || unfilled_ != 0; }
    void give_up() { waiting_.clear(), unfilled_ = 0; }

    // How long epoll may wait.
    int patience_ms() const { return acting_.empty() && waiting_.empty() ? 200 : static_cast<int>(TICK_US / 1000); }

    void tick(double now) {
        while (!waiting_.empty() && unfilled_ < HALF_OPEN_MAX) {
            Viewer* viewer = waiting_.front();
            waiting_.pop_front();
            connect(*viewer);
        }
        if (now < ticked_us_ + TICK_US) {
            return;
        }
        ticked_us_ = now;
        for (Viewer* viewer : acting_) {
            if (viewer->wire.is_open() && viewer->mirror.is_filled && !viewer->is_held && now >= viewer->act_us) {
                act(*viewer, now);
            }
        }
    }

    void on_event(Viewer& viewer, uint32_t events) {
        if (viewer.has_ended) {
            return;
        }
        if (viewer.wire.phase() == Phase::CONNECTING) {
            int trouble = 0;
            socklen_t size = sizeof trouble;
            getsockopt(viewer.wire.fd(), SOL_SOCKET, SO_ERROR, &trouble, &size);
            if (trouble != 0) {
                end(viewer, std::strerror(trouble));
                return;
            }
            viewer.wire.ask_upgrade(viewer.kind->host, viewer.kind->is_text);
        }
        if ((events & EPOLLOUT) != 0) {
            viewer.wire.send_waiting();
        }
        bool is_cut = (events & (EPOLLHUP | EPOLLERR)) != 0;
        if (is_cut || ((events & EPOLLIN) != 0 && viewer.is_reading && viewer.kind->mode != Mode::SLOW) || !viewer.mirror.is_filled) {
            read(viewer, RECEIVE_BYTES);
        }
        if (is_cut && !viewer.has_ended && !viewer.is_reading) {
            end(viewer, "cut");
        }
        watch(viewer);
    }

    void say(Viewer& viewer, const Json& message) {
        std::string bytes;
        if (viewer.kind->is_text) {
            write_json(bytes, message);
        } else {
            write_pack(bytes, message);
        }
        viewer.wire.send(viewer.kind->is_text ? TEXT_FRAME : BINARY_FRAME, bytes);
        watch(viewer);
    }

    void ask_check(Viewer& viewer) {
        viewer.check = 1;
        checked.asked++;
        say(viewer, Json::object().set("type", "check"));
    }

    void set_reading(Viewer& viewer, bool is_reading) {
        viewer.is_reading = is_reading;
        watch(viewer);
    }

    void leave(Viewer& viewer) {
        if (!viewer.has_ended) {
            viewer.wire.send(CLOSE_FRAME, std::string_view("\x03\xE8", 2));
            end(viewer, "1000");
        }
    }

    // Lets go of viewers that ended, all of one group.
    void forget(const Group* group) {
        auto is_over = [group](const std::unique_ptr<Viewer>& one) { return one->has_ended && one->kind->group == group; };
        acting_.erase(std::remove_if(acting_.begin(), acting_.end(), [](Viewer* one) { return one->has_ended; }), acting_.end());
        viewers.erase(std::remove_if(viewers.begin(), viewers.end(), is_over), viewers.end());
    }

private:
    void connect(Viewer& viewer) {
        unfilled_++;
        // 19 addresses: a port serves each of them once
        int trouble = viewer.wire.start(viewer.kind->to, 2 + static_cast<uint32_t>(opened_++ % 19), viewer.kind->receive_buffer_bytes);
        if (trouble != 0) {
            end(viewer, std::strerror(trouble));
            return;
        }
        epoll_event event{};
        event.events = EPOLLIN | EPOLLOUT;
        event.data.ptr = &viewer;
        viewer.is_watched = true;
        if (epoll_ctl(epoll_, EPOLL_CTL_ADD, viewer.wire.fd(), &event) != 0) {
            end(viewer, std::strerror(errno));
        }
    }

    void watch(Viewer& viewer) {
        if (viewer.has_ended) {
            return;
        }
        bool is_sending = viewer.wire.has_unsent() || viewer.wire.phase() == Phase::CONNECTING;
        bool is_reading = viewer.is_reading && (viewer.kind->mode != Mode::SLOW || !viewer.mirror.is_filled);
        uint32_t wanted = (is_reading ? EPOLLIN : 0u) | (is_sending ? EPOLLOUT : 0u);
        if (wanted != (viewer.is_watched ? EPOLLOUT | EPOLLIN : EPOLLIN) || !is_reading) {
            epoll_event event{};
            event.events = wanted;
            event.data.ptr = &viewer;
            epoll_ctl(epoll_, EPOLL_CTL_MOD, viewer.wire.fd(), &event);
            viewer.is_watched = is_sending;
        }
    }

    void read(Viewer& viewer, size_t limit) {
        Group& group = *viewer.kind->group;
        double now = 0;
        ssize_t got = viewer.wire.receive(shared_.data(), limit, group, [&](int opcode, const char* begin, const char* end, size_t header) {
            if (now == 0) {
                now = now_us();
            }
            on_frame(viewer, opcode, begin, end, header, now);
        });
        if (viewer.has_ended) {
            return;
        }
        if (got == 0) {
            end(viewer, "cut");
        } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
            end(viewer, errno == ECONNRESET ? "reset" : std::strerror(errno));
        } else if (viewer.wire.phase() == Phase::CLOSED) {
            end(viewer, "a fault");
        }
    }

    void on_frame(Viewer& viewer, int opcode, const char* begin, const char* end_of, size_t header, double now) {
        std::string_view payload(begin, static_cast<size_t>(end_of - begin));
        switch (opcode) {
            case 0: on_open(viewer); break;
            case TEXT_FRAME:
            case BINARY_FRAME:
                if ((opcode == TEXT_FRAME) != viewer.kind->is_text) {
                    viewer.kind->group->fault("frame: text and binary are mixed up");
                } else if (viewer.kind->is_text) {
                    on_text(viewer, begin, end_of, header, now);
                } else {
                    on_binary(viewer, begin, end_of, header, now);
                }
                break;
            case PING_FRAME: viewer.wire.send(PONG_FRAME, payload); break;
            case PONG_FRAME: break;
            case CLOSE_FRAME: {
                bool has_code = payload.size() >= 2;
                int code = has_code ? static_cast<unsigned char>(begin[0]) << 8 | static_cast<unsigned char>(begin[1]) : 1005;
                viewer.wire.send(CLOSE_FRAME, payload.substr(0, 2));
                end(viewer, std::to_string(code));
                break;
            }
            default: viewer.kind->group->fault("frame: an unknown opcode");
        }
    }

    void on_open(Viewer& viewer) {
        if (!viewer.token.empty()) {
            say(viewer, Json::object().set("type", "identify").set("token", viewer.token));
        }
        say_view(viewer, now_us());
    }

    void say_view(Viewer& viewer, double now) {
        viewer.view.set("type", "view");
        viewer.view.set("id", ++viewer.view_id);
        viewer.view_sent_us = now;
        say(viewer, viewer.view);
    }

    void on_text(Viewer& viewer, const char* begin, const char* end_of, size_t header, double now) {
        std::string_view payload(begin, static_cast<size_t>(end_of - begin));
        if (payload.substr(0, JsonDelta<false>::HEAD.size()) == JsonDelta<false>::HEAD) {
            bool is_whole = viewer.mirror.level() == Level::WHOLE;
            delta_.restart();
            const char* wrong = is_whole ? whole_json_.read(begin, end_of) : json_.read(begin, end_of);
            on_delta(viewer, wrong, is_whole ? whole_json_.place() : json_.place(), end_of, payload.size() + header, now);
            return;
        }
        try {
            on_message(viewer, JsonReader::read(payload));
        } catch (const std::invalid_argument& error) {
            viewer.kind->group->fault(error.what(), payload);
        }
    }

    void on_binary(Viewer& viewer, const char* begin, const char* end_of, size_t header, double now) {
        if (PackDelta<false>::is_delta(begin, end_of)) {
            bool is_whole = viewer.mirror.level() == Level::WHOLE;
            delta_.restart();
            const char* wrong = is_whole ? whole_pack_.read(begin, end_of) : pack_.read(begin, end_of);
            size_t bytes = static_cast<size_t>(end_of - begin) + header;
            on_delta(viewer, wrong, is_whole ? whole_pack_.place() : pack_.place(), end_of, bytes, now);
            return;
        }
        try {
            const char* at = begin;
            on_message(viewer, PackReader::read(at, end_of));
            if (at != end_of) {
                viewer.kind->group->fault("a message does not end where its frame does");
            }
        } catch (const std::invalid_argument& error) {
            viewer.kind->group->fault(error.what());
        }
    }

    void on_delta(Viewer& viewer, const char* wrong, const char* place, const char* end_of, size_t bytes, double now) {
        Group& group = *viewer.kind->group;
        if (wrong != nullptr) {
            group.fault(wrong, place < end_of ? std::string_view(place, static_cast<size_t>(end_of - place)) : std::string_view());
            return;
        }
        group.bytes += bytes;
        group.sizes.record(static_cast<double>(bytes));
        if (viewer.view_sent_us != 0 && delta_.view == viewer.view_id) {
            group.answers.record(now - viewer.view_sent_us);
            viewer.view_sent_us = 0;
        }
        bool was_filled = viewer.mirror.is_filled;
        viewer.mirror.apply(delta_, now, schedule, group);
        if (!was_filled && viewer.mirror.is_filled) {
            on_filled(viewer, now);
        }
    }

    void on_filled(Viewer& viewer, double now) {
        unfilled_ -= unfilled_ != 0;
        if (viewer.kind->mode == Mode::STALLED) {
            viewer.is_reading = false;
        } else if (viewer.kind->mode != Mode::READER) {
            // Spread over the first interval, by a step that hits all parts of it evenly.
            double interval = viewer.kind->mode == Mode::PANNING ? viewer.kind->pan_interval_us : 100e3;
            double share = static_cast<double>(viewer.number) * 0.6180339887498949;
            viewer.act_us = now + interval * (share - static_cast<double>(static_cast<int64_t>(share)));
            acting_.push_back(&viewer);
        }
    }

    void on_message(Viewer& viewer, const Json& message) {
        Group& group = *viewer.kind->group;
        group.messages++;
        std::string type = message.text_or("type", "");
        if (type == "error") {
            group.fault("error: " + message.text_or("code", "?"), message.text_or("message", ""));
        } else if (type == "delta") {
            group.fault("delta: its type is not its first member");
        } else if (type == "check" && viewer.check == 1) {
            viewer.check = 2;
            checked.answered++;
            char digest[16];
            std::snprintf(digest, sizeof digest, "%08x", viewer.mirror.digest(ids));
            checked.pending += message.number_or("pending", 1) != 0;
            bool is_right = message.number_or("seq", -1) == static_cast<double>(viewer.mirror.seq()) &&
                            message.number_or("count", -1) == static_cast<double>(viewer.mirror.size()) &&
                            message.text_or("digest", "") == digest;
            checked.wrong += !is_right;
        }
    }

    // Once an interval: a SLOW one reads what it may, a PANNING one looks beside where it looked.
    void act(Viewer& viewer, double now) {
        const Kind& kind = *viewer.kind;
        if (kind.mode == Mode::SLOW) {
            viewer.act_us = now + 100e3;
            read(viewer, static_cast<size_t>(std::max(kind.read_bytes_per_s / 10, 1.0)));
            return;
        }
        auto missed = static_cast<double>(static_cast<int64_t>((now - viewer.act_us) / kind.pan_interval_us));
        viewer.act_us += kind.pan_interval_us * (1 + missed);
        if (viewer.view_sent_us != 0) {
            return;  // a person does not pan on before anything is seen
        }
        bool is_back = viewer.view_id / PAN_STEPS % 2 != 0;
        for (auto& [name, value] : viewer.view.members) {
            if (name == "bbox" && value.items.size() == 4) {
                double step = (value.items[2].number - value.items[0].number) * kind.pan_share * (is_back ? -1 : 1);
                value.items[0] = Json(value.items[0].number + step);
                value.items[2] = Json(value.items[2].number + step);
            }
        }
        say_view(viewer, now);
    }

    void end(Viewer& viewer, const std::string& how) {
        if (!viewer.has_ended) {
            viewer.has_ended = true;
            viewer.kind->group->closed[how]++;
            unfilled_ -= !viewer.mirror.is_filled && unfilled_ != 0;
            viewer.wire.close();
        }
    }

    int epoll_;
    std::vector<char> shared_;
    Delta delta_;
    JsonDelta<false> json_{ids, texts, delta_};
    JsonDelta<true> whole_json_{ids, texts, delta_};
    PackDelta<false> pack_{ids, texts, delta_};
    PackDelta<true> whole_pack_{ids, texts, delta_};
    std::vector<std::unique_ptr<Kind>> kinds_;
    std::deque<Viewer*> waiting_;   // to be connected
    std::vector<Viewer*> acting_;   // SLOW and PANNING ones, filled
    size_t unfilled_ = 0;           // begun and not filled
    uint64_t opened_ = 0;
    double ticked_us_ = 0;
};

}  // namespace bench
