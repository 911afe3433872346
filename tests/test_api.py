"""The API's routes, in memory: what publishing answers, what looking shows, what is refused and how."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from realtime.errors import ErrorCode
from realtime.gateway.api import make_app
from realtime.gateway.guard import HEADERS_MAX
from tests.api_node import NDJSON, configured, feature, in_memory, join, ndjson, open_gate
from tests.spied_engine import replace

pytestmark = pytest.mark.usefixtures("engine_kind")

BAD = {"op": "explode", "id": "x"}
NO_VERDICTS = {"accepted": 0, "unchanged": 0, "stale": 0, "rejected": [], "rejected_total": 0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def problem(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of a problem, having checked that it is one."""
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(body) >= {"code", "message"}
    assert body["code"] in set(ErrorCode)
    return response.status_code, body["code"]


# Publishing


async def test_every_form_of_update_is_taken() -> None:
    async with in_memory() as (client, gate):
        batches: list[Any] = [
            feature("a", 1, 2, properties={"n": 1}),
            {"type": "FeatureCollection", "features": [feature("b"), feature("c")]},
            {"updates": [{"op": "patch", "id": "a", "properties": {"n": 2}}, {"op": "move", "id": "b", "lon": 3, "lat": 4}]},
            {"op": "delete", "id": "c"},
        ]
        counts = [(await client.post("/v1/updates", json=batch)).json()["accepted"] for batch in batches]
        assert counts == [1, 2, 2, 1]
        found = (await client.get("/v1/entities")).json()
        assert [(one["id"], one["geometry"]["coordinates"], one["properties"]) for one in found["features"]] == [
            ("a", [1, 2], {"n": 2}),
            ("b", [3, 4], {}),
        ]
        assert gate.node.counters.updates["accepted"] == 6


async def test_verdicts_count_and_name_by_place() -> None:
    updates = [feature("a", version=5), BAD, feature("a", version=5), feature("a", version=6), "no object", {"op": "move", "id": "?"}]
    expected = {"accepted": 1, "unchanged": 1, "stale": 1, "rejected_total": 3}
    places = [(1, "bad_update"), (4, "bad_update"), (5, "bad_geometry")]
    for headers, body in (({"content-type": "application/json"}, json.dumps({"updates": updates}).encode()), (NDJSON, ndjson(updates))):
        async with in_memory() as (client, _):
            response = await client.post("/v1/updates", content=body, headers=headers)
            verdict = response.json()
            assert response.status_code == 200
            assert {name: verdict[name] for name in expected} == expected
            assert [(one["index"], one["code"]) for one in verdict["rejected"]] == places


async def test_a_thousand_refusals_are_named_and_all_are_counted() -> None:
    async with in_memory() as (client, _):
        response = await client.post("/v1/updates", content=b"x\n" * 1500, headers=NDJSON)
        assert response.status_code == 200
        assert [one["index"] for one in response.json()["rejected"]] == list(range(1000))
        assert response.json()["rejected_total"] == 1500


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-ndjson", ndjson([feature("a"), BAD, feature("b")]).replace(b"\n", b"\r\n\r\n")),
        ("application/ndjson; charset=utf-8", ndjson([feature("a"), BAD, feature("b")]).rstrip()),
        ("application/jsonl", b"\n\n" + ndjson([feature("a"), BAD, feature("b")])),
        (
            "application/geo+json-seq",
            b"".join(b"\x1e" + json.dumps(one, indent=1).encode() + b"\n" for one in (feature("a"), BAD, feature("b"))),
        ),
    ],
)
async def test_streams_are_cut_at_their_separator(kind: str, body: bytes) -> None:
    async with in_memory() as (client, _):
        verdict = (await client.post("/v1/updates", content=body, headers={"content-type": kind})).json()
        assert (verdict["accepted"], [one["index"] for one in verdict["rejected"]]) == (2, [1])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"1",
        b"null",
        b'{"type":"Feature"',
        b'{"type":"FeatureCollection"}',
        b'{"type":"FeatureCollection","features":{}}',
        b'{"updates":null}',
        b'{"updates":[1,]}',
        b'{"updates":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"updates":[]} x',
        b'{"type":"Polygon","coordinates":[]}',
    ],
)
async def test_a_json_body_that_is_nothing_known_is_400(body: bytes) -> None:
    async with in_memory() as (client, _):
        response = await client.post("/v1/updates", content=body, headers={"content-type": "application/json"})
        assert problem(response) == (400, "bad_message")


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_body_is_answered_with_5xx(value: Any) -> None:
    import anyio

    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    async def post() -> None:
        async with in_memory() as (client, gate):
            for kind in ("application/json", "application/x-ndjson", "application/geo+json-seq"):
                for content in (body, b'{"updates":[' + body + b"]}", b'{"type":"Feature","id":' + body + b',"geometry":' + body + b"}"):
                    response = await client.post("/v1/updates", content=content, headers={"content-type": kind})
                    assert response.status_code in (200, 400)
            gate.node.engine.verify()

    anyio.run(post)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({"content-type": "APPLICATION/JSON", "content-encoding": "identity"}, 200),
    ],
)
async def test_media_types(headers: dict[str, str], expected: int) -> None:
    async with in_memory() as (client, _):
        response = await client.post("/v1/updates", content=b'{"updates":[]}', headers=headers)
        assert response.status_code == expected


