"""The frames of `holdfast.v1` as structs; their JSON and msgpack forms come from one definition.

Field names are the protocol's, but for `from`, which Python keeps for itself (`sender` here).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from holdfast.records import MAX_N

MAX_ID: Final = 2**53
FrameId = Annotated[int, Meta(ge=-MAX_ID, le=MAX_ID)] | Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=200)]
Plain = Annotated[str, Meta(max_length=200, pattern="^[^\\x00]*$")]
"""A part of keys in which NUL separates."""
Number = Annotated[int, Meta(ge=0, le=MAX_N)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a channel's log: everything up to `seq` of `epoch` is known."""

    epoch: str
    seq: Seq


class _Frame(msgspec.Struct, tag_field="t", frozen=True, gc=False, omit_defaults=True):
    pass


# --- client to server ----------------------------------------------------------------------------------


class Connect(_Frame, tag="connect", frozen=True):
    """The first frame: who this is, and what it has."""

    token: Annotated[str, Meta(max_length=16_384)]
    client: Plain = ""
    device: Plain = ""
    resume: dict[Name, Position] = {}


class Subscribe(_Frame, tag="subscribe", frozen=True):
    """Ask for a channel, from `since` on where given."""

    id: FrameId
    channel: Text
    since: Position | None = None


class Unsubscribe(_Frame, tag="unsubscribe", frozen=True):
    """Leave a channel."""

    id: FrameId
    channel: Text


class Send(_Frame, tag="send", frozen=True):
    """A message; `n` is the client's own counter. `data` is kept as it came."""

    id: FrameId
    n: Number
    to: Text
    type: Name
    data: msgspec.Raw = msgspec.Raw(b"null")


class Request(_Frame, tag="request", frozen=True):
    """A question that a handler answers on this connection."""

    id: FrameId
    type: Name
    data: msgspec.Raw = msgspec.Raw(b"null")


class Cursor(_Frame, tag="cursor", frozen=True):
    """This device has processed the channel up to `seq`."""

    channel: Text
    seq: Seq


class Refresh(_Frame, tag="refresh", frozen=True):
    """A newer token for this session."""

    id: FrameId
    token: Annotated[str, Meta(max_length=16_384)]


class Ping(_Frame, tag="ping", frozen=True):
    """Either side may ask for a sign of life."""


class Pong(_Frame, tag="pong", frozen=True):
    """The answer to `ping`."""


ClientFrame = Connect | Subscribe | Unsubscribe | Send | Request | Cursor | Refresh | Ping | Pong

# --- server to client ----------------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What the server allows: bytes of a frame, sends a second, unanswered sends, channels, and `resend`,
    the seconds for which a repeated send is recognised."""  # noqa: D209, D205

    frame: int
    rate: int
    in_flight: int
    subscriptions: int
    resend: int


class ChannelState(msgspec.Struct, frozen=True, gc=False):
    """Where delivery of a channel goes on; `recovered`: from the position that the client gave."""

    epoch: str
    seq: int
    recovered: bool


class Connected(_Frame, tag="connected", frozen=True):
    """The session exists."""

    session: str
    user: str
    node: str
    heartbeat: float
    channels: dict[str, ChannelState]
    limits: Limits


class Subscribed(msgspec.Struct, tag_field="t", tag="subscribed", frozen=True, gc=False):
    """The channel is subscribed. Without an `id` (null) the server did it: the user joined a group."""

    id: FrameId | None
    channel: str
    epoch: str
    seq: int
    recovered: bool


class Unsubscribed(msgspec.Struct, tag_field="t", tag="unsubscribed", frozen=True, gc=False):
    """The channel is left. With a null `id` the server did it: the user left a group; `channel` names it."""

    id: FrameId | None
    channel: str


class Message(msgspec.Struct, tag_field="t", tag="message", frozen=True, gc=False):
    """One entry of a channel's log."""

    channel: str
    seq: int
    epoch: str
    id: str
    type: str
    ts: int
    data: Any
    sender: str | None = msgspec.field(name="from", default=None)
    cause: str | msgspec.UnsetType = msgspec.UNSET


class Ack(_Frame, tag="ack", frozen=True):
    """The send is durable; `message` is its id."""

    id: FrameId
    message: str


class Reply(msgspec.Struct, tag_field="t", tag="reply", frozen=True, gc=False):
    """The answer to a `request`."""

    id: FrameId
    data: Any = None


class Refreshed(_Frame, tag="refreshed", frozen=True):
    """The newer token holds."""

    id: FrameId


class Error(_Frame, tag="error", frozen=True):
    """Something did not work: `code` for programs, `message` for people, `retry` true, false or seconds."""

    code: str
    message: str
    retry: bool | float
    id: FrameId | msgspec.UnsetType = msgspec.UNSET
    channel: str | msgspec.UnsetType = msgspec.UNSET
    close: int | msgspec.UnsetType = msgspec.UNSET


class Reset(_Frame, tag="reset", frozen=True):
    """Continuity of the channel is broken: it goes on from here."""

    channel: str
    epoch: str
    seq: int
    reason: str


class Drain(_Frame, tag="drain", frozen=True):
    """Please reconnect after `after` seconds, to `endpoint` where given."""

    after: float
    endpoint: str | msgspec.UnsetType = msgspec.UNSET


ServerFrame = (
    Connected
    | Subscribed
    | Unsubscribed
    | Message
    | Ack
    | Reply
    | Refreshed
    | Error
    | Reset
    | Drain
    | Ping
    | Pong
)

SUBPROTOCOL_JSON: Final = "holdfast.v1.json"
SUBPROTOCOL_MSGPACK: Final = "holdfast.v1.msgpack"
