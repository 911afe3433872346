// The load client: thousands of viewers in one process, that obeys one JSON object a line on stdin.
//
//     {"number":1,"do":"connect","host":"127.0.0.1","port":8765,"encoding":"json","group":"readers","mode":"reader",
//      "level":"versions","viewers":[{"view":{"bbox":[…],"zoom":12},"token":"…","whole":true}],"patience_s":60}
//
// Law: each command is answered by one line with its `number`; what ends stdin ends the process. Commands are in `Commands`.

#include <fcntl.h>
#include <malloc.h>
#include <sys/resource.h>

#include <cstdlib>

#include "loader.h"

namespace bench {
namespace {

class Commands {
public:
    explicit Commands(Loader& loader) : loader_(loader) {}

    bool is_over = false;

    void feed(std::string_view data) {
        size_t begin = 0;
        for (size_t stop; (stop = data.find('\n', begin)) != std::string_view::npos; begin = stop + 1) {
            line_ += data.substr(begin, stop - begin);
            obey(line_);
            line_.clear();
        }
        line_ += data.substr(begin);
    }

    // Answers what takes its time.
    void tick(double now) {
        if (connecting_ >= 0 && (!loader_.is_connecting() || now >= connecting_until_us_)) {
            uint64_t filled = 0, open = 0;
            for (const auto& viewer : loader_.viewers) {
                bool is_meant = viewer->kind->group == connecting_group_;
                filled += is_meant && viewer->mirror.is_filled && !viewer->has_ended;
                open += is_meant && viewer->wire.is_open();
            }
            loader_.give_up();
            Json made = Json::object();
            made.set("open", open).set("filled", filled).set("closed", Group::counts(connecting_group_->closed));
            answer(connecting_, made.set("faults", Group::counts(connecting_group_->faults)));
            connecting_ = -1;
        }
        if (checking_ >= 0 && (loader_.checked.answered == loader_.checked.asked || now >= checking_until_us_)) {
            const Loader::Checked& found = loader_.checked;
            Json made = Json::object();
            made.set("asked", found.asked).set("answered", found.answered).set("wrong", found.wrong);
            answer(checking_, made.set("pending", found.pending));
            checking_ = -1;
        }
    }

private:
    void obey(const std::string& line) {
        int64_t number = -1;
        try {
            Json command = JsonReader::read(line);
            number = command.at("number").integer;
            perform(number, command, command.at("do").text);
        } catch (const std::invalid_argument& error) {
            answer(number, Json::object().set("error", error.what()));
        }
    }

    void perform(int64_t number, const Json& command, const std::string& what) {
        if (what == "connect") {
            connect(number, command);
        } else if (what == "check") {
            check(number, command);
        } else if (what == "stats") {
            answer(number, stats());
        } else if (what == "mirrors") {
            answer(number, Json::object().set("written", write_mirrors(command.at("path").text)));
        } else if (what == "quit") {
            answer(number, Json::object());
            is_over = true;
        } else {
            at_once(command, what);
            answer(number, Json::object().set("at", now_us() * 1e-6));
        }
    }

    void at_once(const Json& command, const std::string& what) {
        if (what == "schedule") {
            double rate = command.at("rate").number;
            loader_.schedule = {true, command.at("start").number * 1e6, 1e6 / rate,
                                static_cast<uint32_t>(command.at("first_version").number)};
        } else if (what == "reset_counts") {
            for (auto& [name, group] : loader_.groups) {
                group->restart();
            }
            loader_.turn_us.restart();
            loader_.turns = 0;
        } else if (what == "send" || what == "stall" || what == "hold" || what == "resume" || what == "close") {
            Group* group = &loader_.group(command.at("group").text);
            for (const auto& viewer : loader_.viewers) {
                if (viewer->kind->group != group || viewer->has_ended) {
                    continue;
                }
                if (what == "send") {
                    loader_.say(*viewer, command.at("message"));
                } else if (what == "close") {
                    loader_.leave(*viewer);
                } else if (what == "hold") {
                    viewer->is_held = true;
                } else {
                    viewer->is_held = false;
                    loader_.set_reading(*viewer, what == "resume");
                }
            }
            if (what == "close") {
                loader_.forget(group);
            }
        } else {
            throw std::invalid_argument(
                "do: connect, schedule, reset_counts, stats, mirrors, check, send, stall, hold, resume, close, quit");
        }
    }

