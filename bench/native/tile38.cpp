// Viewers of Tile38: one geofence channel for each, subscribed to over a connection of its own; the publisher sets points.
//
// Law: a fence detects `inside` and `exit` and nothing else, so that a change is told once (an `enter` comes with an
// `inside`). The version travels as a field of the point, as it has no other place there. What was there before is asked
// for by a search, as a fence does not tell it; only the sampled viewers do.

#include "peer_crowd.h"

namespace {

struct Tile38 {
    static constexpr Fill fill = Fill::before;
    static constexpr bool tells_leaving = true, is_websocket = false, has_lines = false;
    static constexpr const char* path = "";

    template <class C> std::string greeting(const C& crowd, uint32_t viewer) {
        std::string text;
        if (crowd.tally.is_sampled(viewer)) text = "INTERSECTS fleet LIMIT 1000000 POINTS BOUNDS " + bounds(crowd.city.views[viewer]) + "\r\n";
        return text + "SUBSCRIBE v" + std::to_string(viewer) + "\r\n";
    }

    // Reads arrays of bulk strings (and what else answers a subscription) as far as they are whole.
    template <class C> size_t take(C& crowd, Viewer& viewer, const char* data, size_t size, double now) {
        size_t at = 0;
        for (size_t next; (next = skip(data, at, size)) != 0; at = next) {
            const std::string_view message(data + at, next - at);
            if (message[0] == '-') ++crowd.errors;
            else if (message.find("\r\nsubscribe\r\n") != std::string_view::npos) viewer.is_ready = true;
            else if (message.substr(0, 4) == "*2\r\n") take_found(crowd, viewer.number, message);
            else take_fence(crowd, viewer.number, message, now);
        }
        return at;
    }

    template <class C> std::string publisher_greeting(const C& crowd) {
        std::string text;
        for (size_t viewer = 0; viewer < crowd.city.views.size(); ++viewer) {
            text += "SETCHAN v" + std::to_string(viewer) + " INTERSECTS fleet FENCE DETECT inside,exit BOUNDS " + bounds(crowd.city.views[viewer]) +
                    "\r\n";
        }
        return text;
    }

    void announce(std::string& out, uint32_t entity, uint64_t version, const Place*, const Place& place) {
        char line[160];
        const int size = std::snprintf(line, sizeof line, "SET fleet bus-%u FIELD version %llu POINT %.6f %.6f\r\n", entity,
                                       static_cast<unsigned long long>(version), place.lat, place.lon);
        out.append(line, static_cast<size_t>(size));
    }

    template <class C> void take_answers(C& crowd, const char* data, size_t size, std::string&) {
        crowd.answers += static_cast<size_t>(std::count(data, data + size, '\n'));
        crowd.errors += static_cast<size_t>(std::count(data, data + size, '-')); // else there are +OK and integers
    }

  private:
    static std::string bounds(const View& view) {
        char text[120];
        std::snprintf(text, sizeof text, "%.6f %.6f %.6f %.6f", view.south, view.west, view.north, view.east);
        return text;
    }

    // Takes what a search found: for each point its id, its latitude and longitude, its fields by name.
    template <class C> static void take_found(C& crowd, uint32_t viewer, std::string_view message) {
        constexpr std::string_view ID = "\r\nbus-", VERSION = "\r\nversion\r\n";
        const auto value = [&](size_t& at) { // of the bulk string whose length begins at `at`; `at` goes behind it
            at = message.find("\r\n", at) + 2;
            const char* text = message.data() + at;
            at = message.find("\r\n", at) + 2;
            return text;
        };
        for (size_t at = 0; (at = message.find(ID, at)) != std::string_view::npos;) {
            const auto entity = static_cast<uint32_t>(std::strtoul(message.data() + at + ID.size(), nullptr, 10));
            at = message.find('$', at);
            const double lat = std::strtod(value(at), nullptr), lon = std::strtod(value(at), nullptr);
            at = message.find(VERSION, at) + VERSION.size();
            crowd.tally.hold(viewer, entity, std::strtoull(value(at), nullptr, 10), lon, lat);
        }
    }

    // Returns where the value at `at` ends; 0 if that has not come yet.
    static size_t skip(const char* data, size_t at, size_t size) {
        size_t values = 1;
        while (values-- > 0) {
            if (at >= size) return 0;
            const char* line_end = static_cast<const char*>(std::memchr(data + at, '\n', size - at));
            if (!line_end) return 0;
            const char kind = data[at];
            const long count = std::strtol(data + at + 1, nullptr, 10);
            at = static_cast<size_t>(line_end - data) + 1;
            if (kind == '*') values += static_cast<size_t>(count);
            else if (kind == '$' && count >= 0) at += static_cast<size_t>(count) + 2;
            if (at > size) return 0;
        }
        return at;
    }

    template <class C> static void take_fence(C& crowd, uint32_t viewer, std::string_view message, double now) {
        constexpr std::string_view DETECT = "\"detect\":\"", ID = "\"id\":\"bus-", PLACE = "\"coordinates\":[", VERSION = "\"version\":";
        const size_t detect = message.find(DETECT), version_at = message.rfind(VERSION);
        if (detect == std::string_view::npos || version_at == std::string_view::npos) return;
        const uint64_t version = std::strtoull(message.data() + version_at + VERSION.size(), nullptr, 10);
        crowd.tally.told(viewer, version, now);
        if (!crowd.tally.is_sampled(viewer)) return;
        const size_t id = message.find(ID), place = message.find(PLACE);
        const auto entity = static_cast<uint32_t>(std::strtoul(message.data() + id + ID.size(), nullptr, 10));
        char* rest = nullptr;
        const double lon = std::strtod(message.data() + place + PLACE.size(), &rest), lat = std::strtod(rest + 1, nullptr);
        crowd.tally.hold(viewer, entity, version, lon, lat, message[detect + DETECT.size()] == 'e');
    }
};

} // namespace

int main(int count, char** arguments) { return load_main<Tile38>(count, arguments); }
