"""What travels through Kafka: one struct per record kind, in msgpack arrays.

Arrays may grow fields at the end, with defaults, so that versions skewed by one understand each other.

| Topic | Key | Partition | Records |
|---|---|---|---|
| inbound | the sender (`user`) | crc32(key) % P | `Send`, `Request`, `SessionEvent` |
| outbound | the channel | crc32(key) % P | `Message`, `Reply`, `Member`, `UserGroup`, `Cursor`, `Revoke` |
| state (compacted) | `StateRecord.key` | crc32(channel) % P | `StateRecord` |
| dead letters | as the original | any | the original, with the reason in the headers |
"""

from __future__ import annotations

import binascii
import functools
import hashlib
from base64 import urlsafe_b64encode
from typing import Any, Final

import msgspec

MAX_OUTPUTS: Final = 1024
"""Most outputs of one message to one channel; a source's score is n * MAX_OUTPUTS + output index."""

MAX_N: Final = 2**53 // MAX_OUTPUTS - 1
"""Largest `n`, so that a score stays exact in Lua's numbers."""

KEYED: Final = -1
"""The score of an idempotency key: whoever has it was applied."""


class _Record(msgspec.Struct, array_like=True, tag_field="t", frozen=True, gc=False):
    pass


# --- inbound -------------------------------------------------------------------------------------------


class Send(_Record, tag="s", frozen=True):
    """A client's `send`. `message` is the id the ack names, the same for every repetition of (`client`, `n`).

    `to_connection` names where replies and refusals go: (incarnation, connection number, the frame's id).
    `granted`: the token's `channels` patterns allow sending to `to`, whatever the policy says.
    `retry`: the idempotency key of a dead letter that is handled again as a new message ("": it is none);
    nobody waits for its answers, and `node` is "".
    """

    user: str
    client: str
    n: int
    message: str
    to: str
    type: str
    data: bytes
    ts: int
    session: str
    device: str
    node: str
    connection: int
    frame: int | str
    granted: bool = False
    retry: str = ""


class Request(_Record, tag="r", frozen=True):
    """A client's `request`. `key` is unique per request frame; `deadline` is Unix ms."""

    user: str
    client: str
    key: str
    type: str
    data: bytes
    ts: int
    session: str
    device: str
    node: str
    connection: int
    frame: int | str
    deadline: int


class SessionEvent(_Record, tag="e", frozen=True):
    """A session's `connect` or `disconnect`. Its event id is session and kind: emitted twice, it is one.

    `retry`: this one was a dead letter and is handled again, though it was there before.
    """

    kind: str
    user: str
    session: str
    device: str
    client: str
    node: str
    ts: int
    reason: str = ""
    retry: str = ""

    @property
    def id(self) -> str:
        """The event id."""
        return f"{self.session}/{self.kind}"


Inbound = Send | Request | SessionEvent

# --- outbound ------------------------------------------------------------------------------------------


class Message(_Record, tag="m", frozen=True):
    """A message for a channel's log.

    `source` and `score` make a repetition recognisable: (user NUL client, n * MAX_OUTPUTS + output index),
    or (idempotency key, KEYED), or ("", 0) for what is never repeated.
    `body` holds the members of the `message` frame that the log keeps, as JSON without braces:
    `"id":…,"from":…,"type":…,"data":…[,"cause":…]` (see `message_body`).
    `content` is CRC-32 of what the client wrote (`to`, `type`, `data`), 0 where there is nothing to compare:
    the same number with another content is an error, while a handler may answer differently the second time.
    `origin` is (incarnation, connection number, frame id) of the sender, where one waits for refusals.
    `sent` is when the client's send arrived (Unix ms), where the way of this message is timed, else 0.
    """

    channel: str
    body: bytes
    source: str = ""
    score: int = 0
    content: int = 0
    origin: tuple[str, int, int | str] | None = None
    sent: int = 0


class Reply(_Record, tag="p", frozen=True):
    """An answer to one connection: no `seq`, never replayed. `channel` is the user's inbox, for the key.

    `frame` is a whole JSON frame (`reply` or `error`); `deadline` is Unix ms, after it nobody waits.
    """

    channel: str
    node: str
    connection: int
    deadline: int
    frame: bytes


class Member(_Record, tag="g", frozen=True):
    """`user` joins (`joined`) or leaves the group whose channel this is."""

    channel: str
    user: str
    joined: bool
    key: str = ""


class UserGroup(_Record, tag="u", frozen=True):
    """The group's partition tells the user's: membership of `group` as of `version` (its outbound offset)."""

    channel: str
    group: str
    version: int
    epoch: str
    seq: int
    joined: bool