async def test_bodies_have_a_length_and_a_limit() -> None:
    async def chunks(*parts: bytes) -> Any:
        for part in parts:
            yield part

    async with in_memory(body_bytes=100, ndjson_bytes=200) as (client, gate):
        json_type = {"content-type": "application/json"}
        small = b'{"updates":[]}'
        assert (await client.post("/v1/updates", content=chunks(small[:5], small[5:]), headers=json_type)).json() == NO_VERDICTS
        assert problem(await client.post("/v1/updates", content=small + b" " * 100, headers=json_type)) == (413, "too_big")
        assert problem(await client.post("/v1/updates", content=chunks(small, b" " * 100), headers=json_type)) == (413, "too_big")
        assert problem(await client.post("/v1/updates", content=b"x\n" * 101, headers=NDJSON)) == (413, "too_big")
        request = client.build_request("POST", "/v1/updates", headers=json_type)
        del request.headers["content-length"]
        assert problem(await client.send(request)) == (411, "bad_message")
        assert not gate.node.counters.updates["accepted"]


async def test_a_stream_over_its_limit_tells_what_was_applied_and_drops_the_cut_line() -> None:
    async def chunks() -> Any:
        yield ndjson([{"op": "delete", "id": "a"}, BAD, {"op": "delete", "id": "b"}])
        yield b'{"op":"delete","id":"c"}'
        yield b"\n" + b" " * 300

    async with in_memory(ndjson_bytes=250) as (client, gate):
        response = await client.post("/v1/updates", content=chunks(), headers=NDJSON)
        assert problem(response) == (413, "too_big")
        body = response.json()
        assert (body["accepted"], body["rejected_total"], body["rejected"][0]["index"]) == (2, 1, 1)
        assert gate.node.counters.updates["accepted"] == 2


async def test_an_update_over_message_bytes_is_one_rejected_update() -> None:
    long = feature("long", properties={"text": "x" * 5000})
    async with in_memory({"message_bytes": 4000}) as (client, _):
        for response in (
            await client.post("/v1/updates", content=ndjson([feature("a"), long, feature("b")]), headers=NDJSON),
            await client.post("/v1/updates", json={"updates": [feature("a", 1), long, feature("b", 1)]}),
        ):
            verdict = response.json()
            assert (verdict["accepted"], [(one["index"], one["code"]) for one in verdict["rejected"]]) == (2, [(1, "too_big")])
        assert (await client.post("/v1/updates", json=long)).json()["rejected"][0]["code"] == "too_big"


# Looking


