"""The access side of nodelink: listens for dispatchers, checks who they are, and hands over their pushes.

One direction only: nothing is written to a link (but who this is, where the dispatcher did not know), so a
dispatcher can be no slower for a node that hangs.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Final, cast

import msgspec

from holdfast.clock import SystemClock
from holdfast.nodelink.frames import HEADER, MAX_FRAME, VERSION, Hello, Push, Welcome, decode, framed

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock, Timer
    from holdfast.network import Network, Server
    from holdfast.observe.metrics import Metrics
    from holdfast.tls import Trust

MAX_HELLO: Final = 4096
"""Bytes of the first frame, at most: nobody unknown makes this process hold more."""

MAX_LINKS: Final = 256
"""Links at once, at most; a connection above it is closed and counted as `too_many`."""

HELLO_SECONDS: Final = 5.0
"""Seconds from accept to a valid Hello."""

_log = logging.getLogger(__name__)


class IncomingLink(asyncio.Protocol):
    """One dispatcher's link to this node. `dispatcher` is "" until its Hello was accepted."""

    __slots__ = ("_buffer", "_parsing", "_paused", "_server", "_timer", "_transport", "dispatcher")

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._timer: Timer | None = None
        self._buffer = b""
        self._parsing = False
        self._paused = False
        self.dispatcher = ""

    def pause(self) -> None:
        """Hand over no more pushes until `resume`: what the node does while it is behind with delivering."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Undo `pause`; pushes that were already here come before this returns."""
        if self._paused:
            self._paused = False
            if not self._parsing:
                self._parse(b"")
            if not self._paused and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self) -> None:
        """End the link; the dispatcher comes back with a break."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock)
        if self._server._add(self):
            self._timer = self._server.clock.call_later(HELLO_SECONDS, self._no_hello)
        else:
            self._refuse("too_many")

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._parse(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if isinstance(exc, ssl.SSLError) and not self.dispatcher:
            self._server.metrics.access_nodelink_refused.labels("tls").inc()
            _log.warning("nodelink closed: %s", exc, extra={"reason": "tls"})
        self._buffer = b""
        if self._timer is not None:
            self._timer.cancel()
        self._server._remove(self)

    # frames

    def _parse(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        data = self._buffer + data if self._buffer else data
        self._parsing = True
        try:
            self._buffer = data[self._frames(data) :]
        finally:
            self._parsing = False

    def _frames(self, data: bytes) -> int:
        """Take the whole frames; return where the rest begins."""
        view = memoryview(data)
        start, end = 0, len(data)
        while end - start >= HEADER and not self._paused:
            length = int.from_bytes(data[start : start + HEADER], "big")
            if length > (MAX_FRAME if self.dispatcher else MAX_HELLO):
                self._refuse("too_large")
                return end
            stop = start + HEADER + length
            if stop > end:
                break
            try:
                frame = decode(view[start + HEADER : stop])
            except msgspec.DecodeError:
                self._refuse("bad_frame")
                return end
            start = stop
            if not self._take(frame):
                return end
        return start

    def _take(self, frame: Hello | Push) -> bool:
        if isinstance(frame, Push):
            if not self.dispatcher:
                self._refuse("hello_first")
                return False
            self._server.on_push(self, frame)
            return self._transport is not None and not self._transport.is_closing()
        reason = self._server._objection(frame) if not self.dispatcher else "bad_frame"
        if reason:
            self._refuse(reason)
            return False
        self.dispatcher = frame.dispatcher
        if not frame.incarnation and self._transport is not None:
            self._transport.write(framed(Welcome(self._server._incarnation)))
        if self._timer is not None:
            self._timer.cancel()
        return True

    def _no_hello(self) -> None:
        self._refuse("no_hello")

    def _refuse(self, reason: str) -> None:
        self._buffer = b""
        self._server.metrics.access_nodelink_refused.labels(reason).inc()
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        _log.warning("nodelink closed: %s", reason, extra={"reason": reason, "peer": str(peer)})
        self._transport.close()


class LinkServer:
    """Listens for dispatchers. `on_push` gets each push in order; `on_lost` each accepted link that ended."""

    def __init__(
        self,
        network: Network,
        host: str,
        port: int,
        *,
        incarnation: str,
        secret: str,
        other_secret: str = "",
        metrics: Metrics,
        on_push: Callable[[IncomingLink, Push], None],
        on_lost: Callable[[IncomingLink], None],
        clock: Clock | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.metrics = metrics
        self._trust = trust
        self.clock: Clock = clock or SystemClock()
        self.on_push = on_push
        self._on_lost = on_lost
        self._network = network
        self._host = host
        self._port = port
        self._incarnation = incarnation
        self._secrets = (secret.encode(), (other_secret or secret).encode())
        self._links: dict[IncomingLink, None] = {}  # in order, so that runs can be repeated
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None, "not started"
        return self._server.port

    @property
    def links(self) -> int:
        """How many dispatchers are linked."""
        return sum(1 for link in self._links if link.dispatcher)

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        self._server = await self._network.listen(
            lambda: IncomingLink(self),
            self._host,
            self._port,
            ssl=self._trust.context if self._trust is not None else None,
        )

    def renew(self, incarnation: str) -> None:
        """Take a new incarnation: links that were meant for the old one are closed."""
        self._incarnation = incarnation
        for link in tuple(self._links):
            link.close()

    def close(self) -> None:
        """Stop listening and end all links."""
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.close()

    def _objection(self, hello: Hello) -> str:
        if hello.version != VERSION:
            return "version"
        # Compared always, an empty setting included, so that the answer's time tells nothing.
        right = [hmac.compare_digest(hello.secret.encode(), secret) for secret in self._secrets]
        if self._secrets[0] and not any(right):
            return "secret"
        if hello.incarnation not in ("", self._incarnation):
            return "incarnation"
        return "" if hello.dispatcher else "bad_frame"

    def _add(self, link: IncomingLink) -> bool:
        if len(self._links) >= MAX_LINKS:
            return False
        self._links[link] = None
        return True

    def _remove(self, link: IncomingLink) -> None:
        if link in self._links:
            del self._links[link]
            if link.dispatcher:
                self._on_lost(link)


def _keep_alive(sock: socket.socket) -> None:
    """Notice within 20 s that a dispatcher's machine is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
