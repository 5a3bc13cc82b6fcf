"""What the client's state tells its driver after a frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from holdfast.protocol import frames

if TYPE_CHECKING:
    from holdfast.errors import HoldfastError

_encode: Final = msgspec.json.Encoder().encode

Kind = Literal["send", "request", "subscribe", "unsubscribe", "refresh"]


@dataclass(slots=True, eq=False)
class Operation:
    """Something that waits for its answer. `waiter` is the driver's own.

    `number` is the frame's id in its latest transmission, `n` a send's counter once it was transmitted,
    `first` when that was (s, monotonic); `flying` is true while an answer may come on this connection.
    """

    kind: Kind
    target: str = ""
    type: str = ""
    data: msgspec.Raw = field(default_factory=lambda: msgspec.Raw(b"null"))
    since: frames.Position | None = None
    waiter: Any = None
    number: int = 0
    n: int = -1
    first: float = 0.0
    flying: bool = False
    done: bool = False

    def frame(self, number: int) -> bytes:
        """Return its frame under this number."""
        frame: Any
        match self.kind:
            case "send":
                frame = frames.Send(id=number, n=self.n, to=self.target, type=self.type, data=self.data)
            case "request":
                frame = frames.Request(id=number, type=self.type, data=self.data)
            case "subscribe":
                frame = frames.Subscribe(id=number, channel=self.target, since=self.since)
            case "unsubscribe":
                frame = frames.Unsubscribe(id=number, channel=self.target)
            case "refresh":
                frame = frames.Refresh(id=number, token=self.type)
        return _encode(frame)


@dataclass(frozen=True, slots=True)
class Completed:
    """The operation was answered. Result: message id, reply data, `Subscribed`, or None."""

    operation: Operation
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The operation ended in an error."""

    operation: Operation
    error: HoldfastError


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error that answers nothing that waits: about a channel, or a handler's refusal of message `id`."""

    code: str
    message: str
    channel: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Renew:
    """This connection is of no more use: drop it and come back at once, resuming."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ending:
    """The server said in a frame that it closes, with which code (carriers without close codes), and for how
    many seconds to stay away (0: as the client sees fit)."""  # noqa: D209, D205

    close: int
    reason: str
    after: float = 0.0


Event = (
    frames.Connected
    | frames.Message
    | frames.Subscribed
    | frames.Unsubscribed
    | frames.Reset
    | frames.Drain
    | Completed
    | Failed
    | Trouble
    | Renew
    | Ending
)
