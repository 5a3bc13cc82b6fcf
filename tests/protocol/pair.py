"""Two codecs back to back, frames by hand, and bytes cut into pieces: what the protocol tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from holdfast.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from holdfast.protocol.websocket import WebSocketClient, WebSocketServer
from holdfast.protocol.websocket_frames import apply_mask, header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from holdfast.protocol.codec import Codec

MASK = b"\x37\xfa\x21\x3d"
BOTH = (SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK)


def opened(
    subprotocol: str = "", *, max_message: int = 1 << 20, max_frame: int | None = None
) -> tuple[WebSocketClient, WebSocketServer]:
    """Return a client and a server after their handshake."""
    client = WebSocketClient(max_message=max_message, max_frame=max_frame)
    server = WebSocketServer(subprotocols=BOTH, max_message=max_message, max_frame=max_frame)
    assert server.receive(client.request("localhost", "/ws", (subprotocol,) if subprotocol else ())) == []
    assert client.receive(server.take()) == []
    assert client.open
    assert server.open
    return client, server


def exchange(client: Codec, server: Codec) -> None:
    """Carry what both want to write until there is nothing left."""
    while client.outgoing or server.outgoing:
        server.receive(client.take())
        client.receive(server.take())


def raw(first: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """Return one frame with any first byte, as a client (`masked`) or a server writes it."""
    if not masked:
        return header(first, len(payload)) + payload
    return header(first, len(payload), 0x80) + MASK + apply_mask(payload, MASK)


def fragments(payload: bytes, cuts: Iterable[int], *, opcode: int = 1, masked: bool = True) -> list[bytes]:
    """Return a message as frames, cut at these places."""
    parts = list(pieces(payload, cuts)) or [b""]
    frames = []
    for index, part in enumerate(parts):
        final = 0x80 if index == len(parts) - 1 else 0
        frames.append(raw(final | (opcode if index == 0 else 0), part, masked=masked))
    return frames


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut bytes at places, which are taken modulo the length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    start = 0
    for place in [*places, len(data)]:
        if place > start:
            yield data[start:place]
            start = place


cuts = st.lists(st.integers(0, 1 << 20), max_size=12)
"""Where to cut."""


def feed(codec: Codec, chunks: Sequence[bytes] | Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """Give a codec chunks as a driver does; return all messages and all that it wanted to write."""
    messages: list[bytes] = []
    written = b""
    for chunk in chunks:
        messages += codec.receive(chunk)
        written += codec.take()
    return messages, written
