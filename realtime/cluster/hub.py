"""The hub: worker 0, as the other workers of this machine know it.

It listens on a unix socket in a private directory. Whoever comes is told everything and then every change (`relay`), and
has updates applied here, views kept here. A hub that is started again has lost the world, and the workers have not: they
tell it what they hold, the newest of each entity wins, and the world keeps its id.

Law: nothing that a worker does, says or leaves out ends the hub or holds it up: its connection is ended at worst. Updates
are taken only by a hub that has the world.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from realtime.cluster.pipe import (
    FORMAT,
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
    to_hub,
)
from realtime.cluster.relay import Peer, Relay
from realtime.cluster.workers import Place
from realtime.errors import ErrorCode, Refused
from realtime.node import Node, Result

HELLO_S = 5.0  # until the first word
NAMELESS_MAX = 16  # connections without it
SILENCE_S = 10.0  # after which a holder of the world that tells nothing is waited for no longer
ANSWER_S = 2.0
ASKS_MAX = 8  # that one worker may leave unanswered
WATCH_INTERVAL_S = 0.25

logger = logging.getLogger(__name__)


class Worker:
    """A connection, from its first byte to its end."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.peer: Peer | None = None  # once it has said who it is
        self.asked: dict[int, asyncio.Future[bytes]] = {}
        self.deadline: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class Hub:
    """The hub of one place. `start` returns when it has the world back, `open` lets the others know that it is whole."""

    def __init__(self, node: Node, place: Place, feed: int = 0) -> None:
        """`feed` hears of all that workers tell of before: the hub that took it may not have told other nodes of it."""
        self.count = place.count
        self._node = node
        self._feed = feed
        self._place = place
        self._relay = Relay(node, self._became_whole)
        self._workers: dict[Pipe, Worker] = {}
        self._server: asyncio.Server | None = None
        self._holders = set(place.holders)  # that have not told everything yet
        self._is_heir = bool(place.holders)  # the world's id is still to be had from one of them
        self._has_world = asyncio.Event()
        self._heard = 0  # messages from holders
        self._asks = 0
        self._told: Who | None = None  # what the others know of this hub
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    # From start to end

    async def start(self) -> None:
        """Listen, and get the world back from those that hold it. Raises OSError where the socket cannot be bound."""
        with suppress(FileNotFoundError):
            os.unlink(self._place.path)  # of a hub that is no more
        self._server = await self._loop.create_unix_server(lambda: Pipe(self, to_hub), self._place.path)
        os.chmod(self._place.path, 0o600)
        self._note_holders()
        self._look()
        while not self._has_world.is_set():
            before = self._heard
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_world.wait(), SILENCE_S)
            if before == self._heard and not self._has_world.is_set():
                logger.warning("workers that hold the world tell nothing of it and are waited for no longer: %s", sorted(self._holders))
                self.set_holders(())

    def set_holders(self, numbers: Iterable[int]) -> None:
        """Note who of those that hold the world are still there."""
        self._holders &= set(numbers)
        self._note_holders()

    def open(self) -> None:
        """This node has all that there is: take updates, and tell the others when they have it, too."""
        self._relay.become_whole()

    async def stop(self) -> None:
        """Close everything."""
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            self._server.close()
            with suppress(FileNotFoundError):
                os.unlink(self._place.path)
        self._relay.close()
        tasks = [worker.task for worker in self._workers.values() if worker.task is not None]
        for pipe in list(self._workers):
            pipe.abort()
        for task in (*tasks, *self._tasks):
            task.cancel()
        await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)

    def _note_holders(self) -> None:
        if not self._holders:
            self._is_heir = False
            self._has_world.set()

    def _look(self) -> None:
        """Tell the others what this node is, if that has changed, and note who is there."""
        node = self._node
        who = Who(node.world, node.number, node.epoch)
        if who != self._told:
            self._told = who
            for peer in self._relay.peers:
                peer.pipe.send(who)
        self._note_missing()
        self._watch = self._loop.call_later(WATCH_INTERVAL_S, self._look)

    def _note_missing(self) -> None:
        """Note which workers are not there, or not yet whole."""
        node = self._node
        missing = {f"worker {number}": "gone" for number in range(1, self._place.count)}
        for peer in self._relay.peers:
            if peer.is_whole:
                missing.pop(f"worker {peer.number}", None)
            else:
                missing[f"worker {peer.number}"] = "joining"
        others = {name: word for name, word in node.degraded.items() if not name.startswith("worker ")}
        if others | missing != node.degraded:
            node.degraded = others | missing

    def _became_whole(self, peer: Peer) -> None:
        self._note_missing()
        logger.info("worker %d has the whole world", peer.number)

    # Asking the others, see `realtime.gateway.others`

    async def ask(self, what: str, argument: str = "") -> dict[int, bytes]:
        """Return what each worker answers, by its number; who does not answer in time is left out."""
        waiting: dict[int, asyncio.Future[bytes]] = {}
        for worker in list(self._workers.values()):
            if worker.peer is None or len(worker.asked) >= ASKS_MAX:
                continue
            self._asks += 1
            future = worker.asked[self._asks] = self._loop.create_future()
            waiting[worker.peer.number] = future
            worker.pipe.send(Ask(self._asks, what, argument))
        if not waiting:
            return {}
        done, late = await asyncio.wait(waiting.values(), timeout=ANSWER_S)
        for future in late:
            future.cancel()  # its number stays taken until the worker answers or ends
        return {number: future.result() for number, future in waiting.items() if future in done and not future.cancelled()}

    # What pipes call

    def opened(self, pipe: Pipe) -> None:
        """Wait for the first word, though not for long."""
        if sum(worker.peer is None for worker in self._workers.values()) >= NAMELESS_MAX:
            self._loop.call_soon(pipe.abort)
            return
        worker = self._workers[pipe] = Worker(pipe)
        worker.deadline = self._loop.call_later(HELLO_S, pipe.abort)
        worker.task = self._spawn(self._serve(worker))

    def urgent(self, pipe: Pipe, message: Message) -> bool:
        """Take what does not wait behind states and updates."""
        worker = self._workers.get(pipe)
        if worker is None:
            return True
        if worker.peer is None and not isinstance(message, Hello):
            raise ValueError("a worker that has not said who it is")
        match message:
            case Hello():
                self._greet(worker, message)
            case Answer(number, body):
                future = worker.asked.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(body)
            case KeepView(user, view):
                self._keep_view(user, view)
            case FindView(number, user):
                self._spawn(self._find_view(pipe, number, user))
            case _:
                return False
        return True

    def writable(self, pipe: Pipe) -> None:
        """Go on telling."""
        self._relay.wake()

    def lost(self, pipe: Pipe) -> None:
        """Forget a worker."""
        worker = self._workers.pop(pipe, None)
        if worker is None:
            return
        if worker.deadline is not None:
            worker.deadline.cancel()
        for future in worker.asked.values():
            future.cancel()
        if worker.peer is not None:
            self._relay.remove(worker.peer)
            self._note_missing()
            logger.info("worker %d is gone", worker.peer.number)

    # One worker

    def _greet(self, worker: Worker, hello: Hello) -> None:
        if worker.peer is not None or hello.format != FORMAT or not 1 <= hello.worker < self._place.count:
            raise ValueError("a first word that is none")
        if worker.deadline is not None:
            worker.deadline.cancel()
        for other in list(self._workers.values()):
            if other.peer is not None and other.peer.number == hello.worker:
                other.pipe.abort()  # of before, and not noticed yet
        wants_all = self._inherit(hello)
        node = self._node
        worker.pipe.send(Who(node.world, node.number, node.epoch, wants_all))
        worker.peer = Peer(worker.pipe, hello.worker, wants_all)
        self._relay.add(worker.peer)
        self._note_missing()

    def _inherit(self, hello: Hello) -> bool:
        """Return whether the worker shall tell what it holds; the first that does gives the world its id back."""
        if not hello.world:
            self._holders.discard(hello.worker)
            self._note_holders()
            return False
        if self._is_heir:
            self._is_heir = False
            self._node.world = hello.world
        return hello.worker in self._holders or hello.world != self._node.world

    async def _serve(self, worker: Worker) -> None:
        """Deal with what a worker tells, in order."""
        try:
            while worker.pipe.is_open:
                items = await worker.pipe.take()
                self._heard += 1
                batches = [item for item in items if isinstance(item, bytes)]
                if batches:
                    await self._node.merge_sliced((batch, self._feed) for batch in batches)
                    continue
                for message in items:
                    await self._deal_with(worker, message)
        except Exception:
            logger.exception("serving a worker failed")
            worker.pipe.abort()

    async def _deal_with(self, worker: Worker, message: Any) -> None:
        assert worker.peer is not None
        match message:
            case Told():
                self._relay.told(worker.peer)
                self._holders.discard(worker.peer.number)
                self._note_holders()
            case Publish():
                worker.pipe.send(Verdicts(message.number, await self._publish(message)))

    async def _publish(self, message: Publish) -> Counts | None:
        """Apply the updates of a worker's session; the session's own process has judged which ids it may publish."""
        if not self._relay.is_whole:
            return None
        items: list[Any] = list(message.updates)
        for place, code, text in message.refused:
            if 0 <= place < len(items):
                items[place] = Refused(_code(code), text)
        forbidden = frozenset(message.forbidden)
        result: Result = await self._node.publish_sliced(items, lambda id: id not in forbidden)
        return Counts(result.accepted, result.unchanged, result.stale, result.rejected, result.rejected_total)

    def _keep_view(self, user: str, kept: bytes) -> None:
        try:
            view = msgspec.json.decode(kept)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return
        if isinstance(view, dict):
            self._node.keep_view(user, view)

    async def _find_view(self, pipe: Pipe, number: int, user: str) -> None:
        view = await self._node.find_view(user)
        pipe.send(FoundView(number, b"" if view is None else msgspec.json.encode(view)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _code(text: str) -> ErrorCode:
    try:
        return ErrorCode(text)
    except ValueError:
        return ErrorCode.BAD_UPDATE
