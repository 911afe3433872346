"""How the API says no: one exception, one shape of body.

Law: every response of the API that is not a success has this body and a code of `ErrorCode`; its message is one line
that names the field and the limit, and never repeats what was sent.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct, field
from starlette.responses import Response

from realtime.errors import ErrorCode
from realtime.messages import Rejected


class Problem(Struct, frozen=True):
    """The body of every response that is not a success."""

    code: ErrorCode
    message: str


class CutShort(Struct, frozen=True):
    """The body where a stream of updates ended too early: why, and what became of the updates that came before."""

    code: ErrorCode
    message: str
    accepted: int = 0
    unchanged: int = 0
    stale: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rejected_total: int = 0


class ApiError(Exception):
    """A request that is answered with a problem. `closes`: nothing more is read from the connection."""

    def __init__(self, status: int, code: ErrorCode, message: str, *, closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(code, message)
        self.closes = closes

    def response(self, problem: Problem | CutShort | None = None) -> Response:
        """Return the response, with another body than the plain one if given."""
        headers = {"connection": "close"} if self.closes else {}
        if self.status == 503:
            headers["retry-after"] = "1"
        return Response(msgspec.json.encode(problem or self.problem), self.status, headers, "application/json")
