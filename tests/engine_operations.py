"""What the engine's state machine draws: updates, views, rights, budgets, states of other nodes.

Law: values are few and chosen, so that random operations meet: the same entities are changed again and again, most
views show most of them, and every edge (the antimeridian, the poles, a sample's threshold, a null) is hit often. All
that is drawn is valid; bad input is tested elsewhere.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.model_nodes import Told

IDS = [*(f"e{n}" for n in range(10)), "zürich–1"]
LONGITUDES = [-180, -179.5, -10, 0, 0.5, 10, 10.25, 179.5, 180]
LATITUDES = [-90, -1, 0, 0.5, 45.125, 90]
NUMBERS: list[Any] = [0, 1, 1.0, -0.0, 2.5, 2**53 + 1]
TREES: list[Any] = [[], [1, {"a": None}], {"b": {"c": [1.0]}}, {"b": {"c": [True]}}]
VALUES: list[Any] = [None, None, True, False, "", "x", "y", "ü", *NUMBERS, *TREES]

ids = st.sampled_from(IDS)
position = st.sampled_from([*product(LONGITUDES, LATITUDES)]).map(list)
point = position.map(lambda p: {"type": "Point", "coordinates": p})
high_point = position.map(lambda p: {"type": "Point", "coordinates": [*p, 12.5]})
line = st.lists(position, min_size=2, max_size=3).map(lambda ps: {"type": "LineString", "coordinates": ps})
polygon = st.lists(position, min_size=3, max_size=4).map(lambda ps: {"type": "Polygon", "coordinates": [[*ps, ps[0]]]})
points = st.lists(position, min_size=1, max_size=3).map(lambda ps: {"type": "MultiPoint", "coordinates": ps})
fiji = st.just({"type": "MultiLineString", "coordinates": [[[179.5, 0], [180, 0]], [[-180, 0], [-179.5, 0.5]]]})
geometry = st.one_of(point, point, point, high_point, line, polygon, points, fiji, fiji)
names = st.sampled_from(["a", "b", "c", "speed"])
properties = st.dictionaries(names, st.sampled_from(VALUES), max_size=4)
one_property = st.dictionaries(names, st.sampled_from(VALUES), min_size=1, max_size=1)

doomed = st.one_of(ids.map(lambda id: [id]), st.lists(ids, min_size=1, max_size=8, unique=True))

KINDS = [None, "bus", "tram"]
ZOOMS_MIN = [None, None, 0, 5, 10]
RANKS = [None, 0, 0.25, 0.5, 1]
ACCESSES: list[Any] = [None, None, ["public"], ["group:a"], ["user:u", "group:b"], []]
TTLS = [None, None, 0.25, 1, 3.5]
PLAIN: list[dict[str, Any]] = [
    {"properties": {}},
    {"properties": {"a": 1}},
    {"properties": {"b": "x"}, "min_zoom": 5},
    {"properties": {"b": [1], "c": "u"}, "kind": "bus"},
    {"properties": {"speed": 1.5}, "kind": "bus", "access": ["group:a"]},
    {"properties": None, "access": ["user:u", "group:b"]},
    {"properties": {"c": True}, "ttl": 0.25},
]
unseen = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(KINDS),
        "min_zoom": st.sampled_from(ZOOMS_MIN),
        "rank": st.sampled_from(RANKS),
        "access": st.sampled_from(ACCESSES),
        "ttl": st.sampled_from(TTLS),
    },
)
plain = st.builds(
    lambda geometry, members: {"geometry": geometry, **members}, st.one_of(point, point, point, point, point, fiji), st.sampled_from(PLAIN)
)
crowd = st.dictionaries(ids, plain, min_size=3, max_size=len(IDS))  # mostly of Points, so that they can be moved
version = st.one_of(st.none(), st.none(), st.integers(-3, 8))  # relative to the seen one

move = position.map(lambda p: {"op": "move", "lon": p[0], "lat": p[1]})
patch = properties.map(lambda ps: {"op": "patch", "properties": ps})
reshape = geometry.map(lambda g: {"op": "patch", "geometry": g})
single = st.sampled_from(
    [
        {"op": "delete"},
        *({"op": "patch", "kind": kind} for kind in KINDS),
        *({"op": "patch", "min_zoom": zoom} for zoom in ZOOMS_MIN[1:]),
        *({"op": "patch", "rank": rank} for rank in RANKS),
        *({"op": "patch", "access": access} for access in ACCESSES[1:]),
        *({"op": "patch", "ttl": ttl} for ttl in TTLS[1:]),
        {"op": "patch", "properties": {"a": None, "b": None}},
    ]
)
happening = st.one_of(move, move, patch, patch, reshape, single)  # a part of an entity changes; `id` is still to be named

WORLD_BOX = [-180, -90, 180, 90]
BOXES: list[Any] = [
    WORLD_BOX,
    WORLD_BOX,
    WORLD_BOX,
    [-200, -90, 200, 90],
    [-11, -90, 11, 90],
    [-11, -90, 11, 90],
    None,
    [-1, -1, 1, 1],
    [0, 0, 0, 0],
    [0.25, -1, 10, 46],
    [170, -10, 190, 10],
    [170, -10, 180, 10],
    [-180, -10, -179.75, 10],
    [530, -90, 545, 90],
]
FILTERS: list[Any] = [
    None,
    None,
    ["==", ["kind"], "bus"],
    [">", ["get", "a"], 0],
    ["any", ["has", "b"], ["==", ["get", "c"], ["user"]]],
    ["!", ["in", ["get", "a"], ["literal", [1, "x", True]]]],
    ["!", ["has", "a"]],
    ["!=", ["id"], "e1"],
]
view = st.fixed_dictionaries(
    {"bbox": st.sampled_from(BOXES)},
    optional={
        "zoom": st.sampled_from([3, 3, 5, 12]),
        "filter": st.sampled_from(FILTERS),
        "ids": st.lists(ids, max_size=3),
        "max_hz": st.sampled_from([0.5, 4, 8, 100]),
        "id": st.sampled_from([1, 2, "v"]),
    },
)
principals = st.sampled_from([(), ("group:a",), ("group:b",), ("user:u", "group:a")])

budget = st.sampled_from([1, 300, 450, 1_000, 1_000_000])  # bytes of a frame
soon = st.sampled_from([0, 0, 1, 450, 1_000_000, 1_000_000])  # the budget of a flush that follows one period later; 0: none follows


class MadeUp(NamedTuple):
    """A state that no engine told: its content, and how it is to be dated. `above` and `below` are versions, `ago` seconds."""

    how: str  # newer, mortal, due, dead, stale or unknown
    told: Told
    above: int
    below: int
    ago: float


_alive = st.builds(
    lambda id, geometry, properties, unseen: Told(
        id,
        by_publisher=unseen.get("rank") == 0,
        access=frozenset(unseen.get("access") or ["public"]),
        ttl=unseen.get("ttl"),
        kind=unseen.get("kind"),
        min_zoom=unseen.get("min_zoom"),
        rank=0.5 if unseen.get("rank") is None else unseen["rank"],
        geometry=geometry,
        properties={name: value for name, value in properties.items() if value is not None},
    ),
    ids,
    st.one_of(point, geometry),
    properties,
    unseen,
)
_dead = st.builds(
    lambda id, reason, access, by_publisher: Told(id, 0, by_publisher, frozenset(access or ["public"]), reason),
    ids,
    st.sampled_from(["deleted", "expired"]),
    st.sampled_from(ACCESSES),
    st.booleans(),
)
told = st.one_of(
    st.builds(
        MadeUp,
        st.sampled_from(["newer", "newer", "newer", "mortal", "due", "stale", "unknown"]),
        _alive,
        st.integers(-3, 8),
        st.sampled_from([0, 0, 1, 5, 40]),
        st.sampled_from([0, 1, 4.5]),
    ),
    st.builds(MadeUp, st.sampled_from(["dead", "dead", "stale"]), _dead, st.integers(-3, 8), st.just(0), st.sampled_from([0, 1, 4.5])),
)