    void connect(int64_t number, const Json& command) {
        if (connecting_ >= 0) {
            throw std::invalid_argument("connect: the one before is not done");
        }
        static constexpr const char* MODES[] = {"reader", "slow", "stalled", "panning"};
        static constexpr const char* LEVELS[] = {"count", "versions", "whole"};
        auto kind = std::make_unique<Kind>();
        std::string host = command.at("host").text;
        auto port = static_cast<uint16_t>(command.at("port").number);
        kind->group = connecting_group_ = &loader_.group(command.at("group").text);
        kind->to.sin_family = AF_INET;
        kind->to.sin_port = htons(port);
        if (inet_pton(AF_INET, host.c_str(), &kind->to.sin_addr) != 1) {
            throw std::invalid_argument("host: an IPv4 address is expected");
        }
        kind->host = host + ":" + std::to_string(port);
        kind->is_text = command.text_or("encoding", "json") == "json";
        kind->mode = static_cast<Mode>(place_in(MODES, command.text_or("mode", "reader"), "mode"));
        kind->receive_buffer_bytes = static_cast<int>(command.number_or("receive_buffer_bytes", 0));
        kind->read_bytes_per_s = command.number_or("read_bytes_per_s", 1000);
        kind->pan_interval_us = command.number_or("pan_interval_ms", 1000) * 1e3;
        kind->pan_share = command.number_or("pan_share", 0.2);
        auto level = static_cast<Level>(place_in(LEVELS, command.text_or("level", "versions"), "level"));
        loader_.add(std::move(kind), command.at("viewers"), level);
        connecting_ = number;
        connecting_until_us_ = now_us() + command.number_or("patience_s", 60) * 1e6;
    }

    template <size_t N>
    static size_t place_in(const char* const (&names)[N], const std::string& name, const char* what) {
        for (size_t i = 0; i < N; i++) {
            if (name == names[i]) {
                return i;
            }
        }
        throw std::invalid_argument(std::string(what) + ": unknown");
    }

    // Asks for a check on at most `count` of a group's connections, evenly spread.
    void check(int64_t number, const Json& command) {
        if (checking_ >= 0) {
            throw std::invalid_argument("check: the one before is not done");
        }
        const Group* group = &loader_.group(command.at("group").text);
        std::vector<Viewer*> open;
        for (const auto& viewer : loader_.viewers) {
            if (viewer->kind->group == group && viewer->wire.is_open() && viewer->mirror.level() != Level::COUNT) {
                open.push_back(viewer.get());
            }
        }
        size_t count = std::min(static_cast<size_t>(command.number_or("count", 1e9)), open.size());
        loader_.checked = {};
        for (size_t i = 0; i < count; i++) {
            loader_.ask_check(*open[i * open.size() / count]);
        }
        checking_ = number;
        checking_until_us_ = now_us() + command.number_or("patience_s", 60) * 1e6;
    }

    Json stats() const {
        rusage usage{};
        getrusage(RUSAGE_SELF, &usage);
        auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6; };
        std::map<const Group*, std::pair<uint64_t, uint64_t>> held;  // connections, entities
        uint64_t checked = 0, whole = 0;
        for (const auto& viewer : loader_.viewers) {
            if (viewer->wire.is_open()) {
                held[viewer->kind->group].first++;
                held[viewer->kind->group].second += viewer->mirror.size();
                checked += viewer->mirror.level() != Level::COUNT;
                whole += viewer->mirror.level() == Level::WHOLE;
            }
        }
        Json groups = Json::object();
        for (const auto& [name, group] : loader_.groups) {
            groups.set(name, group->summary().set("open", held[group.get()].first).set("held", held[group.get()].second));
        }
        Json made = Json::object();
        made.set("at", now_us() * 1e-6).set("cpu_s", seconds(usage.ru_utime) + seconds(usage.ru_stime));
        made.set("user_s", seconds(usage.ru_utime)).set("turns", loader_.turns).set("turns_ms", loader_.turn_us.summary(1e-3));
        made.set("checked_connections", checked).set("whole_connections", whole).set("groups", std::move(groups));
        return made;
    }

