"""A worker that is not the hub: it has the world from the hub, and hands it what its sessions publish.

Law: whatever happens to the hub, the sessions here go on with what is known; the hub is looked for until it is there again,
and then this process is told everything anew. It changes nothing by itself: updates are the hub's to judge, and what the
hub does not name when all is told is not there any more.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import msgspec

from realtime.cluster.pipe import (
    FORMAT,
    Anew,
    Answer,
    Ask,
    Counts,
    FindView,
    FoundView,
    Hello,
    KeepView,
    Message,
    Pipe,
    Publish,
    Told,
    Verdicts,
    Who,
    frame_of,
    states_frame,
    to_worker,
)
from realtime.cluster.retelling import Retelling
from realtime.cluster.workers import Place
from realtime.engine import FeedKind
from realtime.errors import ErrorCode, Refused
from realtime.intake import Allows
from realtime.node import VIEWS_MAX, Node, Result
from realtime.updates import UpdateParser

RETRY_S = (0.02, 0.5)  # between two attempts to reach the hub: the first, and the longest
BATCH_BYTES = 64 * 1024  # of states, of those that are told to a hub
IN_FLIGHT_BYTES_MAX = 4 * 1024 * 1024  # of updates that the hub has not answered; a longer message goes alone
PUBLISH_S = 10.0
FIND_S = 2.0
HUB = "hub"  # in `degraded`

logger = logging.getLogger(__name__)

Answering = Callable[[str, str], Awaitable[bytes]]


class Join:
    """The way to the hub. `start` returns when the whole world is here."""

    def __init__(self, node: Node, place: Place, process: str, answer: Answering) -> None:
        self._node = node
        self._place = place
        self._process = process
        self._answer = answer
        self._retelling = Retelling(node)
        self._has_been_told = False  # something, on a connection before
        self._parser = UpdateParser(node.config.limits, node.config.publish)
        self._pipe: Pipe | None = None
        self._is_known = False  # the hub has said who it is, on this connection
        self._world = ""  # of what is held here; "": it was never whole
        self._is_whole = asyncio.Event()
        self._is_leaving = False
        self._writable = asyncio.Event()
        self._numbers = itertools.count(1)
        self._publishing: dict[int, asyncio.Future[Counts | None]] = {}
        self._finding: dict[int, asyncio.Future[bytes]] = {}
        self._in_flight_bytes = 0
        self._entry = asyncio.Lock()  # whoever comes first is the first that finds room
        self._room = asyncio.Event()
        self._unkept: dict[str, bytes] = {}  # views that the hub has still to be told of
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        node.forward = self.publish
        node.view_store = self

    # From start to end

    async def start(self) -> None:
        """Look for the hub, for as long as it takes, and return when the whole world is here."""
        self._keeping = self._loop.create_task(self._keep())
        await self._is_whole.wait()

    async def stop(self) -> None:
        """Leave the hub."""
        self._is_leaving = True
        tasks = [*self._tasks, *([] if self._keeping is None else [self._keeping])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._pipe is not None:
            self._pipe.abort()

    async def _keep(self) -> None:
        """Be connected, always."""
        pause = RETRY_S[0]
        while True:
            try:
                _, pipe = await self._loop.create_unix_connection(lambda: Pipe(self, to_worker), self._place.path)
            except OSError:
                pipe = None
            if pipe is not None and pipe.is_open and await self._be_told(pipe):
                pause = RETRY_S[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_S[1])

    async def _be_told(self, pipe: Pipe) -> bool:
        """Merge what the hub tells, until the connection ends; return whether it had something to tell."""
        has_heard = False
        if self._has_been_told:  # what the hub does not name until it says that this was all does not exist any more
            self._retelling.begin()
        self._has_been_told = True
        try:
            while items := await pipe.take():
                has_heard = True
                batches = [item for item in items if isinstance(item, bytes)]
                if batches:
                    await self._node.merge_sliced((self._retelling.part(batch), 0) for batch in batches)
                elif isinstance(items[0], Anew):
                    self._retelling.begin()
                else:
                    await self._become_whole()
        except Exception:
            logger.exception("a connection to the hub failed")
            pipe.abort()
        return has_heard

    async def _become_whole(self) -> None:
        if self._retelling.is_on:
            await self._retelling.end()
        if self._pipe is None:
            return
        self._world = self._node.world
        self._degrade(None)
        self._is_whole.set()
        self._tell_views()

    def _degrade(self, word: str | None) -> None:
        """Note what is the matter with the hub, and say so once."""
        others = {name: value for name, value in self._node.degraded.items() if name != HUB}
        now = others if word is None else others | {HUB: word}
        if now != self._node.degraded:
            self._node.degraded = now
            if word is not None:
                logger.warning("worker %d has lost the hub and goes on with what it knows", self._place.number)
            elif self._is_whole.is_set():
                logger.info("worker %d has the hub again", self._place.number)

    # What the pipe calls

    def opened(self, pipe: Pipe) -> None:
        """Say who this is."""
        self._pipe, self._is_known = pipe, False
        self._writable.set()
        pipe.send(Hello(FORMAT, self._place.number, self._process, self._world))

    def urgent(self, pipe: Pipe, message: Message) -> bool:
        """Take what does not wait behind states."""
        match message:
            case Who():
                self._meet(pipe, message)
            case Verdicts(number, result):
                self._resolve(self._publishing, number, result)
            case FoundView(number, view):
                self._resolve(self._finding, number, view)
            case Ask(number, what, argument):
                self._spawn(self._say(pipe, number, what, argument))
            case _:
                return False
        return True

    def writable(self, pipe: Pipe) -> None:
        """Go on telling."""
        self._writable.set()
        self._tell_views()

    def lost(self, pipe: Pipe) -> None:
        """Whoever waits for an answer gets none."""
        self._pipe, self._is_known = None, False
        self._writable.set()
        waiting: list[asyncio.Future[Any]] = [*self._publishing.values(), *self._finding.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(_gone())
        if self._is_whole.is_set() and not self._is_leaving:
            self._degrade("lost")

    def _meet(self, pipe: Pipe, who: Who) -> None:
        node = self._node
        if who.number != node.number:
            node.renumber(who.number)
        node.world, node.epoch = who.world, who.epoch
        self._is_known = True
        if self._world:
            self._world = who.world if not who.wants_all else self._world
        if who.wants_all:
            self._spawn(self._tell_all(pipe))

    @staticmethod
    def _resolve(waiting: dict[int, asyncio.Future[Any]], number: int, value: Any) -> None:
        future = waiting.get(number)
        if future is not None and not future.done():
            future.set_result(value)

    async def _say(self, pipe: Pipe, number: int, what: str, argument: str) -> None:
        pipe.send(Answer(number, await self._answer(what, argument)))

    # Telling a hub that has lost the world

    async def _tell_all(self, pipe: Pipe) -> None:
        """Tell everything that is held here, as fast as it is taken."""
        engine = self._node.engine
        feed = engine.open_feed(FeedKind.ASKED)
        try:
            engine.offer_all(feed)
            logger.info("worker %d tells the hub what it holds: %d entities", self._place.number, engine.feed_size(feed))
            while pipe.is_open and (batch := engine.take_feed(feed, 1, BATCH_BYTES)[0]):
                pipe.write(states_frame(batch))
                while pipe.is_open and pipe.is_paused:
                    self._writable.clear()
                    await self._writable.wait()
                await asyncio.sleep(0)
            pipe.send(Told())
        finally:
            engine.close_feed(feed)

    # Publishing, see `Node.forward`

    async def publish(self, updates: Iterable[Any] | AsyncIterator[Iterable[Any]], allows: Allows | None) -> Result:
        """Hand updates to the hub; return its verdicts. Raises `Refused` (unavailable) where it does not answer."""
        if isinstance(updates, AsyncIterator):
            raise Refused(ErrorCode.UNSUPPORTED, "publish: streams are taken by the API port")
        number = next(self._numbers)
        frames = self._encode(number, updates, allows)
        async with self._entry:
            while self._in_flight_bytes and self._in_flight_bytes + len(frames) > IN_FLIGHT_BYTES_MAX:
                self._room.clear()
                await self._room.wait()
            self._in_flight_bytes += len(frames)
        try:
            counts = await self._hand_over(number, frames)
        finally:
            self._in_flight_bytes -= len(frames)
            self._room.set()
        return Result(counts.accepted, counts.unchanged, counts.stale, counts.rejected, counts.rejected_total)

    async def _hand_over(self, number: int, frames: bytes) -> Counts:
        if self._pipe is None or not self._is_known:
            raise Refused(ErrorCode.UNAVAILABLE, "publish: the process that takes updates is not there; none of these was taken")
        future: asyncio.Future[Counts | None] = self._loop.create_future()
        self._publishing[number] = future
        self._pipe.write(frames)
        try:
            async with asyncio.timeout(PUBLISH_S):
                counts = await future
        except TimeoutError:
            raise _gone() from None
        finally:
            del self._publishing[number]
        if counts is None:
            raise Refused(ErrorCode.UNAVAILABLE, "publish: the process that takes updates is starting; none of these was taken")
        return counts

    def _encode(self, number: int, updates: Iterable[Any], allows: Allows | None) -> bytes:
        """Return the frame. Which ids the session may publish is judged here; what cannot travel is refused here, too."""
        items = list(updates)
        forbidden = set()
        refused: list[tuple[int, str, str]] = []
        for place, item in enumerate(items):
            if isinstance(item, Refused):
                refused.append((place, item.code.value, item.message))
                items[place] = None
            elif allows is not None and isinstance(item, dict):
                id = item.get("id")
                if isinstance(id, str) and id not in forbidden and not allows(id):
                    forbidden.add(id)
        try:
            return frame_of(Publish(number, items, list(forbidden), refused))
        except (OverflowError, TypeError, ValueError, RecursionError):
            for place, item in enumerate(items):
                if (why := self._why_not(item)) is not None:
                    refused.append((place, why.code.value, why.message))
                    items[place] = None
            return frame_of(Publish(number, items, list(forbidden), refused))

    def _why_not(self, item: Any) -> Refused | None:
        """Return what is wrong with an update that msgpack cannot carry, as the hub would have said it."""
        try:
            msgspec.msgpack.encode(item)
        except (OverflowError, TypeError, ValueError, RecursionError):
            try:
                self._parser.parse(item)
            except Refused as refused:
                return refused
            return Refused(ErrorCode.BAD_VALUE, "update: a value is beyond what can be encoded")
        return None

    # Views of users, see `realtime.node.ViewStore`

    def keep(self, user: str, view: bytes) -> None:
        """Keep a user's newest view, where every worker finds it."""
        self._unkept.pop(user, None)
        self._unkept[user] = view
        while len(self._unkept) > VIEWS_MAX:
            del self._unkept[next(iter(self._unkept))]
        if len(self._unkept) == 1:
            self._loop.call_soon(self._tell_views)

    def _tell_views(self) -> None:
        while self._unkept and self._pipe is not None and self._is_known and not self._pipe.is_paused:
            user = next(iter(self._unkept))
            self._pipe.send(KeepView(user, self._unkept.pop(user)))

    async def find(self, user: str) -> bytes | None:
        """Return a user's newest view; raise `Refused` if the hub cannot be asked."""
        if (mine := self._unkept.get(user)) is not None:
            return mine
        if self._pipe is None or not self._is_known:
            raise _gone()
        number = next(self._numbers)
        future = self._finding[number] = self._loop.create_future()
        self._pipe.send(FindView(number, user))
        try:
            async with asyncio.timeout(FIND_S):
                return await future or None
        except TimeoutError:
            raise _gone() from None
        finally:
            del self._finding[number]

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _gone() -> Refused:
    return Refused(ErrorCode.UNAVAILABLE, "publish: the process that takes updates is gone; whether it took these is not known")
