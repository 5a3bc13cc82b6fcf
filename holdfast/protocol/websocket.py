"""RFC 6455 without I/O: the server's and the client's side of a connection.

Used by the access service's listener, the client SDK and the load tools. Every violation ends the connection
with the RFC's code; permessage-deflate is declined.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from holdfast.protocol import websocket_frames as frames
from holdfast.protocol import websocket_handshake as handshake
from holdfast.protocol.codec import Ended
from holdfast.protocol.websocket_decoder import WebSocket
from holdfast.protocol.websocket_frames import frame_binary, frame_text
from holdfast.protocol.websocket_handshake import Limits, Refusal, Request, ServerConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Ended",
    "Limits",
    "Request",
    "ServerConfig",
    "WebSocket",
    "WebSocketClient",
    "WebSocketServer",
    "frame_binary",
    "frame_text",
]


class WebSocketServer(WebSocket):
    """The server's side of one connection, from the first byte of the HTTP request on."""

    __slots__ = ("request",)

    _MASK_IN = frames.MASKED
    _limits: ServerConfig

    def __init__(
        self,
        config: ServerConfig | None = None,
        /,
        *,
        path: str = "/ws",
        subprotocols: Sequence[str] = (),
        origins: Sequence[str] = (),
        max_message: int = 65_536,
        max_frame: int | None = None,
    ) -> None:
        """Build from a `config` that many connections share, or from what makes one up.

        `max_message` and `max_frame` (None: the same) are bytes of payload.
        """
        super().__init__(
            config
            or ServerConfig.of(
                path=path,
                subprotocols=subprotocols,
                origins=origins,
                max_message=max_message,
                max_frame=max_frame,
            )
        )
        self.request: Request | None = None
        """The handshake's request, also a refused one. Set it to None once it was looked at: it is large."""

    def _shake_hands(self, data: bytes) -> int:
        try:
            head = handshake.head_of(data)
            if head is None:
                self._buffer = data
                return 0
            self.request = request = handshake.parse_request(head)
            subprotocol, response = handshake.accept(request, self._limits)
        except Refusal as refusal:
            self.outgoing += refusal.response()
            self._end(Ended(refusal.status, str(refusal), by_peer=False))
            return 0
        self.outgoing += response
        self._agree(subprotocol)
        return len(head) + 4

    def _abandon(self, code: int, reason: str) -> bytes:
        del code
        refusal = Refusal(503, reason or "closing")
        self._end(Ended(refusal.status, str(refusal), by_peer=False))
        return refusal.response()

    def turn_away(self, reason: str, seconds: float) -> bytes:
        """See `ServerCodec`: HTTP 503 with Retry-After, in whole seconds."""
        refusal = Refusal(503, reason, f"Retry-After: {math.ceil(seconds)}")
        self._end(Ended(refusal.status, reason, by_peer=False))
        return refusal.response()

    def _frame(self, first: int, payload: bytes) -> bytes:
        return frames.header(first, len(payload)) + payload


class WebSocketClient(WebSocket):
    """The client's side: `request()` gives the first bytes to write; `open` tells when the server agreed."""

    __slots__ = ("_key", "_offered", "retry_after")

    _MASK_IN = 0

    def __init__(self, *, max_message: int = 1 << 20, max_frame: int | None = None) -> None:
        """Build one; the limits are bytes of payload."""
        super().__init__(Limits(max_message, min(max_message, max_frame or max_message)))
        self.retry_after = 0.0
        """Seconds after which to come back, as a server that refused says; 0: it does not."""
        self._key = ""
        self._offered: tuple[str, ...] = ()

    def request(
        self,
        host: str,
        path: str = "/ws",
        subprotocols: Sequence[str] = (),
        headers: Iterable[tuple[str, str]] = (),
    ) -> bytes:
        """Return the handshake's request. `host` is the Host header, with a port other than the default.

        Raises ValueError for a name or value that cannot stand in a header.
        """
        self._key = handshake.new_key()
        self._offered = tuple(subprotocols)
        return handshake.request_bytes(host, path, self._key, self._offered, headers)

    def _shake_hands(self, data: bytes) -> int:
        try:
            head = handshake.head_of(data)
            if head is None:
                self._buffer = data
                return 0
            subprotocol = handshake.check_response(head, self._key, self._offered)
        except Refusal as refusal:
            self.retry_after = refusal.after
            self._end(Ended(refusal.status, str(refusal), by_peer=True))
            return 0
        self._key = ""
        self._offered = ()
        self._agree(subprotocol)
        return len(head) + 4

    def _abandon(self, code: int, reason: str) -> bytes:
        del code
        self._end(Ended(0, reason or "closed before the handshake", by_peer=False))
        return b""

    def _frame(self, first: int, payload: bytes) -> bytes:
        mask = os.urandom(4)
        size = len(payload)
        return frames.header(first, size, frames.MASKED) + mask + frames.apply_mask(payload, mask)