    // Writes the mirrors that are held whole, one JSON object a line: where it looks, and what it shows.
    uint64_t write_mirrors(const std::string& path) const {
        std::FILE* file = std::fopen(path.c_str(), "w");
        if (file == nullptr) {
            throw std::invalid_argument("path: " + std::string(std::strerror(errno)));
        }
        uint64_t written = 0;
        for (const auto& viewer : loader_.viewers) {
            if (viewer->mirror.sample() == nullptr) {
                continue;
            }
            std::string line = "{\"group\":";
            write_text(line, viewer->kind->group->name);
            line += ",\"viewer\":" + std::to_string(viewer->number) + ",\"is_open\":" + (viewer->wire.is_open() ? "true" : "false");
            line += ",\"sampled\":";
            write_number(line, viewer->mirror.sampled());
            line += ",\"view\":" + to_json(viewer->view) + ",\"entities\":[";
            const char* between = "";
            for (const auto& [key, state] : viewer->mirror.sample()->states) {
                line += between;
                write_state(line, loader_.ids.name(key), viewer->mirror.version(key), state);
                between = ",";
            }
            line += "]}\n";
            written += std::fwrite(line.data(), 1, line.size(), file) == line.size();
        }
        if (std::fclose(file) != 0) {
            throw std::invalid_argument("path: it could not be written");
        }
        return written;
    }

    // [id, version, geometry, properties, kind]; a Point is [lon, lat].
    void write_state(std::string& line, const std::string& id, uint32_t version, const State& state) const {
        line += '[';
        write_text(line, id);
        line += "," + std::to_string(version) + ",";
        if (state.place.geometry != 0) {
            line += loader_.texts[state.place.geometry];
        } else {
            line += '[';
            write_number(line, state.place.lon);
            line += ',';
            write_number(line, state.place.lat);
            line += ']';
        }
        const char* between = ",{";
        for (const Property& property : state.properties) {
            line += between + loader_.texts[property.name] + ":" + loader_.texts[property.value];
            between = ",";
        }
        line += state.properties.empty() ? ",{}," : "},";
        line += (state.kind == 0 ? "null" : loader_.texts[state.kind]) + "]";
    }

    void answer(int64_t number, Json result) {
        std::string line = to_json(result.set("number", number)) + "\n";
        std::fwrite(line.data(), 1, line.size(), stdout);
        std::fflush(stdout);
    }

    Loader& loader_;
    std::string line_;
    int64_t connecting_ = -1, checking_ = -1;  // numbers of commands that are under way
    double connecting_until_us_ = 0, checking_until_us_ = 0;
    Group* connecting_group_ = nullptr;
};

void run() {
    Loader loader;
    Commands commands(loader);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;
    if (epoll_ctl(loader.epoll(), EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0) {
        std::fprintf(stderr, "stdin: a pipe is expected\n");
        std::exit(2);
    }
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    std::vector<epoll_event> events(512);
    std::vector<char> input(1 << 16);
    while (!commands.is_over) {
        int count = epoll_wait(loader.epoll(), events.data(), static_cast<int>(events.size()), loader.patience_ms());
        double begun = now_us();
        bool has_input = false;
        for (int i = 0; i < count; i++) {
            if (events[static_cast<size_t>(i)].data.ptr != nullptr) {
                loader.on_event(*static_cast<Viewer*>(events[static_cast<size_t>(i)].data.ptr), events[static_cast<size_t>(i)].events);
            } else {
                has_input = true;
            }
        }
        if (has_input) {  // last, for a command may let viewers go that have events
            ssize_t got = read(STDIN_FILENO, input.data(), input.size());
            if (got == 0) {
                return;
            }
            commands.feed({input.data(), static_cast<size_t>(std::max<ssize_t>(got, 0))});
        }
        double now = now_us();
        loader.tick(now);
        commands.tick(now);
        if (count > 0) {
            loader.turns++;
            loader.turn_us.record(now - begun);
        }
    }
}

}  // namespace
}  // namespace bench

int main() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    mallopt(M_MMAP_THRESHOLD, 64 << 20);  // the rests of frames come and go; they shall not come from the kernel each time
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    bench::run();
    return 0;
}
