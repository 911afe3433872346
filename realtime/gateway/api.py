"""The API's routes: publishing, and looking at what is there with an operator's eyes.

Law: updates go through the node's publish path and nowhere else; what is read is a snapshot of one moment. The app
starts nothing and holds no request's data, so that it works as well inside somebody else's app.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from realtime.engine.filters import Filter, parse_filter
from realtime.errors import ErrorCode, Refused
from realtime.gateway.answers import Ready, Sessions
from realtime.gateway.body import JSON_TYPES, STREAM_TYPES, UpdateStream, bounded, new_cutter, read_updates
from realtime.gateway.guard import Guard
from realtime.gateway.metrics import CONTENT_TYPE, Metrics
from realtime.gateway.openapi import document
from realtime.gateway.others import EXPLAIN, SESSIONS, TALLY, explain, session_lines
from realtime.gateway.problem import ApiError, CutShort
from realtime.gateway.session import Gate
from realtime.geo import WORLD, Box, view_boxes
from realtime.node import Result
from realtime.values import parse_id

PIECE_BYTES = 64 * 1024  # of a response, between two turns of the loop

Endpoint = Callable[[Request], Awaitable[Response]]

_bbox = msgspec.json.Decoder(tuple[float, float, float, float])
_zoom = msgspec.json.Decoder(Annotated[float, Meta(ge=-64, le=64)])


def make_app(gate: Gate) -> Starlette:
    """Return the API of a node as an ASGI app. It has no authentication; whoever reaches it may do everything."""
    api = _Api(gate)
    http = gate.node.config.http
    middleware = [Middleware(Guard, http, gate.node.counters)]
    if http.origins:
        origins = [_as_sent(origin) for origin in http.origins]
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "DELETE"], allow_headers=["content-type"])
        )
    routes: dict[str, dict[str, Endpoint]] = {
        "/v1/updates": {"POST": api.post_updates},
        "/v1/entities": {"GET": api.get_entities},
        "/v1/entities/{id:path}": {"GET": api.get_entity, "DELETE": api.delete_entity},
        "/v1/sessions": {"GET": api.get_sessions},
        "/v1/explain": {"GET": api.get_explain},
        "/v1/openapi.json": {"GET": api.get_openapi},
        "/healthz": {"GET": api.get_healthz},
        "/readyz": {"GET": api.get_readyz},
        "/metrics": {"GET": api.get_metrics},
    }
    app = Starlette(
        routes=[Route(path, _by_method(endpoints), methods=list(endpoints)) for path, endpoints in routes.items()],
        middleware=middleware,
        exception_handlers={ApiError: _on_api_error, Refused: _on_refused, HTTPException: _on_http_error, Exception: _on_bug},
    )
    app.router.redirect_slashes = False
    return app


def _by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Return one endpoint for all methods of a path, so that a 405 names them all in `Allow`."""

    async def endpoint(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


class _Api:
    """The endpoints of one node."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._node = gate.node
        self._metrics = Metrics(gate.node)

    # Publishing

    async def post_updates(self, request: Request) -> Response:
        kind = _media_type(request.headers.get("content-type", ""))
        node = self._node
        self._refuse_while_loading()
        is_durable = _parse_durable(request.query_params.get("durable"))
        if is_durable and node.settle is None:
            raise Refused(ErrorCode.UNSUPPORTED, "durable: this node keeps nothing beyond its memory; see redis.url and store.path")
        if kind in JSON_TYPES:
            updates = await read_updates(request, node.config)
            return await self._answer(await node.publish_sliced(bounded(updates, node.config.limits.message_bytes)), is_durable)
        if kind in STREAM_TYPES:
            cutter = new_cutter(node.engine_kind, STREAM_TYPES[kind], node.config.limits.message_bytes)
            return await self._post_stream(UpdateStream(request, cutter, node.config), is_durable)
        raise ApiError(415, ErrorCode.UNSUPPORTED, f"Content-Type: one of {', '.join((*JSON_TYPES, *STREAM_TYPES))} is expected")

    async def _post_stream(self, stream: UpdateStream, is_durable: bool) -> Response:
        async with aclosing(stream.updates()) as updates:
            result = await self._node.publish_sliced(updates)
        cut = stream.cut
        if cut is None:
            return await self._answer(result, is_durable)
        return cut.response(CutShort(cut.problem.code, cut.problem.message, **msgspec.structs.asdict(result)))

    def _refuse_while_loading(self) -> None:
        """Take nothing before the world is there: it would be numbered without regard to what is stored."""
        if not self._node.is_whole:
            raise ApiError(503, ErrorCode.UNAVAILABLE, "the world is still being read from where it is kept")

    async def _answer(self, result: Result, is_durable: bool) -> Response:
        """Answer with the verdicts; where that was asked for, only once a store has what was accepted, and 503 if none can."""
        if is_durable and self._node.settle is not None:
            try:
                await self._node.settle()
            except Refused as refused:
                problem = ApiError(503, refused.code, refused.message)
                return problem.response(CutShort(refused.code, refused.message, **msgspec.structs.asdict(result)))
        return _json(result)

    # Entities

    async def get_entities(self, request: Request) -> Response:
        query = request.query_params
        boxes = _parse_bbox(query.get("bbox"))
        zoom = _parse_zoom(query.get("zoom"))
        filter = self._parse_filter(query.get("filter"))
        features = self._node.engine.search(boxes, zoom, filter)
        length = sum(map(len, features)) + max(len(features) - 1, 0) + len(_HEAD) + len(_TAIL)
        return StreamingResponse(_collection(features), headers={"content-length": str(length)}, media_type="application/geo+json")

    def _parse_filter(self, text: str | None) -> Filter | None:
        if text is None:
            return None
        try:
            expression = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise Refused(ErrorCode.BAD_FILTER, "filter: JSON is expected") from None
        return parse_filter(expression, None, self._node.config.limits)

    async def get_entity(self, request: Request) -> Response:
        return Response(self._find(_path_id(request)), media_type="application/geo+json")

    async def delete_entity(self, request: Request) -> Response:
        self._refuse_while_loading()
        id = _path_id(request)
        self._find(id)
        return _json(self._node.publish([{"op": "delete", "id": id}]))

    def _find(self, id: str) -> bytes:
        feature = self._node.engine.get(id)
        if feature is None:
            raise ApiError(404, ErrorCode.UNKNOWN_ENTITY, "id: no such entity")
        return feature

    # Sessions

    async def get_sessions(self, _: Request) -> Response:
        others = self._gate.others
        if others is None:
            return _json(Sessions(await session_lines(self._gate, None)))
        mine = msgspec.json.encode(await session_lines(self._gate, 0)).strip(b"[]")
        lines = (mine, *(await others.ask(SESSIONS)).values())
        return Response(b'{"sessions":[%b]}' % b",".join(filter(None, lines)), media_type="application/json")

    async def get_explain(self, request: Request) -> Response:
        name, id = request.query_params.get("session"), request.query_params.get("entity")
        if name is None or id is None:
            raise ApiError(400, ErrorCode.BAD_MESSAGE, "session, entity: both are expected")
        parse_id(id, "entity")
        explained = explain(self._gate, name, id)
        if not explained and self._gate.others is not None:
            explained = next(filter(None, (await self._gate.others.ask(EXPLAIN, f"{name} {id}")).values()), b"")
        if not explained:
            raise ApiError(404, ErrorCode.UNAVAILABLE, "session: no such session; /v1/sessions names them")
        return Response(explained, media_type="application/json")

    # The node

    async def get_openapi(self, _: Request) -> Response:
        return _json(document(self._node.config))

    async def get_healthz(self, _: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    async def get_readyz(self, _: Request) -> Response:
        node = self._node
        entities = int(node.engine.statistics()["entities"])
        ready = Ready(bool(node.degraded), node.degraded, node.is_whole, node.name, node.epoch, node.world, node.engine_kind, entities)
        response = _json(ready)
        response.status_code = 200 if node.is_whole else 503
        return response

    async def get_metrics(self, _: Request) -> Response:
        if self._gate.others is not None:
            self._metrics.hear(self._gate.others.count, await self._gate.others.ask(TALLY))
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


# Parts of a request


def _as_sent(origin: str) -> str:
    """Return an origin as browsers send it: in lower case, without the scheme's own port."""
    origin = origin.lower()
    return origin.removesuffix(":443") if origin.startswith("https:") else origin.removesuffix(":80")


def _media_type(value: str) -> str:
    """Return the media type of a Content-Type; none if it says another charset than UTF-8."""
    kind, _, parameters = value.partition(";")
    for parameter in parameters.lower().split(";"):
        name, _, charset = parameter.partition("=")
        if name.strip() == "charset" and charset.strip().strip('"') not in ("utf-8", "utf8"):
            return ""
    return kind.strip().lower()


def _path_id(request: Request) -> str:
    """Return the id in the path; servers decode what is not UTF-8 to U+FFFD, which is another id."""
    id = parse_id(request.path_params["id"])
    if "\ufffd" in id and b"%ef%bf%bd" not in request.scope.get("raw_path", b"").lower():
        raise Refused(ErrorCode.BAD_ID, "id: percent-encoded UTF-8 is expected")
    return id


def _parse_bbox(text: str | None) -> Sequence[Box]:
    if text is None:
        return (WORLD,)
    try:
        bbox = _bbox.decode(f"[{text}]")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Refused(ErrorCode.BAD_VIEW, "bbox: west,south,east,north in degrees is expected") from None
    return view_boxes(bbox)


def _parse_durable(text: str | None) -> bool:
    if text not in (None, "0", "1"):
        raise Refused(ErrorCode.BAD_MESSAGE, "durable: 0 or 1 is expected")
    return text == "1"


def _parse_zoom(text: str | None) -> float:
    if text is None:
        return 24.0
    try:
        return float(_zoom.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Refused(ErrorCode.BAD_VIEW, "zoom: a number from -64 to 64 is expected") from None


# Parts of a response

_HEAD, _TAIL = b'{"type":"FeatureCollection","features":[', b"]}"


async def _collection(features: list[bytes]) -> AsyncIterator[bytes]:
    """Yield a FeatureCollection in pieces, each in a turn of its own."""
    piece, size = [_HEAD], 0
    for place, feature in enumerate(features):
        if size >= PIECE_BYTES:
            yield b"".join(piece)
            await asyncio.sleep(0)
            piece, size = [], 0
        if place:
            piece.append(b",")
        piece.append(feature)
        size += len(feature)
    yield b"".join((*piece, _TAIL))


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


# What went wrong


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return ApiError(400, error.code, error.message).response()


async def _on_http_error(_: Request, error: Exception) -> Response:
    """Answer what Starlette refuses by itself: 404 and 405."""
    assert isinstance(error, HTTPException)
    problem = ApiError(error.status_code, ErrorCode.UNSUPPORTED, "path: no such route" if error.status_code == 404 else "method: not here")
    response = problem.response()
    response.headers.update(error.headers or {})
    return response


async def _on_bug(_: Request, __: Exception) -> Response:
    """Answer a bug of ours, which goes on to the server's log."""
    return ApiError(500, ErrorCode.UNAVAILABLE, "internal error").response()
