// See geometries.h.

#include "geometries.h"

#include <algorithm>

#include "canonical.h"

namespace realtime {

namespace {

constexpr std::string_view TYPE_HEAD = R"({"type":")";
constexpr std::string_view COORDINATES_HEAD = R"(","coordinates":)";

struct Kind {
    std::string_view name;
    int nesting;       // of arrays around a position
    int part_nesting;  // of those around a position of one part: a polygon is a part, its rings are not
    bool is_line;
    bool is_polygon;
};

constexpr Kind KINDS[] = {
    {"MultiPoint", 1, 0, false, false},      {"LineString", 1, 1, true, false}, {"MultiLineString", 2, 1, true, false},
    {"Polygon", 2, 2, false, true},          {"MultiPolygon", 3, 2, false, true},
};

constexpr Box NOWHERE{1e9, 1e9, -1e9, -1e9};

void widen(Box& box, const Box& by) {
    box.min_x = std::min(box.min_x, by.min_x);
    box.min_y = std::min(box.min_y, by.min_y);
    box.max_x = std::max(box.max_x, by.max_x);
    box.max_y = std::max(box.max_y, by.max_y);
}

// Reads the coordinates of what is no Point, and keeps the boxes around all of them and around those that lie in the east
// and in the west.
class Coordinates {
   public:
    Coordinates(CanonicalText& text, const Kind& kind) : text_(text), kind_(kind) {}

    bool read() { return read(kind_.nesting); }
    void name_boxes(Geometry& out) const {
        out.box_count = whole_.min_x > -180.0 || whole_.max_x < 180.0 || is_around_ ? 1 : 2;
        out.boxes[0] = out.box_count == 1 ? whole_ : east_;
        out.boxes[1] = west_;
    }

   private:
    bool read(int nesting) {
        if (nesting == kind_.part_nesting) {
            part_ = NOWHERE;
        }
        if (!(nesting == 0 ? read_position() : read_array(nesting))) {
            return false;
        }
        if (nesting == kind_.part_nesting) {
            end_part();
        }
        return true;
    }

    bool read_array(int nesting) {
        if (!text_.take('[')) {
            return false;
        }
        std::string_view first, last;
        size_t count = 0;
        do {
            const char* const start = text_.here();
            if (!read(nesting - 1)) {
                return false;
            }
            last = text_.since(start);
            first = count++ ? first : last;
        } while (text_.take(','));
        if (nesting == 1 && ((kind_.is_line && count < 2) || (kind_.is_polygon && (count < 4 || first != last)))) {
            return false;
        }
        return text_.take(']');
    }

    bool read_position() {
        double lon, lat, height;
        if (!text_.take('[') || !text_.number(lon) || !text_.take(',') || !text_.number(lat)) {
            return false;
        }
        if (text_.take(',') && !text_.number(height)) {
            return false;
        }
        if (!text_.take(']') || !(lon >= -180.0 && lon <= 180.0 && lat >= -90.0 && lat <= 90.0)) {
            return false;
        }
        widen(part_, {lon, lat, lon, lat});
        return true;
    }

    void end_part() {
        widen(whole_, part_);
        is_around_ |= part_.min_x == -180.0 && part_.max_x == 180.0;
        widen(part_.min_x + part_.max_x >= 0.0 ? east_ : west_, part_);
    }

    CanonicalText& text_;
    const Kind& kind_;
    Box whole_ = NOWHERE, east_ = NOWHERE, west_ = NOWHERE, part_ = NOWHERE;
    bool is_around_ = false;  // one part touches both 180 and -180
};

bool read_point(CanonicalText& text, Geometry& out) {
    double lon, lat, height;
    if (!text.take('[')) {
        return false;
    }
    const char* const start = text.here();
    if (!text.number(lon) || !text.take(',') || !text.number(lat)) {
        return false;
    }
    out.is_point = !text.at(',');
    if (out.is_point) {
        out.text = text.since(start);
    } else if (!text.take(',') || !text.number(height)) {
        return false;
    }
    out.boxes[0] = {lon, lat, lon, lat};
    out.box_count = 1;
    return text.take(']') && lon >= -180.0 && lon <= 180.0 && lat >= -90.0 && lat <= 90.0;
}

}  // namespace

bool read_geometry(std::string_view json, Geometry& out) {
    CanonicalText text(json);
    out.text = json;
    out.is_point = false;
    if (!text.take(TYPE_HEAD)) {
        return false;
    }
    if (text.take("Point\",\"coordinates\":")) {
        return read_point(text, out) && text.take('}') && text.is_over();
    }
    for (const Kind& kind : KINDS) {
        if (text.take(kind.name)) {
            Coordinates coordinates(text, kind);
            if (!text.take(COORDINATES_HEAD) || !coordinates.read()) {
                return false;
            }
            coordinates.name_boxes(out);
            return text.take('}') && text.is_over();
        }
    }
    return false;
}

}  // namespace realtime
