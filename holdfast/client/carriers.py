"""The two carriers that the client speaks: WebSocket and TCP, each on its codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.protocol.frames import SUBPROTOCOL_JSON
from holdfast.protocol.length import LengthClient
from holdfast.protocol.websocket import WebSocketClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.client.connection import Address

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Longest message taken from the server, in bytes. Servers send several frames in one."""

_JOINED: Final = 16_384
"""Frames are joined into one WebSocket message up to this many bytes, below every server's limit."""


class WebSocketCarrier:
    """Text messages of JSON frames, separated by line ends."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._codec = WebSocketClient(max_message=MAX_MESSAGE)

    @property
    def open(self) -> bool:
        """See `Carrier`."""
        return self._codec.open

    @property
    def ended(self) -> tuple[int, str] | None:
        """See `Carrier`."""
        return None if self._codec.ended is None else (self._codec.ended.code, self._codec.ended.reason)

    @property
    def after(self) -> float:
        """See `Carrier`."""
        return self._codec.retry_after

    def start(self) -> bytes:
        """See `Carrier`."""
        address = self._address
        host = f"[{address.host}]" if ":" in address.host else address.host
        port = "" if address.port == (443 if address.secure else 80) else f":{address.port}"
        return self._codec.request(host + port, address.path, (SUBPROTOCOL_JSON,))

    def receive(self, data: bytes) -> Sequence[bytes]:
        """See `Carrier`."""
        return [frame for message in self._codec.receive(data) for frame in message.split(b"\n") if frame]

    def take(self) -> bytes:
        """See `Carrier`."""
        return self._codec.take()

    def encode(self, frames: Sequence[bytes]) -> bytes:
        """See `Carrier`."""
        wrap = self._codec.wrap
        messages: list[bytes] = []
        joined: list[bytes] = []
        size = 0
        for frame in frames:
            if joined and size + len(frame) > _JOINED:
                messages.append(wrap(b"\n".join(joined)))
                joined, size = [], 0
            joined.append(frame)
            size += len(frame) + 1
        messages.append(wrap(b"\n".join(joined)))
        return b"".join(messages)

    def close(self) -> bytes:
        """See `Carrier`."""
        return self._codec.close()


class TcpCarrier:
    """A 4-byte big-endian length, then one JSON frame."""

    after: Final = 0.0

    def __init__(self) -> None:
        self._codec = LengthClient(max_message=MAX_MESSAGE)

    @property
    def open(self) -> bool:
        """See `Carrier`."""
        return self._codec.open

    @property
    def ended(self) -> tuple[int, str] | None:
        """See `Carrier`."""
        if self._codec.ended is None:
            return None
        return 0, "a frame that is too long was announced: is this a Holdfast TCP port?"

    def start(self) -> bytes:
        """See `Carrier`."""
        return b""

    def receive(self, data: bytes) -> Sequence[bytes]:
        """See `Carrier`."""
        return self._codec.receive(data)

    def take(self) -> bytes:
        """See `Carrier`."""
        return self._codec.take()

    def encode(self, frames: Sequence[bytes]) -> bytes:
        """See `Carrier`."""
        return b"".join(map(self._codec.wrap, frames))

    def close(self) -> bytes:
        """See `Carrier`."""
        return b""
