"""The two tables of codes, and the exception that carries one.

Law: every refusal of input from outside is a `Refused` with a code of `ErrorCode`; every WebSocket is closed with
a code of `CLOSE_CODES`. Nothing else in the project spells a code. docs/protocol.md repeats both tables; a test
holds the two equal.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class ErrorCode(StrEnum):
    """Why a message or an update was refused: in `error`, in `rejected` and in the API's problem bodies."""

    BAD_MESSAGE = "bad_message"  # undecodable, a wrong or missing member, an unknown `type`
    UNSUPPORTED = "unsupported"  # a known message type that this server does not serve
    BAD_VIEW = "bad_view"  # a member of `view` out of its range
    BAD_FILTER = "bad_filter"  # the message says where in the expression
    BAD_UPDATE = "bad_update"  # a member of an update of a wrong type or out of its range
    BAD_GEOMETRY = "bad_geometry"  # type, nesting, positions, coordinates
    BAD_ID = "bad_id"  # not 1 to 128 bytes of UTF-8 without control characters
    BAD_VALUE = "bad_value"  # a property value that not every subprotocol can carry
    BAD_VERSION = "bad_version"  # not an integer from 1 to 2^53 - 2^32
    UNKNOWN_ENTITY = "unknown_entity"  # a move or patch of what is not there
    TOO_BIG = "too_big"  # over a limit of bytes or of count
    FORBIDDEN = "forbidden"  # the session may not do this
    RATE_LIMITED = "rate_limited"  # more often than allowed
    UNAVAILABLE = "unavailable"  # not now; nothing is wrong with the request


class Refused(ValueError):
    """Input that was refused. The sender's fault, and only the sender's: nothing else is lost.

    `str(error)` is one constant-shaped line that names the field and the limit, fit to be sent back.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ConfigError(ValueError):
    """Bad configuration: names the source, the key and what is allowed. The operator's fault."""


class CloseCode(IntEnum):
    """WebSocket close codes: RFC 6455's, and our own from 4000 (come back) and 4500 (stay away)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    WRONG_FRAME_TYPE = 1003
    BAD_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    BUG = 1011
    RESTART = 1012
    FULL = 1013
    SLOW_CONSUMER = 4000
    NO_PONG = 4001
    RATE_LIMITED = 4002
    IDENTIFY_TIMEOUT = 4003
    USER_FULL = 4004
    BAD_TOKEN = 4500
    EXPIRED = 4501
    FORBIDDEN = 4502
    UNDECODABLE = 4503


class CloseRule(NamedTuple):
    meaning: str
    comes_back: bool  # whether a client should reconnect, after its backoff


CLOSE_CODES: dict[CloseCode, CloseRule] = {
    CloseCode.NORMAL: CloseRule("one of the two is done", False),
    CloseCode.GOING_AWAY: CloseRule("the page or the process goes away", True),
    CloseCode.PROTOCOL_ERROR: CloseRule("a frame broke RFC 6455", True),
    CloseCode.WRONG_FRAME_TYPE: CloseRule("binary where the subprotocol is text, or the reverse", False),
    CloseCode.BAD_UTF8: CloseRule("a text frame that is not UTF-8", True),
    CloseCode.POLICY: CloseRule("more control frames than a client has reason to send", True),
    CloseCode.TOO_BIG: CloseRule("a message over `message_bytes` or in too many fragments; come back without `have`", True),
    CloseCode.BUG: CloseRule("an error of the server's own; it is in its log", True),
    CloseCode.RESTART: CloseRule("the node stops; come back after the `drain` message's `reconnect_ms`", True),
    CloseCode.FULL: CloseRule("as many connections as the node takes, in all or from this address", True),
    CloseCode.SLOW_CONSUMER: CloseRule("took no data for `write_stall_s`, or its control lane ran over", True),
    CloseCode.NO_PONG: CloseRule("no pong within `pong_timeout_s` of a ping", True),
    CloseCode.RATE_LIMITED: CloseRule("more messages than `messages_per_s` and its burst", True),
    CloseCode.IDENTIFY_TIMEOUT: CloseRule("no first message within `identify_timeout_s`", True),
    CloseCode.USER_FULL: CloseRule("as many sessions as this user may have", True),
    CloseCode.BAD_TOKEN: CloseRule("the token is missing or not valid", False),
    CloseCode.EXPIRED: CloseRule("the token has expired", False),
    CloseCode.FORBIDDEN: CloseRule("this user may not connect", False),
    CloseCode.UNDECODABLE: CloseRule("a message that is no JSON or msgpack object", False),
}
