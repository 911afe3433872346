"""How the hub tells the workers what changes: one feed for all that keep up, one of its own for each that does not.

Workers in step share a feed: a batch is taken once, and the same bytes go to all of them. One that comes, or whose socket
takes nothing while others go on, gets a feed of its own until it has caught up. So a worker costs the hub the names of
the entities that it has still to be told of, and `WRITE_BYTES_HIGH` of bytes, however long it takes.

Law: what a peer was told and what lies in its feed together are at every moment all that has changed since it came, and
all that there was then. Nothing is written to a socket that takes no data, and no turn of the loop is held for longer than
`SLICE_S`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from realtime.cluster.pipe import Anew, Pipe, Whole, states_frame
from realtime.engine import FeedKind
from realtime.node import Node

FEEDS_MAX = 4  # the engine has eight; the bus and the store need theirs
BATCH_BYTES = 16 * 1024  # of states; whoever gets it merges it without a pause
WRITE_BYTES_MAX = 256 * 1024  # to one socket, between two looks at whether it takes more
SLICE_S = 0.003
INTERVAL_S = 0.002  # between two writes; what happens to an entity in between is conflated

_COUNT = slice(1, 5)  # where a batch says how many states it has


class Peer:
    """A worker, as the relay has it. In step if it has no feed of its own and does not wait for one."""

    def __init__(self, pipe: Pipe, number: int, tells: bool) -> None:
        self.pipe = pipe
        self.number = number
        self.tells = tells  # what it holds; what of that is new here comes back to it before it is whole
        self.feed = 0  # its own; 0: none
        self.waits = True  # for a feed of its own, in which it is told everything
        self.copied = 0  # states of the shared feed that still have to be offered to its own
        self.owed: int | None = None  # states of its feed until it has all; None: that cannot be said yet
        self.is_whole = False  # it was told so

    @property
    def is_in_step(self) -> bool:
        """Whether it is told from the shared feed."""
        return not self.feed and not self.waits


class Relay:
    """Tells peers. `is_whole` is whether the hub has all that there is, and peers can be told that they have it, too."""

    def __init__(self, node: Node, on_whole: Callable[[Peer], None]) -> None:
        self.peers: list[Peer] = []
        self.is_whole = False
        self._node = node
        self._engine = node.engine
        self._on_whole = on_whole
        self._shared = 0  # the feed of those in step; 0: there are none
        self._loop = asyncio.get_running_loop()
        self._next = 0.0  # when there may be a run again
        self._handle: asyncio.Handle | None = None
        self._is_closed = False
        self._reloads = node.reloads  # that the peers were told of
        node.on_offer.append(self.wake)

    def add(self, peer: Peer) -> None:
        """Tell a worker everything, and what happens from now on."""
        self.peers.append(peer)
        self.wake()

    def remove(self, peer: Peer) -> None:
        """Forget a worker."""
        if peer in self.peers:
            self.peers.remove(peer)
            if peer.feed:
                self._engine.close_feed(peer.feed)
            self._end_sharing()
            self.wake()

    def become_whole(self) -> None:
        """Tell everybody, once they have it, that this is all."""
        self.is_whole = True
        for peer in self.peers:
            peer.owed = self._owed(peer)
        self.wake()

    def told(self, peer: Peer) -> None:
        """A worker has told what it holds, and all of that is merged."""
        peer.tells = False
        peer.owed = self._owed(peer)
        self.wake()

    def _owed(self, peer: Peer) -> int | None:
        """Return how many states lie in its feed before those of later changes."""
        if peer.tells or peer.waits or peer.copied:
            return None
        return self.backlog(peer)

    def backlog(self, peer: Peer) -> int:
        """Return how many entities a worker has still to be told of, at least."""
        feed = self._shared if peer.is_in_step else peer.feed
        return self._engine.feed_size(feed) if feed else 0

    def close(self) -> None:
        """Tell nobody anything any more."""
        self._is_closed = True
        if self._handle is not None:
            self._handle.cancel()
        if self.wake in self._node.on_offer:
            self._node.on_offer.remove(self.wake)
        for peer in list(self.peers):
            self.remove(peer)

    # When

    def wake(self) -> None:
        """There may be something to tell: at the end of this turn, or when the interval is over."""
        if self._handle is not None or self._is_closed or not self.peers:
            return
        wait = self._next - self._loop.time()
        self._handle = self._loop.call_later(wait, self._run) if wait > 0 else self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._handle = None
        if self._is_closed:
            return
        stop = time.perf_counter() + SLICE_S
        if self._reloads != self._node.reloads:
            self._begin_anew()
        self._seat()
        has_more = self._tell_those_in_step(stop)
        for peer in self.peers:
            if peer.feed:
                has_more = self._tell_alone(peer, stop) or has_more
        has_more = has_more or (any(peer.waits for peer in self.peers) and self._feeds < FEEDS_MAX)
        self._note_whole()
        self._next = self._loop.time() + INTERVAL_S
        if has_more:
            self._handle = self._loop.call_soon(self._run)

    # Who is in step

    def _begin_anew(self) -> None:
        """Tell everybody everything: what died as a reload did not name it is no newer than what they have of it."""
        self._reloads = self._node.reloads
        for peer in self.peers:
            if peer.feed:
                self._engine.close_feed(peer.feed)
            peer.feed, peer.copied, peer.owed = 0, 0, None
            peer.waits, peer.is_whole = True, False
            peer.pipe.send(Anew())
        self._end_sharing()

    def _seat(self) -> None:
        """Give a feed to those that wait for one, as far as there are any."""
        for peer in self.peers:
            if peer.waits and (feed := self._open_feed()):
                peer.feed, peer.waits, peer.copied = feed, False, 0
                self._engine.offer_all(feed)
                peer.owed = self._owed(peer)

    @property
    def _feeds(self) -> int:
        return bool(self._shared) + sum(bool(peer.feed) for peer in self.peers)

    def _open_feed(self) -> int:
        """Return a new feed; 0 if there is none left."""
        if self._feeds >= FEEDS_MAX:
            return 0
        try:
            return self._engine.open_feed(FeedKind.ALL)
        except ValueError:  # others have taken them
            return 0

    def _fall_behind(self, peer: Peer) -> None:
        """Give a worker a feed of its own, into which goes what the shared one has for it when that is told to the others."""
        peer.owed = None
        if feed := self._open_feed():
            peer.feed, peer.copied = feed, self._engine.feed_size(self._shared)
        else:
            peer.waits = True

    def _catch_up(self, peer: Peer) -> None:
        """Its feed is empty: it knows all that those in step know. What they still have to be told it will be told with them."""
        if self._shared:
            self._engine.close_feed(peer.feed)
        else:
            self._shared = peer.feed
        peer.feed, peer.copied = 0, 0
        peer.owed = self._owed(peer)

    def _end_sharing(self) -> None:
        """Close the shared feed once nobody needs it."""
        if self._shared and not any(peer.is_in_step or peer.copied for peer in self.peers):
            self._engine.close_feed(self._shared)
            self._shared = 0

    # Telling

    def _tell_those_in_step(self, stop: float) -> bool:
        """Tell from the shared feed; return whether there is more to do at once."""
        in_step = [peer for peer in self.peers if peer.is_in_step]
        listening = [peer for peer in in_step if not peer.pipe.is_paused]
        if not self._shared or not listening:
            return False
        if self._engine.feed_size(self._shared):
            for peer in in_step:
                if peer.pipe.is_paused:
                    self._fall_behind(peer)
        frames, count = self._take(self._shared, stop, self._copy)
        if frames:
            for peer in listening:
                peer.pipe.write(frames)
                if peer.owed is not None:
                    peer.owed = max(peer.owed - count, 0)
        return self._engine.feed_size(self._shared) > 0 and any(not peer.pipe.is_paused for peer in listening)

    def _copy(self, batch: bytes, count: int) -> None:
        """Offer what is taken from the shared feed to those that were in step when it came there.

        That names it. While a reload notes who is named they are told everything instead, in their turn.
        """
        for peer in self.peers:
            if peer.copied and self._node.is_reloading:
                self._engine.close_feed(peer.feed)
                peer.feed, peer.copied, peer.waits = 0, 0, True
            elif peer.copied:
                self._engine.merge(batch, self._node.now(), peer.feed)  # our own states: nothing changes
                peer.copied = max(peer.copied - count, 0)

    def _tell_alone(self, peer: Peer, stop: float) -> bool:
        if peer.pipe.is_paused:
            return False
        frames, count = self._take(peer.feed, stop, None)
        if frames:
            peer.pipe.write(frames)
            if peer.owed is not None:
                peer.owed = max(peer.owed - count, 0)
        if self._engine.feed_size(peer.feed):
            return not peer.pipe.is_paused
        self._catch_up(peer)
        return True  # to what those in step are told

    def _take(self, feed: int, stop: float, see: Callable[[bytes, int], None] | None) -> tuple[bytes, int]:
        """Take what is to be written at once; return it as frames, and how many states that are."""
        frames: list[bytes] = []
        size = total = 0
        while size < WRITE_BYTES_MAX:
            batch = self._engine.take_feed(feed, 1, BATCH_BYTES)[0]
            if not batch:
                break
            count = int.from_bytes(batch[_COUNT], "big")
            if see is not None:
                see(batch, count)
            frames.append(states_frame(batch))
            size += len(batch)
            total += count
            if time.perf_counter() >= stop:
                break
        return b"".join(frames), total

    def _note_whole(self) -> None:
        if not self.is_whole:
            return
        for peer in self.peers:
            if not peer.is_whole and peer.owed == 0:
                peer.is_whole = True
                peer.pipe.send(Whole())
                self._on_whole(peer)
