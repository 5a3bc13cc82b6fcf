"""TCP framing without I/O: a 4-byte big-endian length, then one UTF-8 JSON frame. Both directions are alike.

This carrier has no close codes, so whoever closes says why in a last `error` frame with `close`.
"""

from __future__ import annotations

from typing import Final

from holdfast.protocol.codec import Ended
from holdfast.protocol.codes import CODES
from holdfast.protocol.frames import Error
from holdfast.protocol.wire import JSON

HEAD: Final = 4
_TOO_LARGE: Final = CODES["too_large"]
_OVERLOADED: Final = CODES["overloaded"]


class LengthCodec:
    """One side of one TCP connection: the client's as it stands, the server's in `LengthServer`."""

    __slots__ = ("_buffer", "_max_message", "_missing", "ended", "outgoing")

    subprotocol: Final = ""
    controls: Final = 0

    def __init__(self, *, max_message: int) -> None:
        """Build one; `max_message` is bytes of payload."""
        self._max_message = max_message
        self._buffer: bytes | bytearray = b""
        self._missing = HEAD  # bytes without which the next message is not complete
        self.outgoing = b""
        self.ended: Ended | None = None

    @property
    def open(self) -> bool:
        """True until the end: there is no handshake."""
        return self.ended is None

    def take(self) -> bytes:
        """Return what must be written to the peer, once."""
        outgoing = self.outgoing
        self.outgoing = b""
        return outgoing

    def wrap(self, payload: bytes) -> bytes:
        """Return `payload` as one message on the wire."""
        return len(payload).to_bytes(HEAD, "big") + payload

    def close(self, code: int, reason: str = "") -> bytes:
        """End at once: there is no closing handshake, the `error` frame before has said why."""
        if self.ended is None:
            self._end(Ended(code, reason, by_peer=False))
        return b""

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the wire and return the messages they complete; see `ended` afterwards."""
        if self.ended is not None:
            return []
        if self._buffer:
            # Grown in place until the message is whole: a peer that sends byte by byte costs no more.
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
            if len(self._buffer) < self._missing:
                return []
            data = bytes(self._buffer)
            self._buffer = b""
        messages: list[bytes] = []
        position = 0
        size = len(data)
        self._missing = HEAD
        while size - position >= HEAD:
            start = position + HEAD
            length = int.from_bytes(data[position:start], "big")
            if length > self._max_message:
                self._refuse()
                return messages
            if start + length > size:
                self._missing = HEAD + length
                break
            position = start + length
            messages.append(data[start:position])
        if position < size:
            self._buffer = data[position:]
        return messages

    def _refuse(self) -> None:
        self._end(Ended(_TOO_LARGE.close or 0, _TOO_LARGE.meaning, by_peer=False))

    def _end(self, ended: Ended) -> None:
        self.ended = ended
        self._buffer = b""


class LengthServer(LengthCodec):
    """The server's side: tells a client whose frame is too large."""

    __slots__ = ()

    def _refuse(self) -> None:
        super()._refuse()
        self.outgoing += self.wrap(
            JSON.encode(
                Error(
                    code=_TOO_LARGE.name,
                    message=f"a frame may have {self._max_message} bytes",
                    retry=_TOO_LARGE.retry,
                    close=_TOO_LARGE.close or 0,
                )
            )
        )

    def turn_away(self, reason: str, seconds: float) -> bytes:
        """See `ServerCodec`: an `error` with the seconds in `retry`."""
        close = _OVERLOADED.close or 0
        self._end(Ended(close, reason, by_peer=False))
        return self.wrap(JSON.encode(Error(_OVERLOADED.name, reason, round(seconds, 3), close=close)))


class LengthClient(LengthCodec):
    """The client's side: a server that sends too much is left without a word."""

    __slots__ = ()