async def test_entities_by_box_zoom_and_filter() -> None:
    async with in_memory() as (client, _):
        updates = [
            feature("bus-1", 1, 1, kind="bus", properties={"speed": 3}),
            feature("bus-2", 2, 2, kind="bus", properties={"speed": 30}, min_zoom=12),
            feature("tram", 50, 50, kind="tram"),
            feature("date line", 180, 0, access=["user:eve"]),
        ]
        await client.post("/v1/updates", json={"updates": updates})

        async def ids(**params: str) -> list[str]:
            response = await client.get("/v1/entities", params=params)
            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == "application/geo+json"
            assert response.json()["type"] == "FeatureCollection"
            return [one["id"] for one in response.json()["features"]]

        assert await ids() == ["bus-1", "bus-2", "date line", "tram"]
        assert await ids(bbox="0,0,3,3") == ["bus-1", "bus-2"]
        assert await ids(bbox=" 0, 0,3,3 ", zoom="11.5") == ["bus-1"]
        assert await ids(bbox="170,-10,190,10") == ["date line"]
        assert await ids(filter=json.dumps(["all", ["==", ["kind"], "bus"], [">", ["get", "speed"], 10]])) == ["bus-2"]
        assert await ids(bbox="100,0,110,1") == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("bbox=", "bad_view"),
        ("bbox=1,2,3", "bad_view"),
        ("bbox=1,2,3,4,5", "bad_view"),
        ("bbox=1,2,3,4],[1", "bad_view"),
        ("bbox=nan,0,1,1", "bad_view"),
        ("bbox=0,0,1e999,1", "bad_view"),
        ("bbox=3,0,1,1", "bad_view"),
        ("bbox=%FF", "bad_view"),
        ("zoom=x", "bad_view"),
        ("zoom=65", "bad_view"),
        ("zoom=true", "bad_view"),
        ("filter=", "bad_filter"),
        ("filter=x", "bad_filter"),
        ('filter=["nope"]', "bad_filter"),
        ('filter=["==","kind","bus"]', "bad_filter"),
        ("filter=" + "[" * 5000, "bad_filter"),
        ("filter=%ED%A0%80", "bad_filter"),
    ],
)
async def test_bad_queries_are_400(query: str, code: str) -> None:
    async with in_memory() as (client, _):
        assert problem(await client.get(f"/v1/entities?{query}")) == (400, code)


IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda id: len(id.encode()) <= 128 and id not in (".", "..")
)


@settings(max_examples=50)
@given(
    st.lists(IDS | st.sampled_from(["a/b", "/", "//", "a%2Fb", "?x=1", "#", "ü/ж", "\ufffd", "\u2028", "+", " "]), min_size=1, unique=True)
)
def test_every_id_can_be_looked_up_and_deleted(ids: list[str]) -> None:
    import anyio

    async def run() -> None:
        async with in_memory() as (client, _):
            await client.post("/v1/updates", json={"updates": [feature(id) for id in ids]})
            for id in ids:
                path = f"/v1/entities/{quote(id, safe='')}"
                assert (await client.get(path)).json()["id"] == id
                assert (await client.delete(path)).json() == NO_VERDICTS | {"accepted": 1}
                assert problem(await client.get(path)) == (404, "unknown_entity")
                assert problem(await client.delete(path)) == (404, "unknown_entity")

    anyio.run(run)


@pytest.mark.parametrize("id", ["", "x" * 129, "%FF", "a%0A", "%00", "a%C2%85"])
async def test_what_is_no_id_is_400(id: str) -> None:
    async with in_memory() as (client, _):
        await client.post("/v1/updates", json={"updates": [feature("a"), feature("\ufffd")]})
        for method in ("GET", "DELETE"):
            assert problem(await client.request(method, f"/v1/entities/{id}")) == (400, "bad_id")
        assert len((await client.get("/v1/entities")).json()["features"]) == 2


