"""The network port: listening and connecting with asyncio protocols, over TCP or in memory."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final, Protocol

from holdfast.tls_transport import secured

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

BACKLOG: Final = 4096
"""Connections that wait for their accept in the kernel, unless its `net.core.somaxconn` is lower."""


class Server(Protocol):
    """Something that listens."""

    @property
    def port(self) -> int:
        """The port that is listened on."""

    def close(self) -> None:
        """Accept no more; connections live on."""


class Network(Protocol):
    """Where connections come from."""

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        ssl: ssl.SSLContext | None = None,
        crowd: bool = False,
    ) -> Server:
        """Accept connections at host:port (0: any free port), each joined to a new `factory()`.

        `crowd`: there will be thousands of them, which are to be small and to take turns.
        """

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        """Open a connection joined to a new `factory()`. Raises OSError when nobody listens."""


class _TcpServer:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self._port = int(server.sockets[0].getsockname()[1])  # a closed server has no sockets any more

    @property
    def port(self) -> int:
        return self._port

    def close(self) -> None:
        self._server.close()


class TcpNetwork:
    """The machine's network, by the running event loop."""

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        ssl: ssl.SSLContext | None = None,
        crowd: bool = False,
    ) -> Server:
        """See `Network`."""
        if ssl is not None:
            factory = secured(factory, ssl)
        if crowd and sys.platform == "linux":
            from holdfast import sockets  # noqa: PLC0415 - what a client imports runs elsewhere, too

            return await sockets.listen(factory, host, port, reuse_port=reuse_port)
        server = await asyncio.get_running_loop().create_server(
            factory, host, port, backlog=BACKLOG, reuse_port=reuse_port or None
        )
        return _TcpServer(server)

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        """See `Network`."""
        await asyncio.get_running_loop().create_connection(factory, host, port, ssl=ssl)


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory. What is written reaches the other end's protocol on a later turn.

    Bytes wait at the receiver while it has paused reading; above the high-water mark the writer's protocol
    is told to pause, as on a real socket.
    """

    def __init__(self, protocol: asyncio.Protocol, name: str) -> None:
        super().__init__({"peername": (name, 0), "socket": None})
        self.protocol = protocol
        self.peer: MemoryTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._inbox: list[bytes] = []
        self._inbox_size = 0
        self._scheduled = False
        self._reading = True
        self._ending = False
        self._closed = False
        self._high = 65_536
        self._writer_paused = False

    # writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.Transport."""
        if self._closed or self.peer is None or not data:
            return
        self.peer._receive(bytes(data))
        if self.peer._inbox_size > self._high and not self._writer_paused:
            self._writer_paused = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: list[bytes]) -> None:  # type: ignore[override]
        """See asyncio.Transport."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """See asyncio.Transport."""
        return self.peer._inbox_size if self.peer else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.Transport."""
        del low
        self._high = 65_536 if high is None else high

    # reading

    def _receive(self, data: bytes) -> None:
        if self._closed:
            return
        self._inbox.append(data)
        self._inbox_size += len(data)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        if self._reading and self._inbox:
            data = b"".join(self._inbox)
            self._inbox.clear()
            self._inbox_size = 0
            peer = self.peer
            if peer is not None and peer._writer_paused and not peer._closed:
                peer._writer_paused = False
                peer.protocol.resume_writing()
            self.protocol.data_received(data)
        if self._ending and not self._inbox:
            self._end(None)

    def pause_reading(self) -> None:
        """See asyncio.Transport."""
        self._reading = False

    def resume_reading(self) -> None:
        """See asyncio.Transport."""
        self._reading = True
        self._schedule()

    def is_reading(self) -> bool:
        """See asyncio.Transport."""
        return self._reading

    # ending

    def close(self) -> None:
        """See asyncio.Transport."""
        if self._closed:
            return
        if self.peer is not None:
            self.peer._ending = True
            self.peer._schedule()
        self._end(None)

    def abort(self) -> None:
        """See asyncio.Transport."""
        if self.peer is not None:
            self.peer._inbox.clear()
        self.close()

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self._closed

    def _end(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._inbox.clear()
            self._inbox_size = 0
            self._loop.call_soon(self.protocol.connection_lost, error)


class _MemoryServer:
    def __init__(self, network: MemoryNetwork, port: int, factory: Callable[[], asyncio.Protocol]) -> None:
        self.port = port
        self.factory = factory
        self._network = network

    def close(self) -> None:
        self._network._servers.pop(self.port, None)


class MemoryNetwork:
    """A network inside this process: ports are numbers in a table, hosts are not looked at."""

    def __init__(self) -> None:
        self._servers: dict[int, _MemoryServer] = {}
        self._next_port = 40_000
        self._clients = 0

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        ssl: ssl.SSLContext | None = None,
        crowd: bool = False,
    ) -> Server:
        """See `Network`."""
        del host, reuse_port, ssl, crowd
        if port == 0:
            self._next_port += 1
            port = self._next_port
        if port in self._servers:
            raise OSError(f"memory port {port} is in use")
        self._servers[port] = server = _MemoryServer(self, port, factory)
        return server

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        """See `Network`."""
        del host, ssl
        server = self._servers.get(port)
        if server is None:
            raise ConnectionRefusedError(f"nobody listens on memory port {port}")
        self._clients += 1
        near = MemoryTransport(factory(), f"memory-server-{port}")
        far = MemoryTransport(server.factory(), f"memory-client-{self._clients}")
        near.peer, far.peer = far, near
        far.protocol.connection_made(far)
        near.protocol.connection_made(near)
