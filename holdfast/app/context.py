"""The context: what a handler can do. Outputs are collected, and released when the handler returns."""

from __future__ import annotations

import binascii
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from holdfast.channel import MAX_CHANNEL, parse
from holdfast.errors import Reject
from holdfast.records import MAX_OUTPUTS, compact_json

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from holdfast.protocol.frames import Message as LogMessage

MAX_OUTPUT_BYTES: Final = 512 * 1024
"""Most bytes of JSON that one run of a handler may put out, so that any of it fits one Kafka record."""

MAX_HISTORY: Final = 1000
"""Most messages of one look into a channel's history."""

_encode: Final = msgspec.json.Encoder().encode


class Online(msgspec.Struct, frozen=True):
    """A session that is online: its node, its device class, and since when (Unix ms)."""

    session: str
    node: str
    device: str
    since: int


class Reader(Protocol):
    """What a context reads. Both raise Retry while the store is away."""

    async def presence(self, users: Sequence[str]) -> Sequence[Sequence[Online]]:
        """Return the online sessions of each user."""

    async def history(
        self, channel: str, *, after: int | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[LogMessage]:
        """Return messages of a channel, oldest first; the newest `limit` where no bound is given."""

    async def may_send(self, user: str, channel: str) -> bool:
        """Tell whether the policy of the channel's kind lets this user send to it."""


class Output(msgspec.Struct, frozen=True, gc=False):
    """One collected output, the `index`th to `channel`: a message, or (`member`) a change of membership."""

    channel: str
    index: int
    id: str
    type: str = ""
    data: bytes = b""
    sender: str | None = None
    member: str = ""
    joined: bool = False


class Context:
    """One run of a handler.

    `message` is the id of what is handled (of a message, a request or an event: the same in every run),
    `user`, `session` and `device` say who sent it, `now` when it was accepted (Unix ms): unlike the clock, it
    is the same when the message is handled a second time, so use it in what you publish.
    """

    __slots__ = (
        "_bytes",
        "_counts",
        "_granted",
        "_raw",
        "_reader",
        "_to",
        "_type",
        "answer",
        "device",
        "kinds",
        "message",
        "now",
        "outputs",
        "session",
        "user",
    )

    def __init__(
        self,
        *,
        message: str,
        user: str,
        session: str,
        device: str,
        now: int,
        kinds: Collection[str],
        reader: Reader,
        to: str = "",
        type: str = "",  # noqa: A002
        raw: bytes = b"null",
        granted: bool = False,
    ) -> None:
        self.message = message
        self.user = user
        self.session = session
        self.device = device
        self.now = now
        self.kinds = kinds
        self.outputs: list[Output] = []
        self.answer: bytes | None = None
        self._reader = reader
        self._to = to
        self._type = type
        self._raw = raw
        self._granted = granted
        self._counts: dict[str, int] = {}
        self._bytes = 0

    def publish(self, channel: str, type: str, data: Any = None, *, sender: str | None = "") -> str:  # noqa: A002
        """Publish a message to a channel when the handler returns; return its id.

        `sender` is shown as `from`: this user where it is not given, nobody where it is None. No policy is
        asked: what a handler publishes is the handler's decision. Raises Reject, which reaches the client
        as an error, for a channel of no known kind (`bad_channel`) and beyond the bounds of one run
        (`too_many`: MAX_OUTPUTS messages to one channel, MAX_OUTPUT_BYTES in all).
        """
        raw = compact_json(data) if isinstance(data, msgspec.Raw) else _encode(data)
        return self._put(channel, type, raw, self.user if sender == "" else sender)

    def forward(self, data: Any = msgspec.UNSET, type: str | None = None) -> str:  # noqa: A002
        """Send the message on to the channel it is addressed to, as it is or changed; return its id.

        It asks no policy: `await ctx.may_send()` does. Raises TypeError where there is nothing addressed.
        """
        if not self._to:
            raise TypeError("only a message can be forwarded: requests and sessions are addressed to nobody")
        raw = self._raw if data is msgspec.UNSET else _encode(data)
        return self._put(self._to, type or self._type, raw, self.user)

    def reply(self, data: Any = None) -> None:
        """Answer the connection that sent this, as returning a value from a request's handler does.

        For a message, it is a `reply` with the `send`'s id. The last one counts. Raises Reject (`too_many`)
        beyond MAX_OUTPUT_BYTES.
        """
        answer = _encode(data)
        if len(answer) > MAX_OUTPUT_BYTES:
            raise Reject("too_many", f"a reply may have {MAX_OUTPUT_BYTES} bytes at most")
        self.answer = answer

    def join(self, group: str, user: str) -> None:
        """Make `user` a member of a group (its id, or `group:ID`) when the handler returns."""
        self._member(group, user, joined=True)

    def leave(self, group: str, user: str) -> None:
        """Take `user` out of a group when the handler returns."""
        self._member(group, user, joined=False)

    async def presence(self, user: str) -> Sequence[Online]:
        """Return the sessions of a user that are online now. Raises Retry while the store is away."""
        return (await self._reader.presence([user]))[0]

    async def history(
        self, channel: str, *, after: int | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[LogMessage]:
        """Return messages of a channel, oldest first; `after` and `before` are exclusive `seq`s.

        Without either, the newest `limit`. At most MAX_HISTORY, and fewer where they are large: go on from
        the last one. Raises ValueError for another limit, Retry while the store is away.
        """
        self._check(channel)
        if not 1 <= limit <= MAX_HISTORY:
            raise ValueError(f"limit must be from 1 to {MAX_HISTORY}")
        return await self._reader.history(channel, after=after, before=before, limit=limit)

    async def may_send(self, channel: str = "") -> bool:
        """Tell whether this user may send to a channel (the message's own, if not given).

        That is what would be asked without a handler: the policy of the channel's kind and, for the message's
        own channel, what the token grants. Raises Retry while the store is away.
        """
        channel = channel or self._to
        self._check(channel)
        if self._granted and channel == self._to:
            return True
        return await self._reader.may_send(self.user, channel)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry the ids of the user, the session and the message."""
        return logging.LoggerAdapter(
            logging.getLogger("holdfast.app"),
            {"user": self.user, "session": self.session, "handled": self.message},
        )

    def _check(self, channel: str) -> None:
        kind, _ = parse(channel)
        if kind not in self.kinds:
            raise Reject("bad_channel", f"there is no kind of channel named {kind!r}")

    def _number(self, channel: str, size: int) -> tuple[int, str]:
        self._check(channel)
        index = self._counts.get(channel, 0)
        if index >= MAX_OUTPUTS:
            raise Reject("too_many", f"one message may cause {MAX_OUTPUTS} outputs to a channel at most")
        self._bytes += size
        if self._bytes > MAX_OUTPUT_BYTES:
            raise Reject("too_many", f"one message may cause {MAX_OUTPUT_BYTES} bytes of outputs at most")
        self._counts[channel] = index + 1
        if channel == self._to:
            return index, f"{self.message}-{index}"
        return index, f"{self.message}-{binascii.crc32(channel.encode()):08x}-{index}"

    def _put(self, channel: str, type: str, data: bytes, sender: str | None) -> str:  # noqa: A002
        index, name = self._number(channel, len(data) + MAX_CHANNEL)
        self.outputs.append(Output(channel, index, name, type, data, sender))
        return name

    def _member(self, group: str, user: str, *, joined: bool) -> None:
        channel = group if group.startswith("group:") else f"group:{group}"
        self._check(f"user:{user}")
        index, name = self._number(channel, MAX_CHANNEL)
        self.outputs.append(Output(channel, index, name, member=user, joined=joined))
