"""The simulated network: connections with delays, pauses, cuts, resets and ends that nobody hears of.

Bytes of one direction arrive in order, each after a delay of its own; between connections there is no order.
A cut link holds what is on its way until it is whole again, as TCP does; a reset one loses it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from random import Random

    from tests.simulation.loop import Process, SimLoop

KERNEL: Final = 4096
"""Bytes that the two kernels hold of a direction before the writer's own buffer grows."""

_END: Final = b""


class Links:
    """Which pairs of names cannot reach each other, and how long what they say takes."""

    def __init__(self, random: Random, base: float) -> None:
        self.random = random
        self.base = base
        self.cut: dict[frozenset[str], int] = {}
        self.slow: dict[str, float] = {}
        self.on_heal: list[Callable[[], None]] = []

    def reachable(self, one: str, other: str) -> bool:
        return not self.cut or frozenset((one, other)) not in self.cut

    def delay(self, one: str, other: str) -> float:
        base = self.base
        if self.slow:
            base += self.slow.get(one, 0.0) + self.slow.get(other, 0.0)
        return base * self.random.uniform(0.2, 1.8)

    def sever(self, pairs: Sequence[frozenset[str]]) -> None:
        for pair in pairs:
            self.cut[pair] = self.cut.get(pair, 0) + 1

    def mend(self, pairs: Sequence[frozenset[str]]) -> None:
        for pair in pairs:
            left = self.cut.get(pair, 0) - 1
            if left > 0:
                self.cut[pair] = left
            else:
                self.cut.pop(pair, None)
        for call in self.on_heal:
            call()


class End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, net: SimNetwork, process: Process, far: Process, peername: tuple[str, int]) -> None:
        super().__init__({"peername": peername, "socket": None})
        self.net = net
        self.process = process
        self.far = far
        self.peer: End
        self.protocol: Any = None
        self._pipe: deque[tuple[float, bytes]] = deque()  # on its way to the peer
        self._armed = False
        self._unsent = 0
        self._inbox: list[bytes] = []
        self._ended = False  # the peer will write no more
        self._reading = True
        self._closing = False
        self._lost = False
        self._high = 65_536
        self._paused_writer = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol  # type: ignore[no-any-return]

    # writing

    def write(self, data: Any) -> None:
        if self._closing or self._lost or not data:
            return
        data = bytes(data)
        self._unsent += len(data)
        random = self.net.links.random
        if len(data) > 1 and random.random() < 0.05:
            at = random.randrange(1, len(data))
            self._send(data[:at])
            data = data[at:]
        self._send(data)
        if self.get_write_buffer_size() > self._high and not self._paused_writer:
            self._paused_writer = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return max(0, self._unsent - KERNEL)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65_536 if high is None else high

    def _send(self, data: bytes) -> None:
        loop = self.net.loop
        at = loop.now + self.net.links.delay(self.process.name, self.far.name)
        if self._pipe:
            at = max(at, self._pipe[-1][0])
        self._pipe.append((at, data))
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        self._armed = True
        self.net.loop.call_at(self._pipe[0][0], self._arrive, context=self.net.loop.world.context)

    def _arrive(self) -> None:
        self._armed = False
        if not self._pipe:
            return
        if not self.net.links.reachable(self.process.name, self.far.name):
            return  # `kick` comes when the link is whole again
        _, data = self._pipe.popleft()
        if self._pipe:
            self._arm()
        peer = self.peer
        if peer._lost or peer.process.dead:
            return
        if data is _END:
            peer._ended = True
        else:
            peer._inbox.append(data)
        self.net.loop.call_in(peer.process, peer._deliver)

    def kick(self) -> None:
        """Go on after a cut."""
        if self._pipe and not self._armed:
            self._arm()

    def _taken(self, size: int) -> None:
        self._unsent -= size
        if self._paused_writer and self.get_write_buffer_size() <= self._high // 4 and not self._lost:
            self._paused_writer = False
            self.protocol.resume_writing()
        if self._closing:
            self._flushed()

    # reading

    def _deliver(self) -> None:
        if self._lost:
            return
        if self._reading and self._inbox and not self._closing:
            data = b"".join(self._inbox)
            self._inbox.clear()
            self.net.loop.call_in(self.far, self.peer._taken, len(data))
            self.protocol.data_received(data)
        if self._ended and (self._closing or not self._inbox) and not self._lost:
            self._ended = False
            if self._closing or not self.protocol.eof_received():
                self._lose(None)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self.net.loop.call_in(self.process, self._deliver)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    # ending

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self._send(_END)
        self._flushed()

    def _flushed(self) -> None:
        if self.get_write_buffer_size() == 0 or self.peer._lost:
            self._lose(None)

    def abort(self) -> None:
        if self._lost:
            return
        self._closing = True
        self._pipe.clear()
        self._armed = False
        self._lose(None)
        self.net.tell_reset(self.peer, self.process.name)

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._inbox.clear()
            self.net.ends.pop(self, None)
            if self.protocol is not None:
                self.net.loop.call_in(self.process, self.protocol.connection_lost, error)

    def reset(self, error: Exception) -> None:
        """End it from outside: what is on its way is lost."""
        self._pipe.clear()
        self._lose(error)


