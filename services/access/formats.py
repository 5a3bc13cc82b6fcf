"""Wire formats: how a JSON frame looks on each kind of connection. Shared by all connections of the kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast.protocol.frames import SUBPROTOCOL_MSGPACK
from holdfast.protocol.websocket import frame_binary, frame_text
from holdfast.protocol.wire import JSON, MSGPACK, FrameError, to_msgpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.protocol.frames import ClientFrame


class Format(NamedTuple):
    """`wrap` makes a JSON frame the bytes to write; `frames` gives a message's frames, and what is wrong."""

    name: str
    wrap: Callable[[bytes], bytes]
    frames: Callable[[bytes], Iterable[ClientFrame | FrameError]]
    close_codes: bool


def _prefixed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


def _msgpack(frame: bytes) -> bytes:
    return frame_binary(to_msgpack(frame))


WEBSOCKET_JSON: Final = 0
WEBSOCKET_MSGPACK: Final = 1
TCP_JSON: Final = 2

FORMATS: Final = (
    Format("websocket", frame_text, JSON.frames, close_codes=True),
    Format("websocket", _msgpack, MSGPACK.frames, close_codes=True),
    Format("tcp", _prefixed, JSON.frames, close_codes=False),
)


def of_subprotocol(subprotocol: str) -> int:
    """Return the format of a WebSocket."""
    return WEBSOCKET_MSGPACK if subprotocol == SUBPROTOCOL_MSGPACK else WEBSOCKET_JSON