class Cursor(_Record, tag="c", frozen=True):
    """`device` of `user` has processed `channel` up to `seq` of `epoch`."""

    channel: str
    user: str
    device: str
    seq: int
    epoch: str


class Revoke(_Record, tag="v", frozen=True):
    """Tokens of `channel` (`user:U`, issued before `before`, Unix ms; or `token:JTI`) no longer hold."""

    channel: str
    before: int


Outbound = Message | Reply | Member | UserGroup | Cursor | Revoke


# --- state ---------------------------------------------------------------------------------------------


class StateRecord(_Record, frozen=True):
    """One fact that is not a log, as the compacted state topic keeps it. Newest `version` wins.

    `kind` is `member`, `group` (of a user), `cursor`, `revoke`, `generation` or `dead`; `field` the user,
    group, `user NUL device`, incarnation or "". A `generation` has its id in `epoch`, and a record of the log
    that it was seen to join: offset (`version`; NEW: none), time (`seq`) and checksum.
    """

    kind: str
    channel: str
    field: str
    version: int
    epoch: str = ""
    seq: int = 0
    present: bool = True
    checksum: int = 0

    @property
    def key(self) -> str:
        """The compaction key."""
        return f"{self.kind}\0{self.channel}\0{self.field}"


encode: Final = msgspec.msgpack.Encoder().encode
decode_inbound: Final = msgspec.msgpack.Decoder(Inbound).decode
decode_outbound: Final = msgspec.msgpack.Decoder(Outbound).decode
decode_state: Final = msgspec.msgpack.Decoder(StateRecord).decode

_json: Final = msgspec.json.Encoder().encode


def compact_json(raw: bytes | memoryview | msgspec.Raw) -> bytes:
    """Return a JSON value on one line: frames are separated by line ends, so `data` may hold none."""
    value = bytes(raw)
    if b"\n" in value or b"\r" in value:
        return _json(msgspec.json.decode(value))
    return value


def message_id(user: str, client: str, n: int) -> str:
    """Return the id of a `send`: 96 bits of BLAKE2b, so a repetition on any node gets the same one."""
    digest = hashlib.blake2b(f"{user}\0{client}\0{n}".encode(), digest_size=12).digest()
    return urlsafe_b64encode(digest).decode()


@functools.lru_cache(maxsize=1024)
def _quoted(text: str) -> bytes:
    return _json(text)


def message_body(*, id: str, sender: str | None, type: str, data: bytes, cause: str = "") -> bytes:  # noqa: A002
    """Return the log's share of a `message` frame: JSON members without braces. `data` is compact JSON."""
    tail = b',"cause":' + _json(cause) if cause else b""
    return b"".join(
        (b'"id":', _json(id), b',"from":', _json(sender), b',"type":', _quoted(type), b',"data":', data, tail)
    )


def log_entry(ts: int, body: bytes) -> bytes:
    """Return an entry of a channel's list: the body with its time, which the broker gave (Unix ms)."""
    return b'"ts":%d,%b' % (ts, body)


def entry_ts(entry: bytes) -> int:
    """Return the time (Unix ms) of a log entry."""
    return int(entry[5 : entry.index(b",")])


def body_id(body: bytes) -> str:
    """Return the id in a body or a log entry, as logs show it; "" where there is none."""
    _, found, rest = body[:300].partition(b'"id":"')
    return rest.partition(b'"')[0].decode(errors="replace") if found else ""


def message_frame(channel: str, seq: int, epoch: str, entry: bytes) -> bytes:
    """Return the JSON `message` frame for a log entry."""
    return b'{"t":"message","channel":%b,"seq":%d,"epoch":"%b",%b}' % (
        _quoted(channel),
        seq,
        epoch.encode(),
        entry,
    )


def entry_members(entry: bytes) -> dict[str, Any]:
    """Return the members of a log entry as Python values."""
    members: dict[str, Any] = msgspec.json.decode(b"{" + entry + b"}")
    return members


def checksum(value: bytes) -> int:
    """Return CRC-32 of a record's value: tells whether a log still joins a watermark."""
    return binascii.crc32(value)


def dead_headers(
    reason: str, detail: str, topic: str, partition: int, offset: int
) -> tuple[tuple[str, bytes], ...]:
    """Return a dead letter's headers: why, and where its original was; key and value are the original's."""
    return (
        ("reason", reason.encode()),
        ("detail", detail.encode()),
        ("topic", topic.encode()),
        ("partition", b"%d" % partition),
        ("offset", b"%d" % offset),
    )
