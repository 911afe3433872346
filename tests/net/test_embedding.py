"""The server inside somebody else's program: a FastAPI app, its loop, its routes, and nothing of its process touched."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from realtime.client import Client
from realtime.config import load
from realtime.server import Server
from tests.fake_server import until, within

pytestmark = pytest.mark.usefixtures("engine_kind")

BOX = [-98.0, 30.0, -97.0, 31.0]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def make_app() -> FastAPI:
    """Return an app with the server in its lifespan, a route that publishes, and the API below /live."""
    server = Server(load(settings=["server.port=0", "http.enabled=false"]))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server:
            app.mount("/live", server.asgi)
            app.state.server = server
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/buses/{id}")
    async def report(id: str, lon: float, lat: float) -> dict[str, int]:
        geometry = {"type": "Point", "coordinates": [lon, lat]}
        result = server.publish([{"type": "Feature", "id": id, "kind": "bus", "geometry": geometry, "properties": {}}])
        return {"accepted": result.accepted}

    return app


class Uvicorn(uvicorn.Server):
    """uvicorn without the signal handlers of its own, so that whatever changes is our doing."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an app in the running loop; yield a client of it."""
    web = Uvicorn(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, log_level=None, lifespan="on", ws="none"))
    serving = asyncio.create_task(web.serve())
    await until(lambda: web.started or serving.done())
    port = web.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            yield http
    finally:
        web.should_exit = True
        await within(serving)


def surroundings() -> dict[str, Any]:
    """Return what belongs to the whole process and not to a library in it."""
    named = {name: logger for name, logger in logging.Logger.manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    loggers = {
        name: (list(logger.handlers), list(logger.filters), logger.level, logger.propagate, logger.disabled)
        for name, logger in (named | {"root": logging.getLogger()}).items()
    }
    untouched: tuple[Any, ...] = ([], [], logging.NOTSET, True, False)
    loop = asyncio.get_running_loop()
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        # One that is new and says nothing changes nothing.
        "loggers": {name: state for name, state in loggers.items() if state != untouched},
        "logging": (logging.root.manager.disable, logging.getLoggerClass(), logging.lastResort, logging.raiseExceptions),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "loop": (type(loop), loop.get_exception_handler(), loop.get_task_factory(), loop.get_debug()),
        "threads": threading.active_count(),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }


async def test_a_viewer_sees_what_a_route_publishes() -> None:
    app = make_app()
    async with served(app) as http, Client(app.state.server.url) as client:
        await within(client.look(BOX))
        assert (await http.post("/buses/7", params={"lon": -97.7, "lat": 30.2})).json() == {"accepted": 1}
        await until(lambda: "7" in client.entities)
        assert client.entities["7"]["geometry"]["coordinates"] == [-97.7, 30.2]
        await http.post("/buses/7", params={"lon": -97.6, "lat": 30.2})
        await until(lambda: client.entities["7"]["geometry"]["coordinates"] == [-97.6, 30.2])
        await http.post("/buses/7", params={"lon": -90, "lat": 30.2})
        await until(lambda: not client.entities)
        assert (client.statistics.heals, (await client.check()).digest) == (0, client.mirror.digest)


async def test_the_api_is_mounted() -> None:
    app = make_app()
    async with served(app) as http, Client(app.state.server.url) as client:
        await within(client.look(BOX))
        update = {"type": "Feature", "id": "8", "geometry": {"type": "Point", "coordinates": [-97.5, 30.5]}, "properties": {"n": 1}}
        assert (await http.post("/live/v1/updates", json=update)).json()["accepted"] == 1
        await until(lambda: "8" in client.entities)
        found = (await http.get("/live/v1/entities", params={"bbox": ",".join(map(str, BOX))})).json()
        assert [(one["id"], one["version"]) for one in found["features"]] == [("8", client.entities["8"]["version"])]
        assert app.state.server.entities(BOX) == found["features"]
        assert (await http.get("/live/healthz")).status_code == 200
        sessions = (await http.get("/live/v1/sessions")).json()["sessions"]
        assert [session["client"] for session in sessions] == ["realtime.client"]


async def test_nothing_of_the_process_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, not while viewers come and are cut off, and not after: signals, loggers, hooks, threads, the loop."""
    loop = asyncio.get_running_loop()
    caught = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, caught.set)
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    try:
        async with served(FastAPI()) as http:  # whatever uvicorn and httpx do is done
            await http.get("/")
        before = surroundings()
        app = make_app()
        async with served(app) as http, Client(app.state.server.url) as client:
            await within(client.look(BOX))
            await http.post("/buses/7", params={"lon": -97.7, "lat": 30.2})
            await until(lambda: client.entities)
            assert surroundings() == before
            signal.raise_signal(signal.SIGTERM)
            await within(caught.wait())
            assert client.status.state == "open"
        assert surroundings() == before
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_viewers_are_told_when_the_app_ends() -> None:
    app = make_app()
    async with served(app):
        client = Client(app.state.server.url)
        await client.__aenter__()
        await within(client.look(BOX))
    try:
        await until(lambda: client.status.state != "open")
        assert client.statistics.connections == 1
    finally:
        await client.aclose()
