"""Listeners: one per carrier, each a port, a codec and a wire format."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from holdfast.protocol.length import LengthServer
from holdfast.protocol.websocket import ServerConfig, WebSocketServer

from .formats import TCP_JSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.protocol.codec import ServerCodec
    from holdfast.settings import Settings


class Listener(NamedTuple):
    """One carrier. `format` is -1 where the handshake decides it."""

    name: str
    port: int
    codec: Callable[[], ServerCodec]
    format: int


def listeners(settings: Settings) -> list[Listener]:
    """Return what the settings ask for."""
    access = settings.access
    shared = ServerConfig.of(
        path=access.websocket_path,
        subprotocols=(SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK),
        origins=access.origins,
        max_message=access.frame,
    )
    found = [Listener("websocket", access.websocket_port, lambda: WebSocketServer(shared), -1)]
    if access.tcp:
        tcp = Listener("tcp", access.tcp_port, lambda: LengthServer(max_message=access.frame), TCP_JSON)
        found.append(tcp)
    return found
