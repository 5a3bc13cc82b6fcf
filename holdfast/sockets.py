"""Sockets of a crowd: accepted, read and written so many in a turn, and small.

uvloop takes all sockets that are ready before it asks anybody, and keeps 1.2 KiB for each. Here those of one
listener have an epoll of their own, which the loop has as one descriptor, and a connection is a descriptor
and an object of seven slots. What it costs in CPU is the same (docs/performance.md). Linux only.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from holdfast.network import BACKLOG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EVENTS: Final = 96
"""Sockets that are read and written to in one turn of the loop, 10 to 30 µs each."""

ACCEPTS: Final = 32
"""Connections that are accepted in one turn of the loop."""

READ: Final = 64 * 1024
"""Bytes of one read; what is left of a connection has its next turn."""

FULL_SECONDS: Final = 1.0
"""Until connections are accepted again, after the process or the machine had no descriptor left for one."""

HIGH: Final = 64 * 1024
"""Bytes that wait to be written, above which a protocol is told to pause; at a quarter it may go on."""

_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT


class SocketServer:
    """Listens, and looks after the connections that came of it."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> None:
        """Take over sockets that listen and do not block."""
        self.loop = asyncio.get_running_loop()
        self.epoll = select.epoll()
        self.transports: dict[int, SocketTransport] = {}
        self.port = int(listening[0].getsockname()[1])
        self._factory = factory
        self._listening = {sock.fileno(): sock for sock in listening}
        for fd in self._listening:
            self.epoll.register(fd, _READ)
        self.loop.add_reader(self.epoll.fileno(), self._turn)

    def close(self) -> None:
        """Accept no more; connections live on."""
        for sock in self._listening.values():
            sock.close()
        self._listening.clear()
        self.let_go()

    def let_go(self) -> None:
        """End the epoll when nobody can need it any more."""
        if not self._listening and not self.transports and not self.epoll.closed:
            self.loop.remove_reader(self.epoll.fileno())
            self.epoll.close()

    def _turn(self) -> None:
        transports = self.transports
        for fd, events in self.epoll.poll(0, EVENTS):
            # A number may belong to another socket since, which then finds nothing to read or to write.
            transport = transports.get(fd)
            if transport is not None:
                transport.ready(events)
            elif fd in self._listening:
                self._accept(self._listening[fd])

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                # `accept` makes a Python socket, of which only the number is wanted: 3 µs and more.
                fd, _ = listening._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self.report("a connection could not be accepted; again in a second", error)
                self.epoll.unregister(listening.fileno())
                self.loop.call_later(FULL_SECONDS, self._accept_again, listening)
                return
            os.set_blocking(fd, False)
            try:
                protocol = self._factory()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next connection is not at fault
                self.report("a connection could not begin", error)
                os.close(fd)
                continue
            SocketTransport(self, fd, protocol)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() in self._listening:
            self.epoll.register(listening.fileno(), _READ)

    def report(self, message: str, error: Exception) -> None:
        """Tell of what nobody else will be told of, as the loop does."""
        self.loop.call_exception_handler({"message": message, "exception": error})


