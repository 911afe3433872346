// Viewers on tile subjects over nats-server: each subscribes, over WebSocket, to the tiles that its view touches; the
// publisher, over TCP, publishes each change to the subject of its tile.
//
// Law: as little on the wire as would do: a move is ["bus-7",version,lon,lat]. Where a move crosses into another tile it is
// published to the old one too, with a mark, before the new one: else whoever looks at the old tile alone keeps a ghost.

#include "peer_crowd.h"

namespace {

constexpr double TILE_DEGREES = 0.02;
int tile(double degrees) { return static_cast<int>(std::floor(degrees / TILE_DEGREES)); }

struct Nats {
    static constexpr Fill fill = Fill::after;
    static constexpr bool tells_leaving = true, is_websocket = true, has_lines = false;
    static constexpr const char* path = "/";

    template <class C> std::string greeting(const C& crowd, uint32_t viewer) {
        const View& view = crowd.city.views[viewer];
        std::string text = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c++\",\"version\":\"1\",\"protocol\":1}\r\n";
        int sid = 0;
        for (int x = tile(view.west); x <= tile(view.east); ++x) {
            for (int y = tile(view.south); y <= tile(view.north); ++y) {
                text += "SUB " + subject(x, y) + " " + std::to_string(++sid) + "\r\n";
            }
        }
        return websocket::frame(text + "PING\r\n", false);
    }

    template <class C> size_t take(C& crowd, Viewer& viewer, const char* data, size_t size, double now) {
        const char *at = data, *const end = data + size;
        while (const char* line_end = static_cast<const char*>(std::memchr(at, '\n', static_cast<size_t>(end - at)))) {
            if (at[0] == 'M') {
                size_t payload = 0, place = 1;
                for (const char* digit = line_end - 2; *digit != ' '; --digit, place *= 10) payload += static_cast<size_t>(*digit - '0') * place;
                const char* body = line_end + 1;
                if (static_cast<size_t>(end - body) < payload + 2) break;
                take_move(crowd, viewer.number, body, payload, now);
                at = body + payload + 2;
                continue;
            }
            if (at[0] == 'P' && at[1] == 'O') viewer.is_ready = true; // PONG: its subscriptions stand
            else if (at[0] == 'P') send(viewer.fd, PONG.data(), PONG.size(), MSG_NOSIGNAL);
            else if (at[0] == '-') ++crowd.errors;
            at = line_end + 1;
        }
        return static_cast<size_t>(at - data);
    }

    template <class C> std::string publisher_greeting(const C&) { return "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"; }

    void announce(std::string& out, uint32_t entity, uint64_t version, const Place* old, const Place& place) {
        const int x = tile(place.lon), y = tile(place.lat);
        if (old && (tile(old->lon) != x || tile(old->lat) != y)) add(out, tile(old->lon), tile(old->lat), entity, version, place, ",1");
        add(out, x, y, entity, version, place, "");
    }

    template <class C> void take_answers(C& crowd, const char* data, size_t size, std::string& out) {
        const std::string_view text(data, size);
        crowd.errors += text.find("-ERR") != std::string_view::npos;
        if (text.find("PING\r\n") != std::string_view::npos) out += "PONG\r\n";
    }

  private:
    const std::string PONG = websocket::frame("PONG\r\n", false);

    static std::string subject(int x, int y) { return "t." + std::to_string(x) + "." + std::to_string(y); }

    static void add(std::string& out, int x, int y, uint32_t entity, uint64_t version, const Place& place, const char* mark) {
        char body[120], head[80];
        const int size = std::snprintf(body, sizeof body, "[\"bus-%u\",%llu,%.6f,%.6f%s]", entity,
                                       static_cast<unsigned long long>(version), place.lon, place.lat, mark);
        const int head_size = std::snprintf(head, sizeof head, "PUB t.%d.%d %d\r\n", x, y, size);
        out.append(head, static_cast<size_t>(head_size)).append(body, static_cast<size_t>(size)).append("\r\n");
    }

    template <class C> static void take_move(C& crowd, uint32_t viewer, const char* body, size_t size, double now) {
        const char* at = body + 6; // behind ["bus-
        uint32_t entity = 0;
        for (; *at != '"'; ++at) entity = entity * 10 + static_cast<uint32_t>(*at - '0');
        uint64_t version = 0;
        for (at += 2; *at != ','; ++at) version = version * 10 + static_cast<uint64_t>(*at - '0');
        const bool is_marked = body[size - 2] == '1' && body[size - 3] == ',';
        bool is_extra = false;
        if (is_marked) {
            const Place& place = crowd.city.moved[version - crowd.city.first.size() - 1];
            const View& view = crowd.city.views[viewer];
            const int x = tile(place.lon), y = tile(place.lat);
            is_extra = tile(view.west) <= x && x <= tile(view.east) && tile(view.south) <= y && y <= tile(view.north);
        }
        crowd.tally.told(viewer, version, now, is_extra);
        if (!crowd.tally.is_sampled(viewer) || is_extra) return;
        char* rest = nullptr;
        const double lon = std::strtod(at + 1, &rest), lat = std::strtod(rest + 1, nullptr);
        crowd.tally.hold(viewer, entity, version, lon, lat);
    }
};

} // namespace

int main(int count, char** arguments) { return load_main<Nats>(count, arguments); }
