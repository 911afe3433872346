"""The server as a whole, for a service, for a test and for anybody's asyncio program.

    async with Server(Config()) as server:
        server.publish([{"type": "Feature", "id": "bus-7", …}])

Law: it lives in the loop that runs it, configures no logging and touches no signals; what it opened it closes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import msgspec

from realtime.cluster.cluster import Cluster
from realtime.cluster.file import new_world_file
from realtime.cluster.hub import Hub
from realtime.cluster.join import Join
from realtime.cluster.workers import Place
from realtime.config import Config
from realtime.counters import Counters
from realtime.engine.filters import parse_filter
from realtime.errors import CloseCode
from realtime.gateway.api import make_app
from realtime.gateway.flush import Flusher
from realtime.gateway.http import ApiServer
from realtime.gateway.identity import Identity, configured
from realtime.gateway.others import PROCESS, answer
from realtime.gateway.public import pages
from realtime.gateway.session import Gate
from realtime.gateway.websocket import Listener, listen
from realtime.geo import WORLD, view_boxes
from realtime.messages import Drain
from realtime.node import Node, Result

LOOP_LAG_INTERVAL_S = 0.1
DRAIN_POLL_S = 0.02


class Server:
    """One node: the public port for viewers, the API port for publishers, and the calls of this class.

    `config.http.enabled = False` leaves the API port closed; `asgi` serves the same routes inside another app.
    """

    def __init__(self, config: Config | None = None, *, identity: Identity | None = None, place: Place | None = None) -> None:
        """`place` is for the processes of `realtime serve --workers`; raises `ConfigError` for settings that cannot be used."""
        self.config = config or Config()
        self.counters = Counters()
        self.node = Node(self.config, self.counters)
        self._identity = configured(self.config) if identity is None else identity
        self._gate: Gate | None = None
        self._flusher: Flusher | None = None
        self._listener: Listener | None = None
        self._api: ApiServer | None = None
        self._cluster = Cluster(self.node, self.config) if self.config.redis.url else None
        self._file = new_world_file(self.node, self.config) if place is None or place.is_hub else None
        self._lag_timer: asyncio.TimerHandle | None = None
        self._place = place
        self._hub: Hub | None = None
        self._join: Join | None = None
        if place is not None:
            self.node.set_clock(place.clock_offset_s)

    # Publishing and asking, in process

    def publish(self, updates: Iterable[Any]) -> Result:
        """Apply updates (GeoJSON Features, patches, moves, deletes as dicts) at once; return their verdicts.

        It takes the loop for as long as it takes; a batch of thousands belongs into `publish_sliced`.
        """
        return self.node.publish(updates)

    async def publish_sliced(self, updates: Iterable[Any]) -> Result:
        """Apply updates in slices of at most 5 ms of a loop turn."""
        return await self.node.publish_sliced(updates)

    def entities(self, bbox: Sequence[float] | None = None, *, zoom: float = 24.0, filter: Any = None) -> list[dict[str, Any]]:
        """Return what is in a box `[west, south, east, north]` (None: everywhere) as Features, ordered by id.

        An operator's question: rights and samples do not count. Raises `Refused`.
        """
        parsed = None if filter is None else parse_filter(filter, None, self.config.limits)
        boxes = (WORLD,) if bbox is None else view_boxes(bbox)
        return [msgspec.json.decode(feature) for feature in self.node.engine.search(boxes, zoom, parsed)]

    # Where it is

    @property
    def url(self) -> str:
        """Where viewers connect: ws://HOST:PORT/ws."""
        assert self._listener is not None, "not started"
        return f"ws://{_in_url(self.config.server.host)}:{self._listener.port}/ws"

    @property
    def page_url(self) -> str:
        """Where the public port answers plain requests: http://HOST:PORT."""
        assert self._listener is not None, "not started"
        return f"http://{_in_url(self.config.server.host)}:{self._listener.port}"

    @property
    def http_url(self) -> str | None:
        """Where the API is: http://HOST:PORT; None where it is not enabled."""
        return None if self._api is None else self._api.url

    @property
    def asgi(self) -> Any:
        """The API as an ASGI app, to be mounted into another one. It has no authentication of its own."""
        assert self._gate is not None, "not started"
        return make_app(self._gate)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return 0 if self._gate is None else len(self._gate.sessions)

    # From start to end

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the API's port, get the world from where it is kept, and open the port for viewers.

        Raises OSError where a port cannot be bound or the file of `store.path` cannot be used; nothing is left open then.
        """
        self._flusher = Flusher(self.node)
        self._gate = Gate(self.node, self._flusher, self._identity)
        try:
            if self._file is not None:  # before anybody can publish to a world that is not there yet, or is told its id
                await self._file.start()
            if self._place is not None:
                await self._take_place(self._place, self._gate)
            if self.config.http.enabled:
                self._api = ApiServer(self._gate)
                await self._api.start(self.config)
            if self._cluster is not None:
                await self._cluster.start()
            if self._hub is not None:
                self._hub.open()
            found = pages(self.config.server)
            self._listener = await listen(
                self.config,
                self._gate.new_session,
                public_get=lambda path, _: found.get(path),
                count=self.counters.count,
                is_shared=self._place is not None,
            )
        except BaseException:
            await self.stop()
            raise
        self._watch_loop(asyncio.get_running_loop().time())

    async def _take_place(self, place: Place, gate: Gate) -> None:
        """Be one of several processes on this machine; return when the world that the others hold is here."""
        if place.is_hub:
            gate.others = self._hub = Hub(self.node, place, self._cluster.feed if self._cluster is not None else 0)
            await self._hub.start()
        else:
            self._join = Join(self.node, place, PROCESS, lambda what, argument: answer(gate, place.number, what, argument))
            await self._join.start()

    def set_holders(self, numbers: Iterable[int]) -> None:
        """Note which of the other processes still hold the world that this one waits for."""
        if self._hub is not None:
            self._hub.set_holders(numbers)

    async def drain(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Ask the clients to go, for up to `drain_s` or until `is_enough()` is true, then close those that are left."""
        if self._listener is None or self._gate is None:
            return
        self._listener.stop_accepting()
        for session in list(self._gate.sessions.values()):
            session.send(Drain(int(random.uniform(0.2, 1.0) * self.config.server.drain_s * 1000)))
        loop = asyncio.get_running_loop()
        stop = loop.time() + self.config.server.drain_s
        while self._listener.connections and loop.time() < stop and not is_enough():  # noqa: ASYNC110 - `is_enough` is no event
            await asyncio.sleep(DRAIN_POLL_S)
        self._listener.close_all(CloseCode.RESTART)

    async def stop(self) -> None:
        """Close everything at once: the API, connections with 1012, then the rest, whatever fails on the way."""
        if self._lag_timer is not None:
            self._lag_timer.cancel()
        async with AsyncExitStack() as closing:  # from the last to the first
            closing.callback(self.node.close)
            if self._flusher is not None:
                closing.callback(self._flusher.close)
            if self._file is not None:
                closing.push_async_callback(self._file.close)
            for part in (self._hub, self._join, self._cluster):
                if part is not None:
                    closing.push_async_callback(part.stop)
            if self._gate is not None:
                closing.push_async_callback(_end, self._gate.tasks)
            if self._listener is not None:
                closing.push_async_callback(self._listener.aclose)
                closing.callback(self._listener.close_all, CloseCode.RESTART)
            if self._api is not None:
                closing.push_async_callback(self._api.stop)
            self._api = self._listener = self._hub = self._join = None

    def _watch_loop(self, due: float) -> None:
        """Observe how late the loop runs its timers."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.counters.loop_lag.observe(max(now - due, 0.0))
        self._lag_timer = loop.call_at(now + LOOP_LAG_INTERVAL_S, self._watch_loop, now + LOOP_LAG_INTERVAL_S)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _in_url(host: str) -> str:
    """Return a bound address as a URL has it; the wildcard addresses as loopback."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
