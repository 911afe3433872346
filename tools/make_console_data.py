"""Writes what the console draws below the entities: land outlines and the names of large towns.

    npm install world-atlas@2
    python tools/make_console_data.py node_modules/world-atlas/land-50m.json places.csv.gz realtime/web/console

`places.csv.gz` has the columns geonameid,lon,lat,population,country,timezone,name, sorted by population (made from the
cities1000 file of GeoNames, CC BY 4.0). The land is Natural Earth's, 1:50 million, public domain. Run once; the result
is committed.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import sys
from pathlib import Path
from typing import Any

SCALE = 50  # steps per degree: two kilometres, as fine as the source is
PLACES = 3000


Ring = list[tuple[float, float]]


def polygons_of(topology: dict[str, Any]) -> list[list[Ring]]:
    """Return all land polygons, in degrees, from TopoJSON (https://github.com/topojson/topojson-specification)."""
    scale_x, scale_y = topology["transform"]["scale"]
    move_x, move_y = topology["transform"]["translate"]
    arcs = []
    for arc in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append((x * scale_x + move_x, y * scale_y + move_y))
        arcs.append(points)
    polygons = []
    for geometry in topology["objects"]["land"]["geometries"]:
        for polygon in geometry["arcs"] if geometry["type"] == "MultiPolygon" else [geometry["arcs"]]:
            rings = []
            for indices in polygon:
                ring: Ring = []
                for index in indices:
                    arc = arcs[index] if index >= 0 else arcs[~index][::-1]
                    ring.extend(arc if not ring else arc[1:])
                rings.append(unwrapped(ring))
            polygons.append(rings)
    return polygons


def unwrapped(ring: Ring) -> Ring:
    """Return a ring that jumps across the antimeridian as one that goes on beyond it, or around the south pole."""
    result = [ring[0]]
    turns = 0
    for (before, _), (x, y) in itertools.pairwise(ring):
        if abs(x - before) > 180:
            turns += 360 if x < before else -360
        result.append((x + turns, y))
    if turns:  # it does not come back to where it began: Antarctica
        result += [(result[-1][0], -90.0), (result[0][0], -90.0), result[0]]
    xs = [x for x, _ in result]
    home = round((min(xs) + max(xs)) / 720) * 360  # into the copy of the world where its middle is
    return [(x - home, y) for x, y in result]


def pack(ring: Ring) -> list[int]:
    """Return a ring as [x, y, dx, dy, …] in steps, without points that fall on their predecessor."""
    steps = [(round(x * SCALE), round(y * SCALE)) for x, y in ring]
    kept = [point for i, point in enumerate(steps) if i == 0 or point != steps[i - 1]]
    flat = [*kept[0]]
    for (x0, y0), (x1, y1) in itertools.pairwise(kept):
        flat += (x1 - x0, y1 - y0)
    return flat


def main() -> None:
    """Read the two sources and write land.json and places.json."""
    land, places, target = map(Path, sys.argv[1:])
    polygons = [[pack(ring) for ring in polygon] for polygon in polygons_of(json.loads(land.read_text()))]
    visible = [[ring for ring in polygon if len(ring) >= 8] for polygon in polygons]
    result = {"steps_per_degree": SCALE, "polygons": [polygon for polygon in visible if polygon]}
    (target / "land.json").write_text(json.dumps(result, separators=(",", ":")))
    with gzip.open(places, "rt", encoding="utf-8", newline="") as file:
        rows = [row for _, row in zip(range(PLACES), csv.DictReader(file), strict=False)]
    names = [[row["name"], round(float(row["lon"]), 3), round(float(row["lat"]), 3), int(row["population"])] for row in rows]
    (target / "places.json").write_text(json.dumps(names, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
