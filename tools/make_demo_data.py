"""Writes the towns of the demo: the 5,000 largest of GeoNames' cities1000 (CC BY 4.0).

    python tools/make_demo_data.py places.csv.gz realtime/demo/data

`places.csv.gz` has the columns geonameid,lon,lat,population,country,timezone,name, sorted by population. Run once; the
result is committed.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from itertools import islice
from pathlib import Path

TOWNS = 5000


def main() -> None:
    """Read the source and write towns_geonames_5000.csv.gz."""
    source, target = map(Path, sys.argv[1:])
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        rows = list(islice(csv.DictReader(file), TOWNS))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "lon", "lat", "population", "country", "name"])
    for row in rows:
        writer.writerow([row["geonameid"], row["lon"], row["lat"], row["population"], row["country"], row["name"]])
    # Without a time in the head, so that the same source gives the same file.
    (target / "towns_geonames_5000.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


if __name__ == "__main__":
    main()
