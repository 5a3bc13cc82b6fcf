"""What a connection's state machine asks of whoever holds it, and the bounds it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from holdfast.protocol import frames
    from holdfast.protocol.frames import ServerFrame


class Bounds(NamedTuple):
    """What one connection may do: frames a second, frames at once, unanswered frames, channels asked for."""

    rate: float
    burst: int
    in_flight: int
    subscriptions: int


class Host(Protocol):
    """Who holds a connection: does what the machine decides.

    `publish` and `ask` raise Reject for what stays wrong and Retry for what may pass later.
    """

    def answer(self, frame: ServerFrame) -> None:
        """Write a frame to the client."""

    def end(self, code: str, reason: str) -> None:
        """Write the last error and close the socket."""

    def connect(self, frame: frames.Connect) -> None:
        """Check the token and record the session; ACCEPTED or ENDED follows, maybe at once."""

    def subscribe(self, frame: frames.Subscribe) -> None:
        """Join a channel; call `released` when it does not come to that."""

    def unsubscribe(self, frame: frames.Unsubscribe) -> None:
        """Leave a channel; call `released` if it was one that was asked for."""

    def publish(self, frame: frames.Send) -> None:
        """Put a send into the queue; `acked` or `failed` follows."""

    def ask(self, frame: frames.Request) -> float:
        """Put a request into the queue and return when it fails, in monotonic seconds.

        Its reply is let through by `answered`; `unasked` follows where it did not come into the queue.
        """

    def cursor(self, frame: frames.Cursor) -> None:
        """Keep a cursor."""

    def refresh(self, frame: frames.Refresh) -> None:
        """Take a newer token."""

    def drain(self) -> None:
        """Ask the client to reconnect elsewhere."""
