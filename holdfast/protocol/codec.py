"""What every carrier's codec has in common: bytes from the wire in, messages out, no I/O."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Ended(NamedTuple):
    """How a connection ended: write what `take()` still gives, then close the transport.

    `code` is a close code (RFC 6455's, or one of `holdfast.protocol.codes`); below 1000 it is the HTTP status
    of a refused handshake, and 0 stands for what was no handshake at all. `by_peer`: the other side began it.
    """

    code: int
    reason: str
    by_peer: bool


class Codec(Protocol):
    """One side of one connection. Not thread-safe; never raises on what the peer sent."""

    outgoing: bytes
    """What `take()` would return: look here first, it is mostly empty."""
    ended: Ended | None
    """Not None: nothing more will come; what the peer still sends is ignored."""

    @property
    def controls(self) -> int:
        """Frames of the last `receive` that were the carrier's own: pings, pongs."""

    @property
    def subprotocol(self) -> str:
        """The subprotocol agreed on, "" where none was offered or the carrier has none."""

    @property
    def open(self) -> bool:
        """True from the end of the handshake to the first sign of a close."""

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the wire, return the messages they complete; then see `outgoing` and `ended`."""

    def take(self) -> bytes:
        """Return what must be written to the peer, once."""

    def wrap(self, payload: bytes) -> bytes:
        """Return one outgoing message as it goes on the wire."""

    def close(self, code: int, reason: str = "") -> bytes:
        """Begin to close, and return what must be written. b"" when it was closed already."""


class ServerCodec(Codec, Protocol):
    """The server's side, which may not want a connection at all."""

    def turn_away(self, reason: str, seconds: float) -> bytes:
        """End before anything was agreed on; return what tells the client when to come back."""