class Listening:
    """Something that listens."""

    def __init__(self, net: SimNetwork, process: Process, port: int, factory: Callable[[], Any]) -> None:
        self.net = net
        self.process = process
        self.port = port
        self.factory = factory

    def close(self) -> None:
        if self.net.servers.get(self.port) is self:
            del self.net.servers[self.port]


class SimNetwork:
    """What all processes share. `balancers`: by host name, who is behind it now: (process, port)."""

    def __init__(self, loop: SimLoop, links: Links) -> None:
        self.loop = loop
        self.links = links
        self.servers: dict[int, Listening] = {}
        self.ends: dict[End, None] = {}
        self.balancers: dict[str, Callable[[], Sequence[int]]] = {}
        self._next_port = 20_000
        self._clients = 0
        links.on_heal.append(self._kick)

    def _kick(self) -> None:
        for end in tuple(self.ends):
            end.kick()
            end.peer.kick()

    def open(self, near: Process, server: Listening) -> End:
        self._clients += 1
        one = End(self, near, server.process, ("server", server.port))
        other = End(self, server.process, near, (f"10.0.0.{self._clients % 250}", self._clients))
        one.peer, other.peer = other, one
        self.ends[one] = self.ends[other] = None
        self.loop.call_in(server.process, self._accept, server, other)
        return one

    def _accept(self, server: Listening, end: End) -> None:
        if not end._lost:
            end.protocol = server.factory()
            end.protocol.connection_made(end)

    def tell_reset(self, end: End, by: str, after: float | None = None) -> None:
        """Let an end learn that the other one is gone, once that can reach it."""
        if end._lost or end.process.dead:
            return
        delay = self.links.delay(by, end.process.name) if after is None else after
        self.loop.call_later(delay, self._reset, end, by, after is None, context=self.loop.world.context)

    def _reset(self, end: End, by: str, told: bool) -> None:
        if told and not self.links.reachable(by, end.process.name):
            self.tell_reset(end, by)
        else:
            end.reset(ConnectionResetError("connection reset by peer" if told else "timed out"))

    def died(self, process: Process, silent: bool) -> None:
        """Take a dead process off the network; if `silent`, its peers learn of it by their time limits."""
        for port in [port for port, server in self.servers.items() if server.process is process]:
            del self.servers[port]
        for end in [end for end in self.ends if end.process is process]:
            del self.ends[end]
            end._lost = True
            if not silent and self.links.random.random() < 0.5:
                end._send(_END)  # what a killed process has written still arrives, when its machine lives
                continue
            end._pipe.clear()
            self.tell_reset(end.peer, process.name, self.links.random.uniform(5.0, 15.0) if silent else None)

    def break_some(self, name: str, share: float) -> int:
        """Reset some of a process's connections."""
        found = [end for end in self.ends if end.process.name == name and self.links.random.random() < share]
        for end in found:
            end.reset(ConnectionResetError("reset"))
            end.peer.reset(ConnectionResetError("reset"))
        return len(found)


class HostNetwork:
    """The network as one process sees it. See `holdfast.network.Network`."""

    def __init__(self, net: SimNetwork, process: Process) -> None:
        self._net = net
        self._process = process

    async def listen(
        self,
        factory: Callable[[], Any],
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        ssl: ssl.SSLContext | None = None,
        crowd: bool = False,
    ) -> Listening:
        net = self._net
        if port == 0:
            net._next_port += 1
            port = net._next_port
        if port in net.servers:
            raise OSError(f"port {port} is in use")
        net.servers[port] = server = Listening(net, self._process, port, factory)
        return server

    async def connect(
        self, factory: Callable[[], Any], host: str, port: int, *, ssl: ssl.SSLContext | None = None
    ) -> None:
        net, links = self._net, self._net.links
        behind = net.balancers.get(host)
        if behind is not None:
            ports = behind()
            await asyncio.sleep(links.delay(self._process.name, host))
            if not ports:
                raise ConnectionRefusedError("the balancer has nobody")
            port = ports[links.random.randrange(len(ports))]
        server = net.servers.get(port)
        name = server.process.name if server is not None else "nobody"
        await asyncio.sleep(2 * links.delay(self._process.name, name))
        while not links.reachable(self._process.name, name):
            await asyncio.sleep(0.25)
        server = net.servers.get(port)
        if server is None:
            raise ConnectionRefusedError(f"nobody listens on port {port}")
        near = net.open(self._process, server)
        protocol = factory()
        near.protocol = protocol
        protocol.connection_made(near)