async def test_sessions_and_explain() -> None:
    async with in_memory() as (client, gate):
        session, _ = join(gate, bbox=[0, 0, 10, 10])
        updates = [feature("seen", 1, 1), feature("far", 50, 50), feature("hidden", 1, 1, access=["user:eve"])]
        await client.post("/v1/updates", json={"updates": updates})
        gate.node.engine.verify()
        while (line := (await client.get("/v1/sessions")).json()["sessions"][0])["outbox"] or not line["seq"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert line == {
            "name": session.name,
            "user": None,
            "client": "test/1",
            "peer": "192.0.2.7",
            "encoding": "json",
            "seq": line["seq"],
            "total": 1,
            "shown": 1,
            "outbox": 0,
        }

        async def explain(entity: str) -> dict[str, Any]:
            response = await client.get("/v1/explain", params={"session": session.name, "entity": entity})
            assert response.status_code == 200
            body = response.json()
            assert isinstance(body, dict)
            return body

        seen, far, hidden = [await explain(id) for id in ("seen", "far", "hidden")]
        assert (seen["sees"], far["sees"], hidden["sees"]) == (True, False, False)
        assert (seen["box"], far["box"], hidden["rights"]) == (True, False, False)
        assert (await explain("nobody"))["exists"] is False
        assert problem(await client.get("/v1/explain", params={"session": "nobody", "entity": "seen"})) == (404, "unavailable")
        assert problem(await client.get("/v1/explain", params={"session": session.name})) == (400, "bad_message")
        assert problem(await client.get("/v1/explain", params={"session": session.name, "entity": ""})) == (400, "bad_id")
        session.on_close(1000)
        assert (await client.get("/v1/sessions")).json() == {"sessions": []}


async def test_health_and_readiness(engine_kind: str) -> None:
    async with in_memory() as (client, gate):
        assert (await client.get("/healthz")).text.strip() == "ok"
        await client.post("/v1/updates", json=feature("a"))
        node = gate.node
        expected = {
            "degraded": False,
            "troubles": {},
            "whole": True,
            "node": node.name,
            "epoch": node.epoch,
            "world": node.world,
            "engine": engine_kind,
            "entities": 1,
        }
        assert (await client.get("/readyz")).json() == expected


# Who gets in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8766"}, 200),
        ({"host": "[::1]:8766"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "api.example"}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "https://map.example"}, 200),
        ({"origin": "https://map.example.evil"}, 403),
        ({"origin": "https://evil-map.example"}, 403),
        ({"origin": "http://map.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
    ],
)
async def test_host_and_origin(headers: dict[str, str], status: int) -> None:
    async with in_memory(hosts=["api.example"], origins=["https://map.example"]) as (client, gate):
        await client.post("/v1/updates", json=feature("a"))
        for method, path in (("GET", "/healthz"), ("GET", "/v1/entities"), ("DELETE", "/v1/entities/a")):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == status
            if status != 200:
                assert problem(response) == (403, "forbidden")
                assert "evil" not in response.text
        assert (gate.node.engine.get("a") is None) == (status == 200)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "", "10.1.2.3", "inner.example"])
async def test_beyond_loopback_a_name_must_be_listed(bound: str) -> None:
    async with in_memory(host=bound, hosts=["api.example"]) as (client, _):
        for host, status in (
            ("10.1.2.3:8766", 200),
            ("[2001:db8::1]", 200),
            ("localhost", 200),
            ("api.example:8766", 200),
            ("inner.example", 200 if bound == "inner.example" else 403),
            ("evil.example", 403),
            ("10.1.2.3.evil.example", 403),
            ("", 403),
        ):
            headers = {"host": host, "origin": f"http://{host}"}
            assert (await client.get("/healthz", headers=headers)).status_code == status, host


async def test_a_listed_origin_may_ask_and_read() -> None:
    async with in_memory(origins=["HTTPS://map.example:443"]) as (client, _):
        preflight = {
            "origin": "https://map.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        response = await client.options("/v1/updates", headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://map.example"
        response = await client.get("/healthz", headers={"origin": "https://map.example"})
        assert response.headers["access-control-allow-origin"] == "https://map.example"
        assert (await client.options("/v1/updates", headers=preflight | {"origin": "https://evil.example"})).status_code == 403
    async with in_memory() as (client, _):
        assert "access-control-allow-origin" not in (await client.get("/healthz")).headers


async def test_what_is_not_there_and_what_cannot_be_done() -> None:
    async with in_memory() as (client, gate):
        assert problem(await client.get("/v1/nothing?<script>")) == (404, "unsupported")
        assert problem(await client.get("/v1/sessions/")) == (404, "unsupported")
        response = await client.put("/v1/entities/a")
        assert problem(response) == (405, "unsupported")
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
        assert problem(await client.get("/v1/updates")) == (405, "unsupported")
        assert problem(await client.get("/healthz", headers=[("x", "1")] * (HEADERS_MAX + 1))) == (431, "too_big")
        assert gate.node.counters.events["http_404"] == 2


async def test_a_bug_is_500_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("secret")

    async with in_memory() as (client, gate):
        replace(monkeypatch, gate.node, "get", fail)
        response = await client.get("/v1/entities/a")
        assert problem(response) == (500, "unavailable")
        assert "secret" not in response.text
        assert (await client.get("/healthz")).status_code == 200


async def test_it_works_mounted_in_another_app() -> None:
    async with open_gate(configured()) as gate:
        app = Starlette(routes=[Mount("/live", make_app(gate))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.post("/live/v1/updates", json=feature("a/b"))).json()["accepted"] == 1
            assert (await client.get("/live/v1/entities/a%2Fb")).json()["id"] == "a/b"
            assert (await client.get("/live/healthz")).status_code == 200
            assert (await client.get("/live/v1/entities/")).status_code == 400
