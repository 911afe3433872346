"""The client: a mirror of what a view shows, and the connection that keeps it right and comes back by itself.

    async with Client("ws://127.0.0.1:8765/ws") as client:
        await client.look([-97.8, 30.2, -97.6, 30.4])
        async for change in client:
            print(len(client.entities), change.entered, change.left)

Law: the mirror is always as new as the connection. Frames are read and applied as they come; a consumer that is slow gets
merged changes (see `realtime.client.changes`) and neither slows the reading down nor makes anything grow.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from realtime.client.backoff import Backoff, comes_back
from realtime.client.changes import Changes
from realtime.client.keeper import Keeper
from realtime.client.link import NOT_OF_THE_PROTOCOL, Link, Socket, greet
from realtime.client.mirror import Mirror
from realtime.client.status import BROKEN, Closed, Statistics, Status
from realtime.client.views import Views
from realtime.errors import CloseCode, Refused
from realtime.messages import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, Ack, Check, Welcome

logger = logging.getLogger(__name__)

FRAME_BYTES_MAX = 64 * 1024 * 1024  # a frame of the server is `frame_bytes` and one entity; what is longer is none
CLOSE_TIMEOUT_S = 1.0


class Client:
    """See above. One connection at a time, from `async with` to its end, and a pause of `backoff` before the next.

    `encoding` is `json` or `msgpack`; `options` go to `websockets.connect` (`ssl`, `additional_headers`, `proxy`, …). Every
    `check_interval_s` the mirror is compared with the server's digest, and healed where it differs; a connection on which
    nothing at all came since the last comparison is given up. `on_status` and `on_error` are called from the loop with each
    new `Status`, and with what the server refused but no call waits for (without `on_error` that is logged).
    Raises ValueError for a bad URL or encoding.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        encoding: Literal["json", "msgpack"] = "json",
        name: str = "realtime.client",
        backoff: Backoff | None = None,
        check_interval_s: float = 10.0,
        on_status: Callable[[Status], None] | None = None,
        on_error: Callable[[Refused], None] | None = None,
        **options: Any,
    ) -> None:
        try:
            parse_uri(url)
        except WebSocketException as error:
            raise ValueError(f"url: {error}") from None
        if encoding not in ("json", "msgpack"):
            raise ValueError(f"encoding: json or msgpack is expected, not {encoding!r}")
        self.url = url
        self.token = token  # of the next connection
        self.welcome: Welcome | None = None  # of the newest connection
        self.status = Status("connecting")
        self.statistics = Statistics()
        self._keeper = Keeper(self.statistics)
        self._views = Views()
        self._ids = itertools.count(1)  # of views and publishes together, so that an error's `ref` is one of them
        self._subprotocol = Subprotocol(SUBPROTOCOL_JSON if encoding == "json" else SUBPROTOCOL_MSGPACK)
        self._name = name
        self._backoff = backoff or Backoff()
        self._check_interval_s = check_interval_s
        self._on_status = on_status
        self._on_error = on_error
        self._options = options
        self._link: Link | None = None
        self._has_moved = asyncio.Event()  # the status is another one; each status has its own
        self._task: asyncio.Task[None] | None = None
        self._closed: Closed | None = None  # for good

    # What is held

    @property
    def mirror(self) -> Mirror:
        """The copy of what the view shows."""
        return self._keeper.mirror

    @property
    def entities(self) -> dict[str, dict[str, Any]]:
        """Those of the mirror, Features by id. Not to be changed."""
        return self._keeper.mirror.entities

    def __aiter__(self) -> Changes:
        """Iterate over what happens to the mirror, merged while nobody asks; what it holds already comes first.

        Ends with the client; raises `Closed` where it stays away. Any number may iterate.
        """
        return self._keeper.changes()

    # Asking

    async def look(
        self,
        bbox: Sequence[float] | None,
        *,
        zoom: float | None = None,
        filter: Any = None,
        ids: Iterable[str] | None = None,
        max_hz: float | None = None,
    ) -> None:
        """Look at this and nothing else; return when the mirror shows all of it, or of a newer view.

        `bbox` is `[west, south, east, north]`; None: only `ids`. At most `views_per_s` are sent, the newest wins, and every
        later connection begins with it, also where this call was cancelled. Raises `Refused` where the server refuses it
        (then the view before it goes on), and `Closed` where the client stays away.
        """
        named = {"zoom": zoom, "filter": filter, "ids": None if ids is None else list(ids), "max_hz": max_hz}
        view = {"bbox": bbox} | {name: value for name, value in named.items() if value is not None}
        # A copy, as the caller may change its objects later; and a TypeError here for what nobody could send.
        view = msgspec.json.decode(msgspec.json.encode(view))
        self._assert_running()
        id = next(self._ids)
        self._views.want(id, view)
        if self._link is not None:
            self._link.wake()
        await self._views.wait_shown(id)

    async def publish(self, updates: Iterable[Any]) -> Ack:
        """Publish updates (Features, patches, moves, deletes as dicts); return the verdicts.

        Waits for a connection. Raises `Refused` where the session may not, or the message is over `message_bytes`; `Closed`
        where the connection ended before the answer came: whether they were applied is not known then.
        """
        link = await self._wait_link()
        return await link.publish(next(self._ids), list(updates))

    async def check(self) -> Check:
        """Return the server's word on what the mirror must amount to; where it differs, healing has begun.

        `pending` 0 says that the mirror is the present. Waits for a connection; raises `Closed` where it ended before the
        answer came.
        """
        link = await self._wait_link()
        return await link.check()

    def refresh(self) -> None:
        """Ask for everything anew, where there is a connection; every new one does so where it has to."""
        if self._link is not None:
            self._link.refresh()

    async def wait_open(self) -> None:
        """Wait until there is a connection. Raises `Closed` where the client stays away."""
        await self._wait_link()

    async def _wait_link(self) -> Link:
        self._assert_running()
        while self._link is None:
            await self._has_moved.wait()
            self._assert_running()
        return self._link

    def _assert_running(self) -> None:
        if self._closed is not None:
            raise Closed(self._closed.code, self._closed.reason)
        if self._task is None:
            raise RuntimeError("a client lives within `async with`")

    # From start to end

    async def __aenter__(self) -> Self:
        """Begin to connect. This waits for nothing; what is asked for then does."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection for good; the mirror stays as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()  # raises what was a bug
        self._end(Closed(CloseCode.NORMAL, "closed by the client"))

    async def _run(self) -> None:
        """Connect, serve, and come back, until a close code says not to."""
        try:
            while True:
                self._set_status(Status("connecting"))
                code, reason, wait_s = await self._connect()
                if wait_s is None:
                    return self._end(Closed(code, reason))
                self._set_status(Status("waiting", code, reason, wait_s))
                await asyncio.sleep(wait_s)
        except Exception as error:
            self._end(Closed(CloseCode.BUG, f"a bug of the client: {error!r}"))
            raise

    def _end(self, closed: Closed) -> None:
        if self._closed is not None:
            return
        self._closed = closed
        self._views.end(closed)
        self._keeper.end(closed)
        self._set_status(Status("closed", closed.code, closed.reason))

    def _set_status(self, status: Status) -> None:
        self.status = status
        self._has_moved.set()
        self._has_moved = asyncio.Event()
        if self._on_status is not None:
            # By the loop, which reports what a callback raises; here it would end the connection.
            asyncio.get_running_loop().call_soon(self._on_status, status)

    def _complain(self, refused: Refused) -> None:
        if self._on_error is not None:
            asyncio.get_running_loop().call_soon(self._on_error, refused)
        else:
            logger.warning("%s: refused: %s: %s", self.url, refused.code, refused.message)

    # One connection

    async def _connect(self) -> tuple[int, str, float | None]:
        """Serve one connection to its end; return how it ended and how long to stay away (None: for good)."""
        try:
            socket = await connect(
                self.url,
                subprotocols=[self._subprotocol],
                compression=None,
                max_size=FRAME_BYTES_MAX,
                ping_interval=None,  # the checks find a dead connection, and do not take a slow one for it
                close_timeout=CLOSE_TIMEOUT_S,
                create_connection=Socket,
                **self._options,
            )
        except (OSError, EOFError, WebSocketException) as error:
            return BROKEN, str(error) or type(error).__name__, self._backoff.wait_s(0)
        assert isinstance(socket, Socket)
        try:
            return await self._serve(socket)
        finally:
            await socket.close()

    async def _serve(self, socket: Socket) -> tuple[int, str, float | None]:
        try:
            self.welcome = await greet(socket, self._name, self.token, self.statistics)
        except (ConnectionClosed, TimeoutError, *NOT_OF_THE_PROTOCOL) as error:
            code = socket.close_code or BROKEN
            return code, socket.close_reason or f"no welcome: {error}", self._wait_s(code, None)
        link = Link(socket, self.welcome, self._keeper, self._views, self.statistics, self._check_interval_s, self._complain)
        self._link = link
        self._set_status(Status("open"))
        code, reason = int(CloseCode.NORMAL), "closed by the client"
        try:
            left = await link.run()
            if left is None:
                code, reason = socket.close_code or BROKEN, socket.close_reason or ""
            else:
                code, reason = BROKEN, str(left)
                if left.is_dead:
                    socket.transport.abort()
        finally:
            self._link = None
            link.end(code, reason)
        return code, reason, self._wait_s(code, link)

    def _wait_s(self, code: int, link: Link | None) -> float | None:
        """Return how long to stay away after a connection ended so; None: for good."""
        if code == CloseCode.TOO_BIG:
            self._keeper.may_have = False
        if not comes_back(code):
            return None
        now = asyncio.get_running_loop().time()
        if link is not None and link.return_at is not None:
            self._backoff.reset()
            return max(0.0, link.return_at - now)
        return self._backoff.wait_s(0 if link is None else now - link.opened_at)
