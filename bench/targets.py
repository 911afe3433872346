"""What the project promises of its speed and size, each promise once.

Law: a bound stands here and nowhere else; a command names the promise by its key and gets bound, unit and wording from
here, so that the table of `python -m bench all`, the report and the verdict of a single command cannot disagree.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

LESS: Final = "less"


class Target(NamedTuple):
    """One promise. `better` says on which side of `bound` a figure has to be; the bound itself is good enough."""

    text: str
    bound: float
    unit: str
    better: Literal["more", "less"] = "more"


TARGETS: dict[str, Target] = {
    "engine_pairs": Target("engine alone: (change, session) pairs matched, framed and drained", 15e6, "pairs/s"),
    "engine_changes": Target("engine alone: changes applied and drained to all", 400e3, "changes/s"),
    "deltas_1000": Target("1,000 connections, in-process publishing, one core", 10e6, "deltas/s"),
    "deltas_5000": Target("5,000 connections, in-process publishing, one core", 5e6, "deltas/s"),
    "ndjson_changes": Target("changes taken in as NDJSON over HTTP, while delivering", 150e3, "changes/s"),
    "yardstick_1000": Target("frames/s against a bare send() loop, 1,000 sockets", 0.85, "x"),
    "yardstick_5000": Target("frames/s against a bare send() loop, 5,000 sockets", 0.85, "x"),
    "rtree_query_10000": Target("R-tree query against Boost.Geometry, 10,000 viewports", 1.0, "x"),
    "rtree_insert_10000": Target("R-tree insert against Boost.Geometry, 10,000 viewports", 1.0, "x"),
    "rtree_move_10000": Target("R-tree move against Boost.Geometry, 10,000 viewports", 1.0, "x"),
    "rtree_query_1000000": Target("R-tree query against Boost.Geometry, 1,000,000 viewports", 1.0, "x"),
    "rtree_insert_1000000": Target("R-tree insert against Boost.Geometry, 1,000,000 viewports", 1.0, "x"),
    "rtree_move_1000000": Target("R-tree move against Boost.Geometry, 1,000,000 viewports", 1.0, "x"),
    "viewports_cost": Target("cost of a change with as many viewers at its place, 1,000,000 viewports against 10,000", 3.0, "x", LESS),
    "idle_p50": Target("publish to receive on an idle server, p50", 1.0, "ms", LESS),
    "idle_p99": Target("publish to receive on an idle server, p99", 3.0, "ms", LESS),
    "half_p99": Target("publish to receive at half of capacity, 1 % of the clients stalled, p99", 25.0, "ms", LESS),
    "bus_changes": Target("changes through Valkey to a second node, on two cores", 200e3, "changes/s"),
    "bus_bare": Target("the same against a bare redis-py pipeline of the same bytes", 0.5, "x"),
    "start_1000000": Target("start of a node on 1,000,000 stored entities", 15.0, "s", LESS),
    "connection_bytes": Target("resident memory per idle connection with a view", 7000.0, "bytes", LESS),
    "entity_bytes": Target("resident memory per point entity, beside its own JSON", 400.0, "bytes", LESS),
    "replaced": Target("changes/s against the design that it replaces, same workload", 500.0, "x"),
    "nats": Target("deliveries/s against tile subjects over NATS, same workload, one core each", 4.0, "x"),
}
