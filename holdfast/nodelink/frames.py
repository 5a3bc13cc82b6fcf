"""What dispatch says to an access node: length-prefixed msgpack, one direction, no acknowledgement.

A push is a hint: an access node that misses one sees a gap and reads the log. `follows` makes gaps visible:
it is the outbound offset at which the previous frame of this partition on this link ended, and BREAK in the
first one of a link or of a dispatcher's tenure.
"""

from __future__ import annotations

from typing import Final

import msgspec

VERSION: Final = 1
BREAK: Final = -2
"""`follows` of a frame that starts a chain."""

HEADER: Final = 4
"""Bytes of the big-endian length before each frame."""

MAX_FRAME: Final = 16 * 1024 * 1024


class _Frame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    pass


class Hello(_Frame, tag="h", frozen=True):
    """The first frame of a link. `incarnation` is who the dispatcher believes to be talking to.

    "" where it does not know (static membership): the node answers with a Welcome.
    """

    version: int
    dispatcher: str
    incarnation: str
    secret: str = ""


class Welcome(_Frame, tag="w", frozen=True):
    """Who the node is: the one frame that ever goes back, to a dispatcher that could not name it."""

    incarnation: str


class MessageItem(_Frame, tag="m", frozen=True):
    """An entry of a channel's log, as it was appended.

    `sent` is `records.Message.sent`. `trace`: the context (`traceparent`) of a message that is followed.
    """

    channel: str
    epoch: str
    seq: int
    entry: bytes
    sent: int = 0
    trace: str = ""


class ReplyItem(_Frame, tag="p", frozen=True):
    """A whole JSON frame for one connection of this node; nobody waits for it after `deadline` (Unix ms)."""

    connection: int
    deadline: int
    frame: bytes
    trace: str = ""


class ChangeItem(_Frame, tag="c", frozen=True):
    """Something else about a channel changed: `group` (of a user) or `revoke`. Read it again."""

    channel: str
    what: str


Item = MessageItem | ReplyItem | ChangeItem


class Push(_Frame, tag="u", frozen=True):
    """Items of one partition. They came after offset `follows`, and nothing up to `upto` is missing.

    An idle link carries an empty push once a second, so that the position is known.
    """

    partition: int
    generation: str
    follows: int
    upto: int
    items: list[Item]


Frame = Hello | Push

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Frame).decode
decode_welcome: Final = msgspec.msgpack.Decoder(Welcome).decode


def framed(frame: Frame | Welcome) -> bytes:
    """Return a frame with its length before it."""
    payload = encode(frame)
    return len(payload).to_bytes(HEADER, "big") + payload
