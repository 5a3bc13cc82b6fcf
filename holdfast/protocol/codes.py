"""Every error code of `holdfast.v1`, its close code and its default `retry`: the one table.

`docs/protocol.md` is checked against it. 4000-4099: come back. 4100-4199: do not come back without changing
something. Codes without a close leave the connection as it is.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Code(NamedTuple):
    """One error code. `close` is the WebSocket close code where the error ends the connection, else None."""

    name: str
    close: int | None
    retry: bool
    meaning: str


_TABLE: Final = (
    Code("draining", 4000, True, "this node is leaving; connect again and another one answers"),
    Code("silent", 4001, True, "nothing was heard of this client for two heartbeats, or no connect in time"),
    Code("slow", 4002, True, "this client did not read what it was sent; connect again and resume"),
    Code("overloaded", 4003, True, "this node has all the connections it can serve; come back later"),
    Code("fenced", 4004, True, "this node was cut off and is starting over; connect again"),
    Code("superseded", 4005, False, "a newer connection with the same client exists"),
    Code("bad_frame", 4100, False, "a frame is not a JSON or msgpack object of the protocol"),
    Code("too_large", 4101, False, "a frame is larger than limits.frame"),
    Code("connect_first", 4102, False, "the first frame must be a valid connect"),
    Code("unauthorized", 4103, False, "the token is missing, wrong, expired or revoked"),
    Code("disconnected", 4104, False, "the session was ended through the API, or by another device"),
    Code("flooding", 4105, False, "this client went on sending far above limits.rate"),
    Code("unknown_frame", None, False, "no frame has this t"),
    Code("forbidden", None, False, "this user may not do this with this channel"),
    Code("bad_channel", None, False, "no such kind of channel, or the name is malformed"),
    Code("bad_request", None, False, "a field is missing or has a wrong value"),
    Code("rate_limited", None, True, "more frames than limits.rate allows; slow down"),
    Code("too_many", None, False, "a limit of this connection (subscriptions, frames in flight) is reached"),
    Code("out_of_order", None, True, "an earlier n is missing; send from it on, in order"),
    Code("n_reused", None, False, "this n was used for another content"),
    Code("no_handler", None, False, "no handler answers requests of this type"),
    Code("rejected", None, False, "the handler refused this message"),
    Code("failed", None, False, "the handler failed; the message is kept in the dead letters"),
    Code("unavailable", None, True, "the outcome is unknown; do the same again"),
)

CODES: Final = {code.name: code for code in _TABLE}


def close_code(name: str) -> int | None:
    """Return the close code of an error code, None where it does not end the connection."""
    return CODES[name].close


def retriable(name: str) -> bool:
    """Return the default `retry` of an error code."""
    return CODES[name].retry
