"""Viewers of a trace over real sockets: each with a mirror of its own that judges every frame, and with habits of its own.

Law: nothing of the client that the package ships is used. What a viewer holds comes from frames alone, every frame is
judged when it is read, and a connection that ends without the viewer's doing is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.model import Feature, State, World
from tests.model_viewer import Viewer

CHECK_S = 2.0
ANSWER_S = 60.0  # for what the server owes; beyond it the test is over anyway
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST

FILTERS: list[Any] = [
    None,
    None,
    ["==", ["kind"], "bus"],
    ["==", ["kind"], "notice"],
    [">", ["get", "speed"], 5],
    ["!", ["==", ["get", "speed"], 0]],
    ["in", ["get", "state"], ["literal", ["route 801", "route 803", "route 7", "route 10"]]],
    ["all", ["has", "label"], ["<", ["get", "state"], "route 3"]],
    ["any", ["==", ["id"], "5022"], ["<=", ["get", "speed"], 2]],
]


class TraceWorld(World):
    """The model's world, with every state that there ever was found by its version."""

    def __init__(self) -> None:
        super().__init__()
        self.by_version: dict[tuple[str, int], State] = {}

    def _state(self, *what: Any) -> State:
        state = super()._state(*what)
        self.by_version[state.id, state.version] = state
        return state


class Judge(Viewer):
    """The model's judge of a late world, that looks at one state where the model goes through an entity's whole history.

    A state that equals what a frame made has that version, and in a trace no version comes again: nothing else can equal it.
    """

    world: TraceWorld
    _judged: int | None = None

    def _take(self, how: str, feature: Feature) -> None:
        self._judged = feature["version"]
        try:
            super()._take(how, feature)
        finally:
            self._judged = None

    def _alive(self, entity_id: str) -> list[State]:
        if self._judged is None:
            return super()._alive(entity_id)
        state = self.world.by_version.get((entity_id, self._judged))
        return [] if state is None else [state]


class Dropped(AssertionError):
    """A connection ended without the viewer's doing."""


@dataclass(frozen=True)
class Habits:
    """What kind of viewer it is."""

    encoding: str = "json"
    token: str | None = None
    user: str | None = None
    principals: tuple[str, ...] = ()
    pan_s: float = 1.0  # mean time between two views; 0: it keeps the first, the whole world
    read_s: float = 0.0  # the longest time it takes over a frame
    buffer_bytes: int | None = None  # SO_RCVBUF
    stop_from: int = 0  # how many entities there are when it stops reading; 0: it does not
    stop_s: float = 8.0  # for how long
    reset_s: float = 0.0  # mean time between two resets by RST; 0: none


