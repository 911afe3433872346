// Viewers of the design that is replaced: they identify, say what they look at, and get one message per event; the
// publisher publishes each change on its Redis channel.
//
// Law: what a view shows is what the last `replace-all` and the events after it said; nobody says that an entity left.

#include "peer_crowd.h"

namespace {

struct Replaced {
    static constexpr Fill fill = Fill::never;
    static constexpr bool tells_leaving = false, is_websocket = true, has_lines = true;
    static constexpr const char* path = "/";

    template <class C> std::string greeting(const C&, uint32_t viewer) {
        return websocket::frame("{\"type\":\"identify\",\"userId\":\"u" + std::to_string(viewer) + "\"}", true);
    }

    template <class C> size_t take(C& crowd, Viewer& viewer, const char* data, size_t size, double now) {
        const std::string_view text(data, size);
        size_t at = 0;
        for (size_t end; (end = text.find('\n', at)) != std::string_view::npos; at = end + 1) {
            const std::string_view message = text.substr(at, end - at);
            if (!viewer.is_ready && message.find("\"identified\"") != std::string_view::npos) look(viewer.fd, crowd.city.views[viewer.number]);
            viewer.is_ready |= message.find("\"replace-all\"") != std::string_view::npos;
            take_entities(crowd, viewer.number, message, now);
        }
        return at;
    }

    template <class C> std::string publisher_greeting(const C&) { return ""; }

    void announce(std::string& out, uint32_t entity, uint64_t version, const Place*, const Place& place) {
        char body[160], head[80];
        const int size = std::snprintf(body, sizeof body, "{\"id\":\"bus-%u\",\"version\":%llu,\"lon\":%.6f,\"lat\":%.6f}", entity,
                                       static_cast<unsigned long long>(version), place.lon, place.lat);
        const int head_size = std::snprintf(head, sizeof head, "*3\r\n$7\r\nPUBLISH\r\n$14\r\nentity-changes\r\n$%d\r\n", size);
        out.append(head, static_cast<size_t>(head_size)).append(body, static_cast<size_t>(size)).append("\r\n");
    }

    template <class C> void take_answers(C& crowd, const char* data, size_t size, std::string&) {
        crowd.errors += static_cast<size_t>(std::count(data, data + size, '-')); // else there are integers
    }

  private:
    static void look(int fd, const View& view) {
        char text[200];
        const int size = std::snprintf(text, sizeof text,
                                       "{\"type\":\"viewport-update\",\"viewport\":{\"west\":%.6f,\"south\":%.6f,\"east\":%.6f,\"north\":%.6f}}",
                                       view.west, view.south, view.east, view.north);
        const std::string frame = websocket::frame(std::string(text, static_cast<size_t>(size)), true);
        send(fd, frame.data(), frame.size(), MSG_NOSIGNAL);
    }

    template <class C> static void take_entities(C& crowd, uint32_t viewer, std::string_view message, double now) {
        constexpr std::string_view ID = "\"id\":\"bus-", VERSION = "\"version\":", LON = "\"lon\":", LAT = "\"lat\":";
        for (size_t at = 0; (at = message.find(ID, at)) != std::string_view::npos;) {
            const auto number = static_cast<uint32_t>(std::strtoul(message.data() + at + ID.size(), nullptr, 10));
            const uint64_t version = std::strtoull(message.data() + (at = message.find(VERSION, at)) + VERSION.size(), nullptr, 10);
            crowd.tally.told(viewer, version, now);
            if (!crowd.tally.is_sampled(viewer)) continue;
            const double lon = std::strtod(message.data() + (at = message.find(LON, at)) + LON.size(), nullptr);
            const double lat = std::strtod(message.data() + (at = message.find(LAT, at)) + LAT.size(), nullptr);
            crowd.tally.hold(viewer, number, version, lon, lat);
        }
    }
};

} // namespace

int main(int count, char** arguments) { return load_main<Replaced>(count, arguments); }
