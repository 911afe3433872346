// Geometries read from their canonical JSON.
//
// Law: a text is accepted exactly if `realtime.geo.parse_geometry` accepts what it stands for and writes the same bytes,
// and the boxes are the same.

#pragma once

#include <string_view>

#include "types.h"

namespace realtime {

// Reads `{"type":…,"coordinates":…}`, which must be UTF-8 and outlive the geometry. False: it is no geometry, or it is not
// canonical; then nothing in `out` means anything.
bool read_geometry(std::string_view json, Geometry& out);

}  // namespace realtime
