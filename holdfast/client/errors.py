"""What a client raises, and what it says when a connection ends."""

from __future__ import annotations

from typing import Final, NamedTuple

from holdfast.errors import HoldfastError, Stop
from holdfast.protocol.codes import CODES

_ADVICE: Final = {
    "bad_frame": "this client and the server do not speak the same protocol; check their versions",
    "too_large": "send smaller frames than limits.frame",
    "connect_first": "the server did not take the connect frame; check `client`, `device` and versions",
    "flooding": "stay within limits.rate",
    "unauthorized": "get a valid token, or give the client a callable that gets one",
    "disconnected": "it was ended through the API or by another device; connect() comes back on purpose",
    "superseded": "another client uses the same `client` id; give each its own, or leave it out",
}


class Closed(Stop):
    """The client is not connected and will not come back by itself.

    `code` is a name of `holdfast.protocol.codes`, or `closed` where the program closed it.
    """

    def __init__(self, code: str, message: str = "") -> None:
        advice = _ADVICE.get(code, "")
        said = message or (CODES[code].meaning if code in CODES else "the client was closed")
        super().__init__(f"{code}: {said}" + (f" ({advice})" if advice else ""))
        self.code = code


class OutcomeUnknown(HoldfastError):  # noqa: N818 - the name is what is known
    """No answer came while a repetition would have been recognised: the send may or may not have happened.

    Sending the same again may show it twice, which is why the client did not.
    """


class Disconnected(NamedTuple):
    """A session ended: the WebSocket close code (0: none), what was said, and whether we come back.

    Where `again` is false the client has given up, and tells nothing more; it says so also when the attempt
    that ended had no session yet. A program that calls `close` is not told.
    """

    code: int
    reason: str
    again: bool
