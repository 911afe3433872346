"""The judge of frames is right: it finds each wrong frame, and finds nothing in right ones.

The law: a rule of the judge is shown by a pair, a frame that it takes and one that differs in a single thing and that it refuses.
Random games against whole servers are in test_model_games.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.model import ModelLimits, Violation, World
from tests.model_frames import decoded, is_point
from tests.model_values import digest
from tests.model_viewer import Viewer

NOW = 1_700_000_000.0
AROUND = {"bbox": [-10, -10, 10, 10], "id": "v1"}
FULL: Any = {"total": 1, "sampled": 1}


def bus(entity_id: str = "a", lon: float = 0.0, lat: float = 0.0, **members: Any) -> dict[str, Any]:
    """A Feature as published: a Point."""
    return {"type": "Feature", "id": entity_id, "geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {}, **members}


def opened(*updates: dict[str, Any], principals: tuple[str, ...] = (), **limits: Any) -> tuple[World, Viewer]:
    """A world after some updates and a viewer that has sent its first view."""
    world = World(ModelLimits(**limits))
    for update in updates:
        assert world.apply(update, NOW) in ("accepted", "unchanged")
    viewer = Viewer(world, principals)
    viewer.look(AROUND)
    return world, viewer


def held(*updates: dict[str, Any], **more: Any) -> tuple[World, Viewer]:
    """The same after a fill that was right."""
    world, viewer = opened(*updates, **more)
    entered = list(viewer.expected().values())
    viewer.feed(delta(1, reset=True, total=len(entered), sampled=1, enter=entered))
    viewer.settled()
    return world, viewer


def delta(seq: int, view: str = "v1", **members: Any) -> dict[str, Any]:
    """A decoded delta."""
    return {"type": "delta", "seq": seq, "view": view, **members}


def refuses(viewer: Viewer, frame: Any, message: str) -> None:
    """The frame is a violation, with this in its message."""
    with pytest.raises(Violation, match=message):
        viewer.feed(frame)


def test_a_first_delta_resets() -> None:
    world, viewer = opened(bus(version=1))
    refuses(viewer, delta(1, enter=[world.history("a")[1]], **FULL), "reset was due")


def test_numbers_of_deltas_have_no_gap() -> None:
    _, viewer = held(bus(version=1))
    refuses(viewer, delta(3), "seq is 3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the present is"),
        ({"version": True}, "version is True"),
        ({"properties": {"x": 1}}, "the present is"),
        ({"kind": "bus"}, "the present is"),
        ({"min_zoom": 0}, "the present is"),
        ({"id": "b"}, "it is dead"),
    ],
)
def test_an_enter_is_the_present(change: dict[str, Any], message: str) -> None:
    world, viewer = opened(bus(version=1))
    refuses(viewer, delta(1, reset=True, enter=[world.history("a")[1] | change], **FULL), message)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (bus(version=1, access=["user:x"]), "rights"),
        (bus(version=1, lon=11), "boxes"),
        (bus(version=1, min_zoom=25), "min_zoom"),
    ],
)
def test_an_enter_is_of_what_is_seen(update: dict[str, Any], message: str) -> None:
    world, viewer = opened(update)
    refuses(viewer, delta(1, reset=True, enter=[world.history("a")[1]], total=0, sampled=1), message)


def test_moves_are_of_held_points() -> None:
    world, viewer = held(bus(version=1), bus("b", version=1, geometry={"type": "Point", "coordinates": [0, 0, 0]}))
    for entity_id in "ab":
        world.apply({"op": "move", "id": entity_id, "lon": 1, "lat": 2, "version": 2}, NOW)
    viewer.feed(delta(2, move=[["a", 2, 1, 2]]))
    refuses(viewer, delta(3, move=[["b", 2, 1, 2]]), "a move of 'b'")
    _, viewer = opened(bus(version=1))
    refuses(viewer, delta(1, reset=True, move=[["a", 1, 0, 0]], **FULL), "not held")


def test_a_move_changes_coordinates_alone() -> None:
    world, viewer = held(bus(version=1))
    world.apply(bus(version=2, lon=1, kind="bus"), NOW)
    refuses(viewer, delta(2, move=[["a", 2, 1, 0]]), "the present is")


def test_a_patch_replaces_properties_whole_and_null_removes() -> None:
    world, viewer = held(bus(version=1, properties={"a": {"x": 1, "y": 2}, "b": 1}))
    world.apply({"op": "patch", "id": "a", "properties": {"a": {"y": None}, "b": None}, "version": 2}, NOW)
    viewer.feed(delta(2, patch=[{"id": "a", "version": 2, "properties": {"a": {"y": None}, "b": None}}]))
    assert viewer.mirror["a"]["properties"] == {"a": {"y": None}}
    world.apply({"op": "patch", "id": "a", "properties": {"c": 1}, "geometry": {"type": "Point", "coordinates": [1, 1]}, "version": 3}, NOW)
    refuses(viewer, delta(3, patch=[{"id": "a", "version": 3, "properties": {"c": 1}}]), "the present is")


def test_versions_increase_while_held() -> None:
    world, viewer = held(bus(version=1))
    refuses(viewer, delta(2, enter=[world.history("a")[1]]), "version 1 comes back")


def test_what_comes_back_is_not_older_than_what_left() -> None:
    world, viewer = held(bus(version=1))
    viewer.look({"bbox": [50, 0, 60, 1], "id": "v2"})
    viewer.feed(delta(2, "v2", leave={"view": ["a"]}, total=0, sampled=1))
    viewer.look(AROUND)
    viewer.feed(delta(3, enter=[world.history("a")[1]], **FULL))
    viewer.settled()


def test_a_smaller_version_comes_after_a_forgotten_death_alone() -> None:
    world, viewer = held(bus(version=5), tombstone_s=10)
    world.apply({"op": "delete", "id": "a", "version": 6}, NOW)
    world.expire(NOW + 10)
    assert world.apply(bus(version=2), NOW + 10) == "accepted"
    viewer.feed(delta(2, enter=[world.history("a")[2]]))
    viewer.settled()


@pytest.mark.parametrize(
    "members",
    [
        {"enter": []},
        {"leave": {}},
        {"leave": {"view": []}},
        {"leave": {"gone": ["a"]}},
        {"leave": {"view": ["a"], "moved": ["a"]}},
        {"leave": {"view": ["a", "a"]}},
        {"leave": {"view": ["a"]}, "move": [["a", 2, 0, 0]]},
        {"move": [["a", 2, 0]]},
        {"total": 1},
        {"sampled": 1},
        {"total": 1.0, "sampled": 1},
        {"total": 1, "sampled": 1.5},
        {"more": 1},
        {"lag_ms": -1},
    ],
)
def test_the_structure_of_deltas(members: dict[str, Any]) -> None:
    _, viewer = held(bus(version=1))
    with pytest.raises(Violation):
        viewer.feed(delta(2, **members))


def _delete(world: World) -> None:
    world.apply({"op": "delete", "id": "a"}, NOW)


def _expire(world: World) -> None:
    world.apply({"op": "patch", "id": "a", "ttl": 1}, NOW)
    world.expire(NOW + 2)


def _deny(world: World) -> None:
    world.apply({"op": "patch", "id": "a", "access": ["user:x"], "properties": {"n": 9}, "geometry": FAR}, NOW)


def _demand_rights(world: World) -> None:
    world.apply({"op": "patch", "id": "a", "access": ["user:x"]}, NOW)


def _zoom_out(world: World) -> None:
    world.apply({"op": "patch", "id": "a", "min_zoom": 30}, NOW)


def _move_away(world: World) -> None:
    world.apply({"op": "patch", "id": "a", "geometry": FAR, "properties": {"n": 9}}, NOW)


def _filter_out(world: World) -> None:
    world.apply({"op": "patch", "id": "a", "properties": {"n": 9}}, NOW)


def _deny_and_delete(world: World) -> None:
    _deny(world)
    _delete(world)


FAR = {"type": "Point", "coordinates": [50, 0]}
REASONS: list[tuple[Callable[[World], None], str]] = [
    (_delete, "deleted"),
    (_expire, "expired"),
    (_deny, "denied"),
    (_demand_rights, "denied"),
    (_zoom_out, "view"),
    (_move_away, "moved"),
    (_filter_out, "filtered"),
    (_deny_and_delete, "deleted"),
]


@pytest.mark.parametrize("given", ["deleted", "expired", "denied", "view", "moved", "filtered"])
@pytest.mark.parametrize(("change", "right"), REASONS)
def test_a_leave_gives_the_first_reason(change: Callable[[World], None], right: str, given: str) -> None:
    world = World()
    world.apply(bus(version=1, properties={"n": 1}), NOW)
    viewer = Viewer(world)
    viewer.look({**AROUND, "filter": ["<", ["get", "n"], 5]})
    viewer.feed(delta(1, reset=True, enter=[world.history("a")[1]], **FULL))
    change(world)
    if given == right:
        viewer.feed(delta(2, leave={given: ["a"]}))
        viewer.settled()
    else:
        refuses(viewer, delta(2, leave={given: ["a"]}), f"left as {given}, not as {right}")


def test_a_leave_is_of_what_is_held_and_not_seen() -> None:
    _, viewer = held(bus(version=1))
    refuses(viewer, delta(2, leave={"view": ["a"]}), "seen now")
    _, viewer = held(bus(version=1))
    refuses(viewer, delta(2, leave={"deleted": ["b"]}), "not held")


def test_a_sampled_view_may_drop_what_it_matches() -> None:
    world, viewer = held(bus("a", version=1, rank=0.9), bus("b", version=1, rank=0.1), bus("c", version=1, rank=0.2), entities_per_view=3)
    world.apply(bus("d", version=1, rank=0.3), NOW)
    world.apply(bus("e", version=1, rank=0.8), NOW)
    viewer.feed(delta(2, leave={"view": ["a"]}, total=5, sampled=0.4))
    viewer.settled()
    world.apply({"op": "delete", "id": "e"}, NOW)
    refuses(viewer, delta(3, total=4, sampled=0.4), "no number of entities")


def test_a_revoked_state_is_never_carried() -> None:
    world, viewer = held(bus(version=1))
    world.apply(bus(version=2, lon=1, access=["user:x"]), NOW)
    refuses(viewer, delta(2, move=[["a", 2, 1, 0]]), "rights")
    world, viewer = held(bus(version=1, access=["user:x"]), principals=("user:x",))
    viewer.allow(())
    viewer.feed(delta(2, leave={"denied": ["a"]}))
    viewer.settled()


def test_have_is_believed_and_no_oracle() -> None:
    world = World(ModelLimits())
    world.apply(bus("open", version=3), NOW)
    world.apply(bus("secret", version=3, access=["user:x"]), NOW)
    world.apply(bus("dead", version=3, access=["user:x"], ttl=1), NOW)
    world.apply(bus("died", version=3, ttl=1), NOW)
    world.expire(NOW + 1)
    claims = {entity_id: {**bus(entity_id), "version": 3} for entity_id in ("open", "secret", "dead", "died", "never")}
    leave = {"deleted": ["secret", "dead", "never"], "expired": ["died"]}

    def resumed() -> Viewer:
        viewer = Viewer(world)
        viewer.resume(claims)
        viewer.look(AROUND)
        return viewer

    viewer = resumed()
    viewer.feed(delta(1, leave=leave, **FULL))
    viewer.settled()
    refuses(resumed(), delta(1, reset=True, **FULL), "believed")
    refuses(resumed(), delta(1, leave={"denied": ["secret"]}, more=True), "left as denied, not as deleted")
    refuses(resumed(), delta(1, leave={"expired": ["dead"]}, more=True), "left as expired, not as deleted")
    refuses(resumed(), delta(1, leave={"deleted": ["secret", "dead", "never"]}, **FULL), "still held")
    refuses(resumed(), delta(1, enter=[world.history("open")[3]], more=True), "comes back")


def test_an_unknown_held_version_is_answered_by_an_enter_however_old() -> None:
    world = World()
    world.apply(bus(version=3), NOW)
    first, second = Viewer(world), Viewer(world)
    for viewer in (first, second):
        viewer.resume({"a": {**bus(lon=4), "version": 8}})
        viewer.look(AROUND)
    refuses(first, delta(1, **FULL), "still held at version 8")
    second.feed(delta(1, enter=[world.history("a")[3]], **FULL))
    second.settled()


def test_every_view_is_answered_and_more_is_not_the_last_word() -> None:
    _, viewer = held(bus(version=1))
    viewer.look({**AROUND, "id": "v2"})
    with pytest.raises(Violation, match="not answered"):
        viewer.settled()
    refuses(viewer, delta(2, "v1", **FULL), "belongs to view 'v1'")
    _, viewer = held(bus(version=1))
    viewer.look({**AROUND, "id": "v2"})
    viewer.feed(delta(2, "v2", more=True))
    with pytest.raises(Violation, match="more"):
        viewer.settled()
    refuses(viewer, delta(3, "v2"), "no `total`")


def test_a_fill_does_not_end_before_all_is_answered() -> None:
    world, viewer = opened(bus("a", version=1), bus("b", version=1))
    viewer.feed(delta(1, reset=True, enter=[world.history("a")[1]], more=True))
    refuses(viewer, delta(2, total=2, sampled=1), "'b'")
    world, viewer = opened(bus("a", version=1))
    world.apply(bus("b", version=1), NOW)  # dirty since: not of the fill
    viewer.feed(delta(1, reset=True, enter=[world.history("a")[1]], more=True))


def test_a_refresh_is_answered_by_a_reset() -> None:
    world, viewer = held(bus(version=1))
    viewer.refresh()
    with pytest.raises(Violation, match="reset was due"):
        viewer.settled()
    viewer.feed(delta(2, reset=True, enter=[world.history("a")[1]], **FULL))
    viewer.settled()
    viewer.refresh()
    refuses(viewer, delta(3), "reset was due")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"total": 2, "sampled": 1}, "1 match"),
        ({"total": 1, "sampled": 0.5}, "no number"),
        ({"total": 1, "sampled": 0}, "0 of 1 are shown"),
    ],
)
def test_counts_are_right(counts: dict[str, Any], message: str) -> None:
    world, viewer = opened(bus(version=1))
    refuses(viewer, delta(1, reset=True, enter=[world.history("a")[1]], **counts), message)


@pytest.mark.parametrize("change", ["delete", "content", "missing"])
def test_quiet_is_the_present(change: str) -> None:
    world, viewer = held(bus(version=1))
    world.apply({"delete": {"op": "delete", "id": "a"}, "content": bus(version=2, lon=1), "missing": bus("b", version=1)}[change], NOW)
    with pytest.raises(Violation):
        viewer.settled()


def test_check_speaks_of_the_mirror() -> None:
    world, viewer = held(bus(version=1))
    right = {"type": "check", "seq": 1, "count": 1, "digest": digest([("a", 1)]), "pending": 0}
    viewer.feed(right)
    for member, wrong in (("seq", 2), ("count", 0), ("digest", "00000000"), ("pending", None), ("pending", 2)):
        refuses(viewer, right | {member: wrong}, "check says")
    world.apply(bus(version=2, lon=1), NOW)
    world.apply(bus("b", version=2, lon=1), NOW)
    refuses(viewer, right, "'a' is held")  # an offer was lost
    refuses(viewer, right | {"pending": 1}, "at least 2 are wrong")
    viewer.feed(right | {"pending": 2})
    assert viewer.bound() == 2


def test_frames_are_read_in_both_encodings() -> None:
    frame = {"type": "delta", "seq": 1, "x": [1, 0.5, None, "ü"]}
    text = json.dumps(frame, ensure_ascii=False)
    assert decoded(text, "json") == decoded(text.encode(), "json") == decoded(msgspec.msgpack.encode(frame), "msgpack") == frame
    texts: list[str | bytes] = ['{"type":"pong","t":NaN}', '{"type":"a","type":"b"}', b"\xff", "[]"]
    binaries: list[str | bytes] = [text, b"\xc1", msgspec.msgpack.encode([1])]
    for encoding, frames in (("json", texts), ("msgpack", binaries)):
        for bad in frames:
            with pytest.raises(Violation):
                decoded(bad, encoding)
    assert [is_point({"type": "Point", "coordinates": [1] * size}) for size in (2, 3)] == [True, False]


def test_a_late_world_takes_what_was() -> None:
    world = World()
    viewer = Viewer(world, strict_present=False)
    viewer.look(AROUND)
    for version in range(1, 5):
        world.apply(bus(version=version, lon=version), NOW)
    world.apply({"op": "delete", "id": "a", "version": 9}, NOW)
    old, new = world.history("a")[2], world.history("a")[3]
    viewer.feed(delta(1, reset=True, enter=[old], **FULL))
    refuses(viewer, delta(2, enter=[world.history("a")[1]]), "comes back")
    viewer.seq = 1
    refuses(viewer, delta(2, enter=[{**new, "properties": {"x": 1}}]), "never was")
    viewer.seq = 1
    viewer.feed(delta(2, move=[["a", 3, 3, 0]]))
    refuses(viewer, delta(3, leave={"expired": ["a"]}), "cannot have left")
    viewer.seq = 2
    viewer.feed(delta(3, leave={"deleted": ["a"]}))
    viewer.settled()


def test_a_late_world_takes_only_what_the_view_could_show() -> None:
    world = World()
    viewer = Viewer(world, strict_present=False)
    viewer.look({**AROUND, "zoom": 5})
    viewer.look({**AROUND, "zoom": 9, "id": "v2"})
    world.apply(bus(version=1, min_zoom=8), NOW)
    refuses(viewer, delta(1, reset=True, enter=[world.history("a")[1]], **FULL), "could not show")
    viewer.seq = 0
    viewer.feed(delta(1, "v2", reset=True, enter=[world.history("a")[1]], **FULL))
    refuses(viewer, delta(2, "v1", **FULL), "belongs to view 'v1'")
    viewer.settled()