class SocketTransport(asyncio.Transport):
    """One connection. Errors of the socket end it, as do those that its protocol raises."""

    __slots__ = ("_buffer", "_fd", "_high", "_protocol", "_server", "_state", "_watched")

    _PAUSED: Final = 1  # the protocol was told not to write
    _STILL: Final = 2  # the protocol does not want to read
    _OVER: Final = 4  # there is nothing left to read
    _CLOSING: Final = 8
    _DEAF: Final = _STILL | _OVER | _CLOSING

    def __init__(self, server: SocketServer, fd: int, protocol: asyncio.Protocol) -> None:
        # Without a call of the base's: it would make a dictionary for each.
        self._server = server
        self._fd = fd
        self._protocol = protocol
        self._buffer: bytearray | None = None
        self._high = HIGH
        self._state = 0
        self._watched = 0  # what the epoll was asked for; with 0 it has no entry
        server.transports[fd] = self
        try:
            protocol.connection_made(self)
        except Exception as error:  # noqa: BLE001 - it ends this connection and no other
            self._failed(error)
        self._watch()

    def ready(self, events: int) -> None:
        """Do what the socket is ready for."""
        if self._buffer:
            self._flush()
        if self._state & self._DEAF or not events & ~_WRITE:
            return
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        try:
            if data:
                self._protocol.data_received(data)
            else:
                self._ended()
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _ended(self) -> None:
        """Ask what is to become of a connection whose other end sends nothing more."""
        self._state |= self._OVER
        self._watch()
        if not self._protocol.eof_received():
            self.close()

    # reading

    def pause_reading(self) -> None:
        """See asyncio.Transport."""
        self._state |= self._STILL
        self._watch()

    def resume_reading(self) -> None:
        """See asyncio.Transport."""
        self._state &= ~self._STILL
        self._watch()

    def is_reading(self) -> bool:
        """See asyncio.Transport."""
        return not self._state & self._DEAF

    # writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.Transport. What the kernel takes at once is not copied."""
        if self._state & self._CLOSING:
            return
        if self._buffer:
            self._buffer += data
        else:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._end(error)
                return
            if sent == len(data):
                return
            self._buffer = bytearray(memoryview(data)[sent:])
            self._watch()
        if len(self._buffer) > self._high and not self._state & self._PAUSED:
            self._state |= self._PAUSED
            self._tell(self._protocol.pause_writing)

    def _flush(self) -> None:
        """Write what waits, as far as the kernel takes it."""
        buffer = self._buffer
        assert buffer is not None
        try:
            sent = os.write(self._fd, buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        del buffer[:sent]
        if not buffer:
            self._buffer = None
            if self._state & self._CLOSING:
                self._end(None)
                return
            self._watch()
        if self._state & self._PAUSED and len(buffer) <= self._high // 4:
            self._state &= ~self._PAUSED
            self._tell(self._protocol.resume_writing)

    def get_write_buffer_size(self) -> int:
        """See asyncio.Transport."""
        return len(self._buffer) if self._buffer else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.Transport; `low` is a quarter of `high`."""
        del low
        self._high = HIGH if high is None else high

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See asyncio.Transport."""
        return self._high // 4, self._high

    def can_write_eof(self) -> bool:
        """See asyncio.Transport: no half of a connection is closed here."""
        return False

    # the end

    def close(self) -> None:
        """See asyncio.Transport."""
        if self._state & self._CLOSING:
            return
        self._state |= self._CLOSING
        if self._buffer:
            self._watch()
        else:
            self._end(None)

    def abort(self) -> None:
        """See asyncio.Transport."""
        self._end(None)

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return bool(self._state & self._CLOSING)

    def _failed(self, error: Exception) -> None:
        self._server.report("a connection ends since its protocol failed", error)
        self._end(error)

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - who writes is not at fault
            self._failed(error)

    def _end(self, error: Exception | None) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._state |= self._CLOSING
        self._buffer = None
        server = self._server
        if self._watched:
            server.epoll.unregister(fd)
            self._watched = 0
        del server.transports[fd]
        os.close(fd)
        server.loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        protocol = self._protocol
        del self._protocol  # they would hold each other until a collection of everything there is
        try:
            protocol.connection_lost(error)
        except Exception as problem:  # noqa: BLE001 - as above
            self._server.report("a protocol failed at the end of its connection", problem)
        self._server.let_go()

    def _watch(self) -> None:
        """Tell the epoll what is waited for. Who waits for nothing is not in it: a reset would wake it."""
        wanted = 0 if self._state & self._DEAF else _READ
        if self._buffer:
            wanted |= _WRITE
        watched, self._watched = self._watched, wanted
        if wanted == watched:
            return
        epoll = self._server.epoll
        if not wanted:
            epoll.unregister(self._fd)
        elif watched:
            epoll.modify(self._fd, wanted)
        else:
            epoll.register(self._fd, wanted)

    # what is known of it

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio.Transport."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio.Transport."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.Transport; `peername` is known, while it is open."""
        if name != "peername" or self._fd < 0:
            return default
        sock = socket.socket(fileno=self._fd)
        try:
            return sock.getpeername()
        except OSError:
            return default  # it was reset
        finally:
            sock.detach()


async def listen(
    factory: Callable[[], asyncio.Protocol], host: str, port: int, *, reuse_port: bool = False
) -> SocketServer:
    """Accept connections at all addresses of host:port (0: any free port). Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    try:
        for family, kind, number, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, number)
            bound.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Accepted sockets inherit it, which saves a system call for each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(BACKLOG)
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return SocketServer(factory, bound)
