"""What a session makes of its messages, and what it writes in which lane, on a wire that is none."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
import pytest

from realtime.client.mirror import Mirror
from realtime.errors import CloseCode, ErrorCode
from realtime.gateway.session import Gate
from realtime.values import VERSION_MAX
from tests.fake_wire import WORLD, Viewer, bus, open_gate, until
from tests.spied_engine import replace

pytestmark = pytest.mark.usefixtures("engine_kind")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


async def look(gate: Gate, bbox: Any = WORLD, *, token: str | None = None, is_text: bool = True, **members: Any) -> Viewer:
    """Return a viewer whose first view has been answered."""
    viewer = Viewer(gate, is_text)
    viewer.send("identify", token=token)
    viewer.send("view", bbox=bbox, **members)
    await viewer.wait("delta")
    return viewer


def mirror_of(viewer: Viewer, seq: int | None = None) -> Mirror:
    """Return what the client holds, now or behind delta `seq`."""
    mirror = Mirror()
    for delta in viewer.got("delta")[:seq]:
        mirror.apply(delta)
    return mirror


def last_error(viewer: Viewer) -> tuple[str, str]:
    error = viewer.got("error")[-1]
    return error["code"], error["message"]


# The first message


@pytest.mark.parametrize("is_text", [True, False], ids=["json", "msgpack"])
async def test_a_welcome_says_where_one_is(is_text: bool) -> None:
    async with open_gate() as gate:
        viewer = Viewer(gate, is_text)
        viewer.send("identify", token="ann's", client="map/1.2")
        node, limits = gate.node, gate.node.config.limits
        assert viewer.got() == [
            {
                "type": "welcome",
                "protocol": 1,
                "session": viewer.session.name,
                "user": "ann",
                "node": node.name,
                "epoch": node.epoch,
                "world": node.world,
                "limits": {
                    "message_bytes": limits.message_bytes,
                    "have_entities": limits.have_entities,
                    "views_per_s": limits.views_per_s,
                    "entities_per_view": limits.entities_per_view,
                },
            }
        ]
        assert viewer.wire.is_identified
        assert gate.sessions == {viewer.session.name: viewer.session}
        assert viewer.session.client == "map/1.2"


async def test_where_anonymous_is_allowed_any_first_message_stands_for_identify() -> None:
    async with open_gate() as gate:
        for message, answer in (
            ({"type": "view", "bbox": None}, "delta"),
            ({"type": "ping", "t": 1}, "pong"),
            ({"type": "refresh"}, "delta"),
            ({"type": "check"}, "check"),
            ({"type": "nonsense"}, "error"),
            ({"type": "view", "bbox": "nonsense"}, "error"),
            ({"no": "type"}, "error"),
        ):
            viewer = Viewer(gate)
            viewer.session.on_message(msgspec.json.encode(message).decode())
            await viewer.wait(answer)
            assert [each["type"] for each in viewer.got()] == ["welcome", answer], message
            assert viewer.got()[0]["user"] is None


async def test_a_bad_identify_is_an_error_and_identifies_nobody() -> None:
    async with open_gate() as gate:
        viewer = Viewer(gate)
        viewer.send("identify", token=7)
        assert last_error(viewer)[0] == ErrorCode.BAD_MESSAGE
        assert not viewer.wire.is_identified
        viewer.send("identify")
        assert [each["type"] for each in viewer.got()] == ["error", "welcome"]


@pytest.mark.parametrize(
    "message", [{"type": "identify"}, {"type": "identify", "token": "nobody's"}, {"type": "view", "bbox": None}, {"type": "ping"}]
)
async def test_where_anonymous_is_not_allowed_a_token_is_needed(message: dict[str, Any]) -> None:
    async with open_gate("never") as gate:
        viewer = Viewer(gate)
        viewer.session.on_message(msgspec.json.encode(message).decode())
        assert viewer.wire.closed is CloseCode.BAD_TOKEN
        assert viewer.got() == []
        assert gate.sessions == {}
        viewer.send("identify", token="ann's")
        assert viewer.got() == [], "after the close nothing counts"


async def test_a_wrong_token_is_refused_even_where_anonymous_is_allowed() -> None:
    async with open_gate("always") as gate:
        viewer = Viewer(gate)
        viewer.send("identify", token="nobody's")
        assert viewer.wire.closed is CloseCode.BAD_TOKEN


async def test_longer_messages_are_for_those_who_are_identified() -> None:
    async with open_gate("never", message_bytes=5_000) as gate:
        viewer = Viewer(gate)
        assert viewer.wire.message_bytes_max == 0, "what the connection began with"
        viewer.send("nonsense")
        assert (last_error(viewer)[0], viewer.wire.message_bytes_max) == (ErrorCode.BAD_MESSAGE, 0)
        viewer.send("identify", token="ann's")
        assert viewer.wire.message_bytes_max == 5_000
    async with open_gate("always", message_bytes=5_000) as gate:
        assert Viewer(gate).wire.message_bytes_max == 5_000


# Messages that are refused


@pytest.mark.parametrize("data", ["", "{", "[]", "7", "\ufeff{}", "x" * 1000])
async def test_what_is_no_object_ends_the_connection(data: str) -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        viewer.session.on_message(data)
        assert viewer.wire.closed is CloseCode.UNDECODABLE
        viewer.send("ping")
        viewer.send("view", bbox=None)
        gate.node.publish([bus()])
        await asyncio.sleep(0.01)
        assert [each["type"] for each in viewer.got()] == ["welcome", "delta"], "nothing is read or written any more"


async def test_what_is_not_served_is_said_to_be() -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        for type in ("identify", "subscribe", "unsubscribe", "ack"):
            viewer.send(type, id=type)
            assert (viewer.got("error")[-1]["code"], viewer.got("error")[-1]["ref"]) == (ErrorCode.UNSUPPORTED, type)
        viewer.send("ping", t=1)
        assert viewer.got("pong") == [{"type": "pong", "t": 1}]


async def test_an_error_refers_to_its_message() -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        for id, reference in (("v", "v"), (7, 7), (None, None), ([], None), ("x" * 129, None), (10**30, None)):
            viewer.send("view", bbox=7, id=id)
            assert viewer.got("error")[-1].get("ref") == reference
        assert gate.node.counters.rejected[ErrorCode.BAD_VIEW] == 6


VIEWS_REFUSED: list[tuple[dict[str, Any], ErrorCode, str]] = [
    ({}, ErrorCode.BAD_VIEW, "bbox: "),
    *(({"bbox": b}, ErrorCode.BAD_VIEW, "bbox: ") for b in (7, [], [0, 0, 1], [1, 0, 0, 1], [0, 0, 1, "1"], [0, 1, 1, 0], {})),
    *(({"bbox": None, "zoom": z}, ErrorCode.BAD_VIEW, "zoom: ") for z in ("1", 65, True, None)),
    *(({"bbox": None, "max_hz": h}, ErrorCode.BAD_VIEW, "max_hz: ") for h in (0, 0.09, "1")),
    *(
        ({"bbox": None, "ids": i}, ErrorCode.BAD_VIEW, "ids: ")
        for i in ("a", {}, [7], [""], ["x" * 129], [None], list(map(str, range(101))))
    ),
    *(({"bbox": None, "filter": f}, ErrorCode.BAD_FILTER, "filter") for f in ([], ["=="], {}, ["==", ["kind"]], "x" * 9_000)),
    *(
        ({"bbox": None, "world": "w", "away_ms": 0, "have": h}, ErrorCode.BAD_VIEW, "have: ")
        for h in ([], {"a": 0}, {"a": -1}, {"a": 1.5}, {"a": VERSION_MAX + 1}, {"": 1}, {"a\n": 1}, {"x" * 129: 1})
    ),
]


@pytest.mark.parametrize(("members", "code", "start"), VIEWS_REFUSED, ids=lambda value: repr(value)[:50])
async def test_a_refused_view_names_what_is_wrong_and_changes_nothing(members: dict[str, Any], code: ErrorCode, start: str) -> None:
    async with open_gate() as gate:
        viewer = Viewer(gate)
        viewer.send("identify")
        viewer.send("view", **members)
        assert last_error(viewer)[0] == code
        assert last_error(viewer)[1].startswith(start)
        # It was no first view either: `have` is still allowed, and no delta has been owed.
        viewer.send("view", bbox=[0, 0, 1, 1], id="good", have={}, world=gate.node.world, away_ms=0)
        assert (await viewer.wait("delta"))["view"] == "good"
        viewer.send("view", **members)
        assert len(viewer.got("error")) == 2
        gate.node.publish([bus("in"), bus("out", 50)])
        delta = await viewer.wait("delta", 2)
        assert (delta["view"], [feature["id"] for feature in delta["enter"]]) == ("good", ["in"])


async def test_edges_of_a_view() -> None:
    async with open_gate() as gate:
        gate.node.publish([bus("far", 90, 45), bus("near")])
        viewer = await look(gate, None, zoom=-64, max_hz=0.1, ids=[f"{n}" for n in range(99)] + ["far"], id=-(2**63))
        delta = viewer.got("delta")[0]
        assert (delta["view"], [feature["id"] for feature in delta["enter"]]) == (-(2**63), ["far"])
        assert viewer.got("error") == []


async def test_too_many_messages_end_the_connection() -> None:
    async with open_gate(messages_per_s=1e-6, messages_burst=5) as gate:
        viewer = Viewer(gate)
        for n in range(5):
            viewer.send("ping", t=n)
        assert viewer.wire.closed is None
        viewer.send("ping", t=5)
        assert viewer.wire.closed is CloseCode.RATE_LIMITED
        viewer.send("ping", t=6)
        assert [pong["t"] for pong in viewer.got("pong")] == [0, 1, 2, 3, 4]


async def test_an_undecodable_message_costs_a_token_like_any_other() -> None:
    async with open_gate(messages_per_s=1e-6, messages_burst=1) as gate:
        viewer = Viewer(gate)
        viewer.send("ping")
        viewer.session.on_message("{")
        assert viewer.wire.closed is CloseCode.RATE_LIMITED


# Views and their rate


async def test_of_several_views_in_one_turn_the_last_is_answered() -> None:
    async with open_gate() as gate:
        gate.node.publish([bus("here"), bus("there", 50)])
        viewer = Viewer(gate)
        for n in range(9):
            viewer.send("view", bbox=[0, 0, 1, 1], id=n)
        viewer.send("view", bbox=[49, 0, 51, 1], id="last")
        await viewer.wait("delta")
        viewer.send("ping")
        assert [delta["view"] for delta in viewer.got("delta")] == ["last"]
        assert mirror_of(viewer).entities.keys() == {"there"}


async def test_of_views_beyond_their_rate_the_newest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    interval_s = 0.05
    async with open_gate(views_per_s=1 / interval_s) as gate:
        times: list[float] = []

        def timed(*arguments: Any) -> None:
            times.append(asyncio.get_running_loop().time())
            original(*arguments)

        original = replace(monkeypatch, gate.node, "look", timed)
        viewer = await look(gate, id="first")
        for n in range(20):
            viewer.send("view", bbox=[0, 0, 1, 1], id=n)
        assert (await viewer.wait("delta", 2))["view"] == 19
        for n in range(20, 30):
            viewer.send("view", bbox=[0, 0, 1, 1], id=n)
        assert (await viewer.wait("delta", 3))["view"] == 29
        assert viewer.got("error") == []
        assert len(times) == 3
        assert times[2] - times[1] >= 0.9 * interval_s
        assert times[1] - times[0] >= 0.9 * interval_s


async def test_each_kind_has_a_rate_of_its_own() -> None:
    async with open_gate(views_per_s=0.001) as gate:
        viewer = await look(gate)
        viewer.send("refresh")
        assert (await viewer.wait("delta", 2))["reset"] is True
        viewer.send("check")
        await viewer.wait("check")
        # All three have had their turn for a long time to come, and nothing is refused.
        for _ in range(50):
            viewer.send("view", bbox=None)
            viewer.send("refresh")
            viewer.send("check")
        gate.node.publish([bus()])
        await viewer.wait("delta", 3)
        assert [len(viewer.got(type)) for type in ("delta", "check", "error")] == [3, 1, 0]
        viewer.hang_up()


async def test_a_thousand_refreshes_cost_a_few_resets() -> None:
    async with open_gate(views_per_s=50) as gate:
        gate.node.publish([bus(str(n)) for n in range(50)])
        viewer = await look(gate)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for _ in range(100):
            for _ in range(10):
                viewer.send("refresh")
            await asyncio.sleep(0.001)
        elapsed = loop.time() - begin
        await until(lambda: not viewer.session._refresh._is_pending)
        assert 2 <= len(viewer.got("delta")) <= 3 + elapsed * 50 * 1.1


@pytest.mark.parametrize("type", ["view", "refresh", "check"])
async def test_who_asks_for_what_takes_long_takes_a_tenth_of_the_time(type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cost_s = 0.01
    async with open_gate() as gate:
        viewer, count = await look(gate), 0

        def slow(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            end = time.thread_time() + cost_s
            while time.thread_time() < end:
                pass
            return original(*arguments)

        original = replace(monkeypatch, gate.node, "look" if type == "view" else type, slow)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while loop.time() < begin + 30 * cost_s:
            viewer.send(type, bbox=WORLD)
            await asyncio.sleep(0.001)
        assert 2 <= count <= (loop.time() - begin) / cost_s * 0.1 + 2
        assert viewer.got("error") == []
        viewer.hang_up()


async def test_a_first_view_may_be_replaced_before_it_is_applied_and_keeps_its_have() -> None:
    async with open_gate() as gate:
        gate.node.publish([bus("a", version=1)])
        viewer = Viewer(gate)
        viewer.send("view", bbox=None, have={"a": 1}, world=gate.node.world, away_ms=5)
        viewer.send("view", bbox=WORLD, id="second")
        delta = await viewer.wait("delta")
        assert delta == {"type": "delta", "seq": 1, "view": "second", "total": 1, "sampled": 1}


# Resuming


async def resumed(gate: Gate, **members: Any) -> dict[str, Any]:
    viewer = Viewer(gate)
    viewer.send("view", bbox=WORLD, **({"world": gate.node.world, "away_ms": 5} | members))
    return await viewer.wait("delta")


async def test_have_is_believed_in_its_own_world_and_time() -> None:
    async with open_gate(tombstone_s=60.0) as gate:
        gate.node.publish([bus("same", version=1), bus("moved", version=1), bus("new", version=1)])
        gate.node.publish([{"op": "move", "id": "moved", "lon": 5, "lat": 6, "version": 2}])
        have = {"same": 1, "moved": 1.0, "gone": 4}
        delta = await resumed(gate, have=have)
        assert "reset" not in delta
        assert delta["move"] == [["moved", 2, 5, 6]]
        assert delta["leave"] == {"deleted": ["gone"]}
        assert [feature["id"] for feature in delta["enter"]] == ["new"]
        assert "reset" not in await resumed(gate, have={})
        assert "reset" not in await resumed(gate, have=have, away_ms=59_999.9)
        for other in ({"away_ms": 60_000}, {"away_ms": None}, {"world": "another"}, {"world": None}, {"have": None}):
            delta = await resumed(gate, **({"have": have} | other))
            assert delta["reset"] is True, other
            assert "leave" not in delta
            assert len(delta["enter"]) == 3


async def test_have_is_for_the_first_view_alone() -> None:
    async with open_gate() as gate:
        viewer = await look(gate, [0, 0, 1, 1], id="first")
        viewer.send("view", bbox=WORLD, id="second", have={}, world=gate.node.world, away_ms=5)
        assert last_error(viewer) == ("bad_view", "have: only the first view of a connection may have it")
        assert viewer.got("error")[-1]["ref"] == "second"
        gate.node.publish([bus("in"), bus("out", 50)])
        delta = await viewer.wait("delta", 2)
        assert (delta["view"], [feature["id"] for feature in delta["enter"]]) == ("first", ["in"])


async def test_have_is_limited() -> None:
    async with open_gate(have_entities=3) as gate:
        assert "reset" not in await resumed(gate, have={"a": 1, "b": 1, "c": VERSION_MAX})
        viewer = Viewer(gate)
        viewer.send("view", bbox=None, have=dict.fromkeys("abcd", 1))
        assert last_error(viewer) == ("too_big", "have: at most 3 entities are allowed")


# The last view of a user


async def test_a_user_finds_the_last_view_again() -> None:
    async with open_gate() as gate:
        gate.node.publish([bus("in"), bus("out", 50), bus("other", kind="tram")])
        first = await look(gate, [0, 0, 1, 1], token="ann's", filter=["!=", ["kind"], "tram"], id=1)
        first.send("view", bbox=[7])
        first.hang_up()
        second = Viewer(gate)
        second.send("identify", token="ann's")
        second.send("view", last=True, id=2, bbox="ignored")
        delta = await second.wait("delta")
        assert (delta["view"], [feature["id"] for feature in delta["enter"]]) == (2, ["in"])
        third = Viewer(gate)
        third.send("identify", token="ann's")
        version = delta["enter"][0]["version"]
        third.send("view", last=True, have={"in": version}, world=gate.node.world, away_ms=1)
        delta = await third.wait("delta")
        assert "reset" not in delta
        assert "enter" not in delta
        assert "view" not in delta


@pytest.mark.parametrize("token", [None, "bob's"])
async def test_without_a_last_view_there_is_none(token: str | None) -> None:
    async with open_gate() as gate:
        (await look(gate, token="ann's")).hang_up()
        (await look(gate)).hang_up()
        viewer = Viewer(gate)
        viewer.send("identify", token=token)
        viewer.send("view", last=True, id=5)
        assert last_error(viewer)[0] == ErrorCode.UNAVAILABLE
        assert viewer.got("error")[0]["ref"] == 5
        viewer.send("view", bbox=None)
        await viewer.wait("delta")


# Rights


async def test_a_session_sees_what_its_principals_allow() -> None:
    async with open_gate() as gate:
        private = {"crew": ["group:crew"], "ann": ["user:ann"], "bob": ["user:bob"], "nobody": []}
        gate.node.publish([bus("all"), *(bus(id, access=access) for id, access in private.items())])
        for token, seen in ((None, {"all"}), ("ann's", {"all", "crew", "ann"}), ("bob's", {"all", "bob"})):
            assert mirror_of(await look(gate, token=token)).entities.keys() == seen
        filtered = await look(gate, token="bob's", filter=["==", ["id"], ["user"]])
        assert mirror_of(filtered).entities.keys() == {"bob"}


async def test_who_may_not_publish_is_told_so() -> None:
    async with open_gate() as gate:
        for token in (None, "bob's"):
            viewer = await look(gate, token=token)
            viewer.send("publish", updates=[bus()], id="p")
            assert viewer.got("error") == [{"type": "error", "code": "forbidden", "message": "publish: this session may not", "ref": "p"}]
        assert gate.node.engine.get("bus-7") is None


@pytest.mark.parametrize("is_text", [True, False], ids=["json", "msgpack"])
async def test_a_session_publishes_what_its_patterns_allow(is_text: bool) -> None:
    async with open_gate() as gate:
        viewer = await look(gate, token="ann's", is_text=is_text)
        updates = [bus("bus-1"), bus("tram-1"), bus("tram-11"), bus("xbus-1"), bus("bus-1"), {"op": "delete", "id": "train"}, 7]
        viewer.send("publish", updates=updates, id="p")
        ack = await viewer.wait("ack")
        assert [(each["index"], each["code"]) for each in ack.pop("rejected")] == [
            (2, "forbidden"),
            (3, "forbidden"),
            (5, "forbidden"),
            (6, "bad_update"),
        ]
        assert ack == {"type": "ack", "id": "p", "accepted": 2, "unchanged": 1, "stale": 0, "rejected_total": 4}
        await until(lambda: mirror_of(viewer).entities.keys() == {"bus-1", "tram-1"})


# Publishing keeps the order of messages


async def test_what_comes_while_a_publish_is_applied_waits_for_it() -> None:
    async with open_gate() as gate:
        viewer = await look(gate, token="ann's")
        viewer.send("publish", updates=[bus(f"bus-{n}") for n in range(500)], id="big")
        assert viewer.wire.holds == [True]
        viewer.send("ping", t=1)
        viewer.send("view", bbox="nonsense", id="bad")
        viewer.send("publish", updates=[{"op": "delete", "id": f"bus-{n}"} for n in range(500)], id="gone")
        viewer.send("ping", t=2)
        assert viewer.got("pong") == []
        await viewer.wait("pong", 2)
        answers = [(each["type"], each.get("id", each.get("ref", each.get("t")))) for each in viewer.got("ack", "pong", "error")]
        assert answers == [("ack", "big"), ("pong", 1), ("error", "bad"), ("ack", "gone"), ("pong", 2)]
        assert viewer.got("ack")[1]["accepted"] == 500
        assert viewer.wire.holds == [True, True, False]


async def test_what_waits_is_limited_by_the_rate_of_messages() -> None:
    async with open_gate(messages_per_s=1e-6, messages_burst=10) as gate:
        viewer = await look(gate, token="ann's")
        viewer.send("publish", updates=[bus(f"bus-{n}") for n in range(500)])
        for n in range(7):
            viewer.send("ping", t=n)
        assert viewer.wire.closed is None
        viewer.send("ping", t=7)
        assert viewer.wire.closed is CloseCode.RATE_LIMITED
        await until(lambda: not gate.tasks)
        assert viewer.got("pong") == []


async def test_a_client_that_goes_away_has_published_all_the_same() -> None:
    async with open_gate() as gate:
        viewer = await look(gate, token="ann's")
        viewer.send("publish", updates=[bus(f"bus-{n}") for n in range(500)])
        viewer.send("ping")
        viewer.hang_up()
        await until(lambda: not gate.tasks)
        assert gate.node.engine.statistics()["entities"] == 500
        assert gate.node.engine.statistics()["sessions"] == 0


async def test_a_bug_in_publishing_costs_its_session_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with open_gate() as gate:
        viewer, bystander = await look(gate, token="ann's"), await look(gate)

        async def broken(*_: Any) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(gate.node, "publish_sliced", broken)
            viewer.send("publish", updates=[bus("bus-1")])
            await until(lambda: viewer.wire.closed is not None)
        assert viewer.wire.closed is CloseCode.BUG
        assert viewer.wire.holds == [True, False], "the close handshake is read"
        assert "a bug" in caplog.text
        assert gate.node.counters.events["session_failed"] == 1
        gate.node.publish([bus()])
        await until(lambda: "bus-7" in mirror_of(bystander).entities)


# Lanes


async def test_control_is_answered_at_once_and_in_order_also_while_paused() -> None:
    async with open_gate() as gate:
        viewer = await look(gate, token="ann's")
        viewer.pause()
        gate.node.publish([bus("a")])
        viewer.send("view", bbox=7, id=1)
        viewer.send("nonsense", id=2)
        viewer.send("publish", updates=[], id=3)
        await viewer.wait("ack")
        assert [(each["type"], each.get("ref", each.get("id"))) for each in viewer.got()[2:]] == [("error", 1), ("error", 2), ("ack", 3)]
        assert set(viewer.wire.lanes[2:]) == {"control"}


async def test_while_paused_state_waits_in_the_outbox_and_is_one_delta_then() -> None:
    async with open_gate() as gate:
        gate.node.publish([bus("moves", version=1)])
        viewer, reader = await look(gate), await look(gate)
        viewer.pause()
        for n in range(2, 60):
            gate.node.publish([bus("moves", n, version=n), bus("comes", n)])
            await asyncio.sleep(0)
        gate.node.publish([{"op": "delete", "id": "comes"}])
        await until(lambda: mirror_of(reader).entities.get("moves", {}).get("version") == 59)
        assert len(viewer.got("delta")) == 1
        viewer.resume()
        delta = await viewer.wait("delta", 2)
        assert delta["move"] == [["moves", 59, 59, 0]]
        assert delta.keys() == {"type", "seq", "move", "lag_ms"} | ({"total", "sampled"} & delta.keys())
        viewer.resume()
        gate.node.publish([bus("next")])
        assert [feature["id"] for feature in (await viewer.wait("delta", 3))["enter"]] == ["next"]


async def test_of_pongs_that_wait_only_the_newest_is_sent() -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        for n in range(3):
            viewer.send("ping", t=n)
        assert [pong["t"] for pong in viewer.got("pong")] == [0, 1, 2]
        viewer.pause()
        for n in range(3, 100):
            viewer.send("ping", t=n)
        assert len(viewer.got("pong")) == 3
        viewer.resume()
        assert [pong["t"] for pong in viewer.got("pong")] == [0, 1, 2, 99]
        assert viewer.wire.lanes[-1] == "control"
        viewer.resume()
        viewer.send("ping")
        assert viewer.got("pong")[-1]["t"] is None
        assert len(viewer.got("pong")) == 5


# Checks


async def test_a_check_speaks_of_the_mirror_behind_its_delta() -> None:
    async with open_gate() as gate:
        gate.node.publish([bus("a"), bus("b", 50), bus("c", 1)])
        viewer = await look(gate, [0, 0, 1, 1])
        viewer.send("check")
        check = await viewer.wait("check")
        assert viewer.wire.lanes[-1] == "state"
        assert mirror_of(viewer).agrees(check)
        assert (check["seq"], check["count"], check["pending"]) == (1, 2, 0)


async def test_a_check_before_any_view_is_of_an_empty_mirror() -> None:
    async with open_gate() as gate:
        viewer = Viewer(gate)
        viewer.send("check")
        assert await viewer.wait("check") == {"type": "check", "seq": 0, "count": 0, "digest": "00000000", "pending": 0}


async def test_a_check_is_true_at_any_moment() -> None:
    """Also while much is pending, as deltas are spaced: it speaks of what the client holds, not of what is coming."""
    async with open_gate(flush_interval_ms=30.0) as gate:
        viewer = await look(gate)
        mirror, pending = Mirror(), set()
        for n in range(20):
            gate.node.publish([bus(str(n % 5), n, version=n + 1), bus(f"new-{n}")])
            viewer.send("check")
            check = await viewer.wait("check", n + 1)
            for delta in viewer.got("delta")[mirror.seq : check["seq"]]:
                mirror.apply(delta)
            assert mirror.agrees(check)
            pending.add(check["pending"])
        assert max(pending) > 1


async def test_a_check_waits_behind_a_reset() -> None:
    async with open_gate(flush_interval_ms=30.0) as gate:
        gate.node.publish([bus("a"), bus("b")])
        viewer = await look(gate)
        viewer.send("refresh")
        viewer.send("check")
        check = await viewer.wait("check")
        assert [each["type"] for each in viewer.got()] == ["welcome", "delta", "delta", "check"]
        assert (viewer.got("delta")[1]["reset"], check["seq"], check["count"]) == (True, 2, 2)
        assert mirror_of(viewer).agrees(check)


async def test_a_check_waits_for_a_socket_that_takes_nothing() -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        viewer.pause()
        for n in range(5):
            viewer.send("check")
            gate.node.publish([bus("a", n)])
            await asyncio.sleep(0.002)
        assert viewer.got("check") == []
        viewer.resume()
        check = await viewer.wait("check")
        assert mirror_of(viewer, check["seq"]).agrees(check)
        assert len(viewer.got("check")) == 1


async def test_a_check_that_waited_comes_also_where_nothing_changed() -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        viewer.pause()
        viewer.send("check")
        await asyncio.sleep(0.005)
        assert viewer.got("check") == []
        viewer.resume()
        assert (await viewer.wait("check"))["seq"] == 1


# The end


async def test_nothing_is_left_of_a_closed_session() -> None:
    async with open_gate(views_per_s=20) as gate:
        stranger, viewer = Viewer(gate), await look(gate, token="ann's")
        for type in ("view", "refresh", "check"):
            viewer.send(type, bbox=None)
        await asyncio.sleep(0)
        for type in ("view", "refresh", "check"):  # these wait for their turn
            viewer.send(type, bbox=None)
        before = list(viewer.got())
        for each in (stranger, viewer):
            each.hang_up(1001)
        gate.node.publish([bus()])
        await asyncio.sleep(0.1)
        for each in (stranger, viewer):
            each.session.on_writable()
            each.send("ping")
            each.session.close(CloseCode.RESTART)
        assert gate.sessions == {}
        assert gate.node.engine.statistics()["sessions"] == 0
        assert (viewer.got(), stranger.got()) == (before, [])
        assert gate.node.counters.closed == {1001: 2}


async def test_what_is_said_first_at_the_end_counts() -> None:
    async with open_gate() as gate:
        viewer = await look(gate)
        viewer.session.close(CloseCode.RESTART)
        viewer.session.close(CloseCode.BUG)
        viewer.session.fail()
        assert viewer.wire.closed is CloseCode.RESTART
        gate.node.publish([bus()])
        viewer.send("ping")
        await asyncio.sleep(0.01)
        assert [each["type"] for each in viewer.got()] == ["welcome", "delta"]