class TraceViewer:
    """One viewer, over as many connections as it makes."""

    def __init__(self, name: str, url: str, world: TraceWorld, habits: Habits, seed: int, expire: Callable[[], None]) -> None:
        self.name = name
        self.habits = habits
        self.session = ""  # the server's name for it
        self.is_stopped = False
        self.counts: Counter[str] = Counter()  # of the judges of all connections
        self._url = url
        self._world = world
        self._random = random.Random(seed)
        self._expire = expire
        self._judge: Judge | None = None
        self._socket: ClientConnection | None = None
        self._quiet = asyncio.Event()
        self._check = asyncio.Event()  # one came
        self._checked: dict[str, Any] = {}
        self._view_id = 0
        self._shown_id: Any = None  # of the view that the last delta belonged to
        self._world_id = ""
        self._epoch = ""  # of the node's life that the mirror comes from
        self._heard_at = 0.0  # the last frame; 0: there was none
        self._is_resetting = False

    @property
    def held(self) -> int:
        """How many entities it holds."""
        return 0 if self._judge is None else len(self._judge.mirror)

    def quiet(self) -> None:
        """The source is quiet: come to rest, and be judged for the last time."""
        self._quiet.set()

    async def run(self) -> None:
        """Look around until the source is quiet and the mirror is what brute force says. Raises `Violation`."""
        while not await self._visit():
            if self._is_resetting:
                self.counts["RST"] += 1
                await asyncio.sleep(self._random.choice([0, 0, 0.05, 0.5]))

    async def _visit(self) -> bool:
        """Look around on one connection; return whether that was the last."""
        async with await self._connect() as connection:
            await self._greet(connection)
            reading = asyncio.create_task(self._read(connection))
            acting = asyncio.create_task(self._act(connection))
            try:
                done, _ = await asyncio.wait({reading, acting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (reading, acting):
                    task.cancel()
                await asyncio.gather(reading, acting, return_exceptions=True)
            is_over = acting in done and acting.exception() is None and not self._is_resetting
            assert self._judge is not None
            self.counts.update(self._judge.counts)
            for task in done:
                self._raise(task, connection)
        return is_over

    def _raise(self, task: asyncio.Task[None], connection: ClientConnection) -> None:
        error = task.exception()
        if isinstance(error, ConnectionClosed) and not self._is_resetting:
            raise Dropped(f"{self.name}: closed with {connection.close_code} {connection.close_reason}") from error
        if error is not None and not isinstance(error, ConnectionClosed):
            error.add_note(f"{self.name}: {self.habits}")
            raise error

    # Connecting

    async def _connect(self) -> connect:
        self._is_resetting = False
        address = urlsplit(self._url)
        assert address.hostname is not None
        sock = socket.socket()
        if self.habits.buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.habits.buffer_bytes)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
        except BaseException:
            sock.close()
            raise
        return connect(
            self._url,
            sock=sock,
            subprotocols=[Subprotocol(f"realtime.v1.{self.habits.encoding}")],
            compression=None,
            max_size=None,
            # Frames read ahead, beyond what is in the sockets' buffers, would hide a slow reader.
            max_queue=16 if self.habits.buffer_bytes is None else 1,
            ping_interval=None,
            proxy=None,
        )

    async def _greet(self, connection: ClientConnection) -> None:
        habits, before = self.habits, self._judge
        self._judge = self._new_judge()
        await self._send(connection, {"type": "identify"} | ({} if habits.token is None else {"token": habits.token}))
        welcome = self._judge.feed(await connection.recv())
        assert welcome["type"] == "welcome", welcome
        assert welcome["user"] == habits.user
        self.session = welcome["session"]
        view = self._view()
        if before is not None and self._heard_at and self._random.random() < 0.9:
            away_ms = (time.monotonic() - self._heard_at) * 1000
            have = {entity_id: feature["version"] for entity_id, feature in before.mirror.items()}
            view |= {"have": have, "world": self._world_id, "away_ms": away_ms}
            self._resume(before, welcome)
            self.counts["resumed"] += 1
        self._world_id, self._epoch = welcome["world"], welcome["epoch"]
        await self._look(connection, view)

    def _new_judge(self) -> Judge:
        habits = self.habits
        return Judge(self._world, habits.principals, habits.user, habits.encoding, strict_present=False)

    def _resume(self, before: Judge, welcome: dict[str, Any]) -> None:
        """Have the new judge know what is claimed: the server is the one that it was, and believes it."""
        assert self._judge is not None
        assert welcome["world"] == self._world_id
        self._judge.resume(before.mirror)

    async def _send(self, connection: ClientConnection, message: dict[str, Any]) -> None:
        await connection.send(json.dumps(message) if self.habits.encoding == "json" else msgspec.msgpack.encode(message))

    # Looking

    def _view(self) -> dict[str, Any]:
        self._view_id += 1
        view: dict[str, Any] = {"type": "view", "id": self._view_id}
        choose = self._random
        if not self.habits.pan_s:
            return view | {"bbox": [-180, -90, 180, 90]}
        ids = list(self._world.entities) or ["5022"]
        if choose.random() < 0.1:
            view["ids"] = choose.sample(ids, min(len(ids), 3))
        if choose.random() < 0.1:
            view["max_hz"] = choose.choice([1, 5])
        if choose.random() < 0.7:
            view["zoom"] = choose.uniform(9, 17)
        view["filter"] = choose.choice(FILTERS)
        if choose.random() < 0.05:
            return view | {"bbox": None}
        lon, lat = self._somewhere(choose.choice(ids))
        half = 0.004 * 25 ** choose.random()
        return view | {"bbox": [lon - half, lat - half, lon + half, lat + half]}

    def _somewhere(self, near: str) -> tuple[float, float]:
        entity = self._world.entities.get(near)
        lon, lat = (-97.74, 30.27) if entity is None or entity.state.feature is None else entity.state.feature["geometry"]["coordinates"]
        return self._random.gauss(lon, 0.01), self._random.gauss(lat, 0.01)

    async def _look(self, connection: ClientConnection, view: dict[str, Any]) -> None:
        assert self._judge is not None
        self._judge.look(view)
        self.counts["view"] += 1
        await self._send(connection, view)

    async def _act(self, connection: ClientConnection) -> None:
        """Pan, check and reset, each now and then, until the source is quiet."""
        means = {"pan": self.habits.pan_s, "check": CHECK_S, "reset": self.habits.reset_s}
        now = time.monotonic()
        due = {act: now + self._random.expovariate(1 / mean) for act, mean in means.items() if mean}
        while not self._quiet.is_set():
            act = min(due, key=due.__getitem__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due[act] - time.monotonic()):
                    await self._quiet.wait()
            due[act] = time.monotonic() + self._random.expovariate(1 / means[act])
            if act == "pan":
                await self._look(connection, self._view())
            elif act == "check":
                await self._send(connection, {"type": "check"})
            elif not self.is_stopped and not self._quiet.is_set():
                self._reset(connection)
                return
        await self._settle(connection)

    def _reset(self, connection: ClientConnection) -> None:
        self._is_resetting = True
        sock = connection.transport.get_extra_info("socket")
        if sock is not None:  # otherwise the server has just gone
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.transport.abort()

    # Reading

    async def _read(self, connection: ClientConnection) -> None:
        judge = self._judge
        assert judge is not None
        async for frame in connection:
            self._expire()
            message = judge.feed(frame)
            self._heard_at = time.monotonic()
            if message["type"] == "delta":
                self._shown_id = message.get("view")
            elif message["type"] == "check":
                self._checked = message
                self._check.set()
            else:
                raise AssertionError(f"{self.name}: {message}")
            if self.habits.read_s and not self._quiet.is_set():
                await asyncio.sleep(self._random.random() * self.habits.read_s)
            if 0 < self.habits.stop_from <= len(self._world.entities) and not self.counts["stopped"]:
                self.counts["stopped"] += 1
                self.is_stopped = True
                await asyncio.sleep(self.habits.stop_s)
                self.is_stopped = False
        raise Dropped(f"{self.name}: closed with {connection.close_code} {connection.close_reason}")

    async def _settle(self, connection: ClientConnection) -> None:
        """Wait until nothing is pending; then hold the mirror against brute force."""
        judge = self._judge
        assert judge is not None
        async with asyncio.timeout(ANSWER_S):
            # What answers a view of now was said after the source went quiet, and so was a check behind it.
            await self._look(connection, self._view())
            while True:
                self._check.clear()
                await self._send(connection, {"type": "check"})
                await self._check.wait()
                # The judge has held count and digest of this check against the mirror when it came.
                if self._checked["pending"] == 0 and self._checked["seq"] == judge.seq and self._shown_id == self._view_id:
                    break
                await asyncio.sleep(0.05)
        judge.settled()
