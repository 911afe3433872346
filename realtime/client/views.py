"""Which view is wanted, which of them the server has, and who waits to see it.

Law: no I/O and no clock. The newest view wins and outlives its connection; a refused one is taken back, so that neither
this connection nor a later one goes on without the view before it. Nothing is queued: of the views that wait to be sent
only the newest is kept, and of those sent at most `UNANSWERED_MAX` are remembered.
"""

from __future__ import annotations

import asyncio
from typing import Any

from realtime.client.status import Closed
from realtime.errors import Refused

UNANSWERED_MAX = 64  # views; the next one waits until one of them is answered

ViewMembers = dict[str, Any]  # as on the wire, but for type, id and what a resume adds


class Views:
    """See above. Ids grow with every view that is wanted."""

    def __init__(self) -> None:
        self._wanted: tuple[int, ViewMembers] | None = None
        self._shown: tuple[int, ViewMembers] | None = None  # the one that the last delta belonged to
        self._looks: dict[int, asyncio.Future[None]] = {}  # who waits until a view is shown
        self.begin()

    # What is wanted

    def want(self, id: int, view: ViewMembers) -> None:
        """Want this view and no other."""
        self._wanted = (id, view)

    async def wait_shown(self, id: int) -> None:
        """Wait until the mirror shows all of this view or a newer one. Raises `Refused`, and `Closed` if it never will."""
        look = self._looks[id] = asyncio.get_running_loop().create_future()
        try:
            await look
        finally:
            del self._looks[id]

    def end(self, closed: Closed) -> None:
        """No view will be shown any more."""
        for look in self._looks.values():
            if not look.done():
                look.set_exception(Closed(closed.code, closed.reason))

    # What the server has

    def begin(self) -> None:
        """Begin a new connection: the server knows no view."""
        self._sent = 0  # id of the newest view that it has, accepted or not answered yet
        self._applied = 0  # id of the view that the last delta of this connection belonged to
        self._unanswered: dict[int, ViewMembers] = {}

    @property
    def is_first(self) -> bool:
        """The server has accepted no view yet that this client knows of."""
        return self._sent == 0

    def next_to_send(self) -> tuple[int, ViewMembers] | None:
        """Return the newest view and its id, if the server lacks it."""
        if self._wanted is None or self._wanted[0] == self._sent or len(self._unanswered) >= UNANSWERED_MAX:
            return None
        return self._wanted

    def sent(self, id: int, view: ViewMembers) -> None:
        """It was sent."""
        self._sent, self._unanswered[id] = id, view

    def on_delta(self, id: int, is_whole: bool) -> None:
        """A delta belonged to this view: it and what was sent before is answered; `is_whole`: and shown."""
        self._applied = id
        if id in self._unanswered:
            self._shown = (id, self._unanswered[id])
            self._unanswered = {sent: view for sent, view in self._unanswered.items() if sent > id}
        if is_whole:
            for asked, look in self._looks.items():
                if asked <= id and not look.done():
                    look.set_result(None)

    def take_back(self, id: int) -> bool:
        """The server did not take a view; return whether it is one that it was sent. It is still wanted, and sent again."""
        is_known = self._unanswered.pop(id, None) is not None
        if is_known:
            self._sent = max(self._unanswered, default=self._applied)
        return is_known

    def refuse(self, id: int, refused: Refused) -> bool:
        """Want the view before a taken back one; return whether somebody was told why."""
        if self._wanted is not None and self._wanted[0] == id:
            self._wanted = (self._sent, self._unanswered[self._sent]) if self._unanswered else self._shown
        look = self._looks.get(id)
        if look is None or look.done():
            return False
        look.set_exception(refused)
        return True
