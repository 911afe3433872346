"""The Python mirror, by the vectors that every language's mirror replays, and by what only Python has.

Law: what a mirror must say after a delta was never said by a mirror: see tests/vectors/make_mirror.py.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from realtime.client.mirror import Mirror, MirrorError
from tests.vectors.make_mirror import PATH, make

VECTORS = json.loads(PATH.read_text())


def test_the_vectors_are_those_of_the_reference_engine() -> None:
    """If an engine's frames were changed on purpose: python -m tests.vectors.make_mirror."""
    assert make() == PATH.read_text()


@pytest.mark.parametrize("run", VECTORS["runs"], ids=lambda run: run["name"])
def test_replay(run: dict[str, Any]) -> None:
    mirror = Mirror()
    for step in run["steps"]:
        if step.get("restart"):
            mirror.restart()
            if step.get("forget"):
                mirror.clear()
            continue
        delta = step["delta"]
        mirror.apply(delta)
        assert mirror.seq == delta["seq"]
        assert (len(mirror), mirror.digest) == (step["count"], step["digest"]), f"after delta {delta['seq']}"
        assert (mirror.total, mirror.sampled) == (step["total"], step["sampled"])
        assert mirror.is_filling is delta.get("more", False)
        assert mirror.agrees({"seq": delta["seq"], "count": step["count"], "digest": step["digest"], "pending": 0})
    assert mirror.entities == {feature["id"]: feature for feature in run["mirror"]}


def test_the_runs_are_worth_replaying() -> None:
    """Each thing that a delta can say is said several times."""
    deltas = [step["delta"] for run in VECTORS["runs"] for step in run["steps"] if "delta" in step]
    patches = [patch for delta in deltas for patch in delta.get("patch", ())]
    reasons = [reason for delta in deltas for reason in delta.get("leave", {})]
    assert {*reasons} == {"deleted", "expired", "denied", "view", "moved", "filtered"}
    said = {
        "resets": sum("reset" in delta for delta in deltas),
        "cuts": sum("more" in delta for delta in deltas),
        "moves": sum(len(delta.get("move", ())) for delta in deltas),
        "samples": sum(delta.get("sampled", 1) < 1 for delta in deltas),
        "geometries": sum("geometry" in patch for patch in patches),
        "removals": sum(None in patch.get("properties", {}).values() for patch in patches),
        "dangerous names": sum("__proto__" in patch.get("properties", {}) for patch in patches),
    }
    assert min(said.values()) >= 5, said
    assert max(patch["version"] for patch in patches) > 2**53 - 2**33


@pytest.mark.parametrize("case", VECTORS["refusals"], ids=lambda case: case["name"])
def test_a_delta_that_breaks_the_protocol_changes_nothing(case: dict[str, Any]) -> None:
    mirror = Mirror()
    mirror.apply(case["first"])
    before = (copy.deepcopy(mirror.entities), mirror.digest, mirror.seq, mirror.total, mirror.sampled, mirror.is_filling)
    with pytest.raises(MirrorError):
        mirror.apply(case["delta"])
    assert (mirror.entities, mirror.digest, mirror.seq, mirror.total, mirror.sampled, mirror.is_filling) == before


def point(id: str, version: int = 1, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": id, "version": version, "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": properties}


def test_what_a_delta_did() -> None:
    mirror = Mirror()
    mirror.apply({"seq": 1, "reset": True, "enter": [point(id) for id in "abcd"]})
    applied = mirror.apply(
        {"seq": 2, "leave": {"view": ["a"]}, "enter": [point("e")], "move": [["b", 2, 0, 0]], "patch": [{"id": "c", "version": 2}]}
    )
    assert applied == (["e"], ["b"], ["c"], {"a": "view"}, False)
    applied = mirror.apply({"seq": 3, "reset": True, "enter": [point("c", 3)]})
    assert applied == (["c"], [], [], dict.fromkeys("bde", "reset"), True)


def test_a_delta_does_not_change_what_was_handed_out_before() -> None:
    mirror = Mirror()
    mirror.apply({"seq": 1, "enter": [point("a", x={"y": 1}, z=2)]})
    held = mirror.entities["a"]
    mirror.apply({"seq": 2, "patch": [{"id": "a", "version": 2, "properties": {"x": None, "z": 3}}]})
    mirror.apply({"seq": 3, "move": [["a", 3, 7, 8]]})
    assert held == point("a", x={"y": 1}, z=2)
    assert mirror.entities["a"] == point("a", 3, z=3) | {"geometry": {"type": "Point", "coordinates": [7, 8]}}


def test_have_forgets_what_it_does_not_name() -> None:
    mirror = Mirror()
    mirror.apply({"seq": 1, "enter": [point(id, 7) for id in "abc"]})
    have = mirror.have(2)
    assert len(have) == 2
    assert set(have.values()) == {7}
    assert mirror.entities.keys() == have.keys()
    only = Mirror()
    only.apply({"seq": 1, "enter": [point(id, 7) for id in have]})
    assert mirror.digest == only.digest
