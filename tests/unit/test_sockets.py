"""Sockets of a crowd: what goes through them, searched on real sockets; and what a turn of the loop takes."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import sockets
from holdfast.network import TcpNetwork
from holdfast.sockets import SocketServer, SocketTransport, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TURNS = 400
"""Turns of the loop until a condition must hold."""


class End(asyncio.Protocol):
    """The server's end of a connection. `keep`: it goes on when the client has stopped sending."""

    def __init__(self) -> None:
        self.transport: SocketTransport
        self.got = bytearray()
        self.put = 0
        self.keep = False
        self.eof = False
        self.paused = False
        self.ends: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("SocketTransport", transport)
        self.name = transport.get_extra_info("peername")
        with socket.socket(fileno=os.dup(self.transport._fd)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # or the kernel takes megabytes

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading()
        self.got += data

    def eof_received(self) -> bool:
        assert not self.eof
        self.eof = True
        return self.keep

    def pause_writing(self) -> None:
        assert not self.paused
        assert self.transport.get_write_buffer_size() > self.transport.get_write_buffer_limits()[1]
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        assert self.transport.get_write_buffer_size() <= self.transport.get_write_buffer_limits()[0]
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.transport.is_closing()
        self.ends.append(exc)

    def write(self, size: int) -> None:
        """Write the next `size` bytes of the sequence, which counts only while it may be written to."""
        if not self.transport.is_closing():
            self.transport.write(sequence(self.put, size))
            self.put += size

    def fill(self) -> None:
        """Write until the kernel takes no more, and far above the limit."""
        while self.transport.get_write_buffer_size() < 100_000 and not self.transport.is_closing():
            self.write(200_000)


class Client:
    """The other end: a socket of the kernel's."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)  # or the kernel takes megabytes
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.name = self.socket.getsockname()
        self.sent = 0
        self.got = bytearray()
        self.gone = ""
        self.open = True

    def send(self, size: int) -> None:
        if self.open:
            try:
                self.sent += self.socket.send(sequence(self.sent, size))
            except BlockingIOError:
                pass
            except OSError as error:
                self.gone = str(error)

    def receive(self, size: int) -> bool:
        """Read so much, if it is there; tell whether nothing more will come."""
        try:
            while size > 0 and not self.gone:
                data = self.socket.recv(min(size, 65536))
                self.got += data
                size -= len(data)
                if not data:
                    self.gone = "eof"
        except BlockingIOError:
            pass
        except OSError as error:
            self.gone = str(error)
        return bool(self.gone)

    def stop(self) -> None:
        if self.open and not self.gone:
            self.open = False
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                self.gone = str(error)

    def reset(self) -> None:
        self.gone, self.open = self.gone or "reset", False
        if self.socket.fileno() < 0:
            return
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


PATTERN = bytes(range(251)) * 5000


def sequence(start: int, size: int) -> bytes:
    """Return bytes that tell where in the stream they belong."""
    start %= 251
    return PATTERN[start : start + size]


class World:
    """A server, its ends and their clients, and what the loop was told of."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.clients: list[Client] = []
        self.reports: list[dict[str, Any]] = []
        self.factory: Callable[[], End] = End
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.reports.append(context))

    async def start(self) -> None:
        self.server = await listen(self._end, "127.0.0.1", 0)

    def _end(self) -> End:
        end = self.factory()
        self.ends.append(end)
        return end

    def connect(self) -> Client:
        client = Client(self.server.port)
        self.clients.append(client)
        return client

    async def pair(self) -> tuple[Client, End]:
        client = self.connect()
        await until(lambda: len(self.ends) == len(self.clients))
        return client, self.ends[-1]

    async def finish(self) -> None:
        """End all that is left: nothing stays, and each end was told of its own once."""
        self.server.close()
        for client in self.clients:
            client.reset()
        for end in self.ends:
            end.transport.abort()
        await until(lambda: self.server.epoll.closed and all(end.ends for end in self.ends))
        assert [len(end.ends) for end in self.ends] == [1] * len(self.ends)
        assert self.server.transports == {}
        assert left(self.server.port) == []


async def until(condition: Callable[[], object]) -> None:
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    # What loopback brings is there at once, but for what another core has still at hand.
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def left(port: int) -> list[str]:
    """Return the open sockets of a port. Any others may come and go: other tests have threads."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            same = socket.socket(fileno=int(path.name))
        except OSError:
            continue  # it is no socket, or has just gone
        if same.family == socket.AF_INET and same.getsockname()[1] == port:
            found.append(repr(same))
        same.detach()
    return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start()
    yield made
    await made.finish()
    assert made.reports == []


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 200_000)),
        st.tuples(st.just("receive"), st.integers(0, 2), st.integers(1, 400_000)),
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 3000)),
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 500_000)),
        st.tuples(st.just("turns"), st.integers(1, 4), st.just(0)),
        st.tuples(
            st.sampled_from(("pause", "resume", "keep", "stop", "reset", "close", "abort", "again")),
            st.integers(0, 2),
            st.just(0),
        ),
    ),
    min_size=10,
    max_size=40,
)


async def step(world: World, pairs: list[tuple[Client, End]], what: str, first: int, size: int) -> None:
    client, end = pairs[first % len(pairs)]
    if what == "turns":
        for _ in range(first):
            await asyncio.sleep(0)
    elif what == "again":
        pairs[first] = await world.pair()
    elif what == "send":
        client.send(size)
    elif what == "receive":
        client.receive(size)
    elif what == "stop":
        client.stop()
    elif what == "reset":
        client.reset()
    elif what == "write":
        end.write(size)
    elif what == "keep":
        end.keep = True
    elif what == "close":
        end.transport.close()
    elif what == "abort":
        end.transport.abort()
    elif what == "pause":
        end.transport.pause_reading()
    elif what == "resume":
        end.transport.resume_reading()
    check(client, end)


def check(client: Client, end: End) -> None:
    """What either end has is the beginning of what the other one has sent."""
    assert bytes(end.got) == repeated(len(end.got))
    assert bytes(client.got) == repeated(len(client.got))
    assert len(end.got) <= client.sent
    assert len(client.got) <= end.put
    assert len(end.ends) <= 1


def repeated(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.tuples(*[st.sampled_from((0, 1000, 100_000))] * 3))
async def test_what_goes_through(plan: list[tuple[str, int, int]], limits: tuple[int, ...]) -> None:
    """Whatever both ends do: bytes come in order, and all of them where nobody has cut the connection."""
    world = World()
    await world.start()
    pairs = [await world.pair() for _ in range(3)]
    for (_, end), limit in zip(pairs, limits, strict=True):
        end.transport.set_write_buffer_limits(limit)
    cut = set()
    for what, first, size in plan:
        client, end = pairs[first % 3]
        if what in ("reset", "abort", "close"):
            cut.add(end)
        await step(world, pairs, what, first, size)
    for client, end in zip(world.clients, world.ends, strict=True):
        if end in cut or client.gone:
            continue
        end.transport.resume_reading()
        await until(lambda: len(end.got) == client.sent)  # noqa: B023 - awaited here
        if not end.transport.is_closing():
            assert end.ends == []
            end.transport.close()
        size = end.put
        await until(lambda: client.receive(1 << 20))  # noqa: B023
        assert (client.gone, len(client.got)) == ("eof", size)
        await until(lambda: end.ends == [None])  # noqa: B023
        check(client, end)
    await world.finish()
    assert world.reports == []


async def test_a_close_waits_for_what_was_written(world: World) -> None:
    """inv 7: all of it arrives, nothing comes behind it, and then the connection ends."""
    client, end = await world.pair()
    end.fill()
    end.write(900_000)
    end.transport.close()
    end.transport.write(b"behind")
    assert end.transport.get_write_buffer_size() > 900_000
    assert end.transport.is_closing()
    await asyncio.sleep(0)
    assert end.ends == []
    await until(lambda: client.receive(1 << 20))
    assert (client.gone, len(client.got)) == ("eof", end.put)
    await until(lambda: end.ends == [None])


async def test_who_does_not_read_is_told_of(world: World) -> None:
    """inv 7: above the limit the protocol is told once, and again when three quarters are gone."""
    client, end = await world.pair()
    end.transport.set_write_buffer_limits(100_000)
    while not end.paused:
        end.write(50_000)
    size = end.transport.get_write_buffer_size()
    assert 100_000 < size <= 150_000
    await until(lambda: client.receive(20_000) or not end.paused)
    assert 0 < len(client.got) <= end.put
    assert end.transport.get_write_buffer_size() <= 25_000
    await until(lambda: client.receive(1 << 20) or len(client.got) == end.put)
    assert await turned(world, 5) == 0
    assert end.transport.get_write_buffer_size() == 0


async def turned(world: World, turns: int) -> int:
    """Return how often the server was woken in so many turns of the loop."""
    server, calls = world.server, 0
    loop = asyncio.get_running_loop()

    def counted() -> None:
        nonlocal calls
        calls += 1
        server._turn()

    loop.add_reader(server.epoll.fileno(), counted)
    for _ in range(turns):
        await asyncio.sleep(0.001)
    loop.add_reader(server.epoll.fileno(), server._turn)
    return calls


@pytest.mark.parametrize("why", ["paused", "half closed", "cannot write"])
async def test_who_waits_for_nothing_wakes_nobody(world: World, why: str) -> None:
    """inv 7: a reset of a connection that is not read from is seen later, and does not spin until then."""
    client, end = await world.pair()
    end.keep = True
    if why == "paused":
        end.transport.pause_reading()
        client.send(10)
    elif why == "half closed":
        client.stop()
        await until(lambda: end.eof)
    else:
        end.transport.pause_reading()
        end.fill()
    assert await turned(world, 5) == 0
    client.reset()
    if why == "cannot write":
        await until(lambda: end.ends)
        assert isinstance(end.ends[0], OSError)
        assert end.transport.get_write_buffer_size() == 0
        return
    if why == "half closed":
        end.transport.resume_reading()  # there is nothing
    assert await turned(world, 5) == 0
    assert end.ends == []
    if why == "paused":
        end.transport.resume_reading()
    else:
        end.write(10)
        assert end.ends == []  # whoever writes is not told within the call
    await until(lambda: end.ends)
    assert isinstance(end.ends[0], OSError)


async def test_who_is_closing_is_not_read(world: World) -> None:
    """inv 7: what a client still sends while it does not read the rest wakes nobody."""
    client, end = await world.pair()
    end.fill()
    end.transport.close()
    client.send(10)
    assert await turned(world, 20) < 10  # some of the rest may still go out
    assert end.ends == []
    assert end.got == b""


async def test_who_is_gone_wakes_nobody(world: World) -> None:
    """inv 7: not even where somebody else holds the same socket, as a process that was just forked does."""
    client, end = await world.pair()
    same = os.dup(end.transport._fd)
    end.transport.abort()
    client.send(10)
    assert await turned(world, 5) == 0
    os.close(same)


async def test_who_stops_sending_gets_what_was_written(world: World) -> None:
    client, end = await world.pair()
    end.fill()
    client.stop()
    await until(lambda: end.eof)
    assert end.transport.is_closing()
    await until(lambda: client.receive(1 << 20))
    assert (client.gone, len(client.got)) == ("eof", end.put)
    check(client, end)


async def test_who_is_paused_in_the_same_turn_is_not_read(world: World) -> None:
    """What was ready when the turn began is not told to who has stopped reading in it."""
    first, second = await world.pair(), await world.pair()

    def pause(data: bytes) -> None:
        del data
        for _, end in (first, second):
            end.transport.pause_reading()

    for client, end in (first, second):
        end.data_received = pause  # type: ignore[method-assign]
        client.send(10)
    await until(lambda: not first[1].transport.is_reading())
    for _, end in (first, second):
        del end.data_received
    assert await turned(world, 5) == 0
    assert first[1].got == second[1].got == b""
    for _, end in (first, second):
        end.transport.resume_reading()
    await until(lambda: first[1].got or second[1].got)
    assert len(first[1].got) + len(second[1].got) == 10  # one of them had its turn first


async def test_who_is_turned_away_at_once(world: World) -> None:
    """inv 7: a protocol may end its connection while it begins."""

    class Closed(End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.abort()

    world.factory = Closed
    client, end = await world.pair()
    await until(lambda: end.ends == [None])
    await until(lambda: client.receive(1))
    world.factory = End
    client, end = await world.pair()
    client.send(10)
    await until(lambda: end.got)


async def test_a_reset_is_an_end_with_an_error(world: World) -> None:
    client, end = await world.pair()
    client.reset()
    await until(lambda: end.ends)
    assert isinstance(end.ends[0], ConnectionResetError)
    end.transport.write(b"late")
    end.transport.close()
    end.transport.abort()
    end.transport.resume_reading()
    end.transport.pause_reading()
    assert end.transport.get_write_buffer_size() == 0
    assert end.transport.get_extra_info("peername", "gone") == "gone"
    assert world.server.transports == {}
    _, other = await world.pair()  # who listens goes on when nobody is left
    assert other.ends == []


@pytest.mark.parametrize("what", ["connect", "reset", "send"])
async def test_a_turn_takes_so_many(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """inv 7: what a crowd does at the same moment is taken in turns of bounded length, and all of it."""
    monkeypatch.setattr(sockets, "EVENTS", 7)
    monkeypatch.setattr(sockets, "ACCEPTS", 5)
    crowd = 60
    done: list[int] = []

    def count() -> int:
        if what == "connect":
            return len(world.ends)
        return sum(bool(end.got) if what == "send" else end.transport.is_closing() for end in world.ends)

    server = world.server
    turn = server._turn

    def counted() -> None:
        before = count()
        turn()
        done.append(count() - before)

    asyncio.get_running_loop().add_reader(server.epoll.fileno(), counted)
    clients = [world.connect() for _ in range(crowd)]
    if what == "connect":
        await until(lambda: len(world.ends) == crowd)
        assert max(done) == 5
        return
    await until(lambda: len(world.ends) == crowd)
    done.clear()
    for client in clients:
        client.reset() if what == "reset" else client.send(100)
    await until(lambda: count() == crowd)
    assert max(done) == 7
    assert sum(done) == crowd


async def test_nobody_is_served_twice_before_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: who sends without end delays nobody beyond the turns of a round."""
    monkeypatch.setattr(sockets, "EVENTS", 2)
    monkeypatch.setattr(sockets, "READ", 100)
    pairs = [await world.pair() for _ in range(10)]
    for client, _ in pairs:
        client.send(5000)
    for _ in range(30):
        await asyncio.sleep(0)
        got = [len(end.got) for _, end in pairs]
        assert max(got) - min(got) <= 100
    assert min(got) > 0


class Failing(End):
    where = ""

    def _fail(self, where: str) -> None:
        if self.where == where:
            raise LookupError(where)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._fail("connection_made")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._fail("data_received")

    def eof_received(self) -> bool:
        self._fail("eof_received")
        return super().eof_received()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._fail("pause_writing")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._fail("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._fail("connection_lost")


@pytest.mark.parametrize(
    "where",
    [
        "factory",
        "connection_made",
        "data_received",
        "eof_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ],
)
async def test_a_protocol_that_fails_ends_its_connection_only(world: World, where: str) -> None:
    """inv 7: and the loop is told of it."""
    other, its = await world.pair()
    failing = Failing()
    failing.where = where

    def factory() -> End:
        if where == "factory":
            raise LookupError(where)
        return failing

    world.factory = factory
    client = world.connect()
    client.send(10)
    if where == "factory":
        await until(lambda: world.reports)
    else:
        await until(lambda: failing.got or failing.ends)
        failing.fill()
        client.stop()

        def failed() -> object:
            client.receive(1 << 20)
            return failing.ends

        await until(failed)
        assert len(failing.ends) == 1
    assert [type(report["exception"]) for report in world.reports] == [LookupError]
    assert all(report["message"] for report in world.reports)
    world.reports.clear()
    await until(lambda: client.receive(1 << 20))
    other.send(10)
    await until(lambda: its.got)
    assert its.ends == []


class Timers:
    """The loop, but for its timers."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)

    def call_later(self, delay: float, call: Callable[..., None], *arguments: object) -> None:
        assert delay == sockets.FULL_SECONDS
        self.asked.append(lambda: call(*arguments))


async def test_no_descriptor_is_left(world: World) -> None:
    """inv 7, 11: the loop is told, nobody spins, and who waits is let in later."""
    timers = world.server.loop = Timers()  # type: ignore[assignment]
    _, end = await world.pair()
    listening = next(iter(world.server._listening.values()))

    class Full:
        tries = 0

        def fileno(self) -> int:
            return listening.fileno()

        def close(self) -> None:
            listening.close()

        def _accept(self) -> tuple[int, Any]:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            if self.tries == 2:
                raise ConnectionAbortedError
            accepted: tuple[int, Any] = listening._accept()  # type: ignore[attr-defined]
            return accepted

    full = Full()
    world.server._listening[listening.fileno()] = full  # type: ignore[assignment]
    waiting = world.connect()
    await until(lambda: full.tries == 1)
    assert await turned(world, 5) == 0
    assert len(timers.asked) == 1
    assert [report["exception"].errno for report in world.reports] == [errno.EMFILE]
    world.reports.clear()
    timers.asked.pop()()
    await until(lambda: len(world.ends) == 2)
    assert timers.asked == []
    waiting.send(10)
    await until(lambda: world.ends[1].got)
    assert end.ends == []


async def test_a_server_that_is_closed_while_it_is_full(world: World) -> None:
    """It does not come back."""
    listening = next(iter(world.server._listening.values()))
    world.server.close()
    world.server._accept_again(listening)


async def test_connections_outlive_the_listener(world: World) -> None:
    """inv 10: who drains accepts no more, and goes on with those it has."""
    client, end = await world.pair()
    world.server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", world.server.port))
    client.send(10)
    await until(lambda: end.got)
    end.write(10)
    await until(lambda: client.receive(10) or client.got)
    assert not world.server.epoll.closed


async def test_a_number_that_belongs_to_another_socket_now(world: World) -> None:
    """What was reported of a connection that has ended is not taken for its successor's."""
    for _ in range(30):
        pairs = [await world.pair() for _ in range(4)]
        for index, (_, end) in enumerate(pairs):
            others = [each for _, each in pairs[:index] + pairs[index + 1 :]]

            def cut(data: bytes, others: list[End] = others) -> None:
                del data
                for other in others:
                    other.transport.abort()

            end.data_received = cut  # type: ignore[method-assign]
        # In this order they are ready: one who ends the others, who comes then, and those who are ended.
        pairs[0][0].send(10)
        successors = [world.connect() for _ in range(4)]
        for client, _ in pairs[1:]:
            client.send(10)
        successors[0].send(33)
        successors[1].stop()
        await until(lambda: len(world.ends) == len(world.clients))
        fresh = {end.name: end for end in world.ends[-4:]}
        await until(lambda: fresh[successors[0].name].got)  # noqa: B023
        await until(lambda: fresh[successors[1].name].ends)  # noqa: B023
        assert fresh[successors[0].name].got == sequence(0, 33)
        for quiet in successors[2:]:
            end = fresh[quiet.name]
            assert (bytes(end.got), end.eof, end.ends) == (b"", False, [])
        assert sum(bool(end.ends) for _, end in pairs) == 3


async def test_what_is_known_of_a_connection(world: World) -> None:
    client, end = await world.pair()
    transport = end.transport
    assert transport.get_extra_info("peername") == client.name
    assert transport.get_extra_info("peername") == client.name  # asking did not close it
    assert transport.get_extra_info("socket", 7) == 7
    assert transport.get_protocol() is end
    assert not transport.can_write_eof()
    with socket.socket(fileno=os.dup(transport._fd)) as same:
        assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert not os.get_blocking(same.fileno())
        assert not os.get_inheritable(transport._fd)
    other = End()
    transport.set_protocol(other)
    other.transport = transport
    client.send(3)
    await until(lambda: other.got)
    transport.set_protocol(end)


async def test_nothing_is_left_in_cycles(world: World) -> None:
    """A connection that has ended is forgotten without the garbage collector."""
    world.factory = Small
    Small.count = 0
    client = world.connect()
    await until(lambda: Small.count == 1)
    gc.disable()
    try:
        end = world.ends.pop()
        world.clients.pop()
        client.reset()
        ends = end.ends
        del end
        await until(lambda: ends)
        await asyncio.sleep(0)
        assert Small.count == 0
    finally:
        gc.enable()


class Small(End):
    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        Small.count += 1

    def __del__(self) -> None:
        Small.count -= 1


async def test_all_addresses_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a name listens at all its addresses; whoever asks for a taken port is told."""
    ends: list[End] = []
    made: list[socket.socket] = []

    class Recorded(socket.socket):
        def __init__(self, *arguments: Any, **others: Any) -> None:
            super().__init__(*arguments, **others)
            made.append(self)

    monkeypatch.setattr(socket, "socket", Recorded)

    async def found(*_: object, **__: object) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, 0)) for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1")]

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        server = await listen(lambda: ends.append(End()) or ends[-1], "both", 0)  # type: ignore[func-returns-value]
    assert [sock.getsockname()[0] for sock in made] == ["127.0.0.1", "127.0.0.2"]
    assert list(server._listening.values()) == made
    for sock in made[:]:
        socket.create_connection(sock.getsockname()).close()
    await until(lambda: [end.ends for end in ends] == [[None]] * 2)
    count = len(made)
    with pytest.raises(OSError, match="in use"):
        await listen(End, "127.0.0.1", server.port)
    assert len(made) == count + 1
    server.close()
    assert server.epoll.closed
    assert {sock.fileno() for sock in made} == {-1}
    with pytest.raises(socket.gaierror):
        await listen(End, "no.such.host.invalid", 0)


async def test_a_port_is_free_at_once(world: World) -> None:
    """Whoever comes back after a restart need not wait for what the kernel remembers of old connections."""
    client, end = await world.pair()
    end.transport.close()
    await until(lambda: client.receive(1))
    client.stop()
    world.server.close()
    again = await listen(End, "127.0.0.1", world.server.port)
    again.close()


async def test_where_there_is_no_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client imports runs elsewhere, too; whoever develops there has the loop's own sockets."""
    script = "import select; del select.epoll, select.EPOLLIN, select.EPOLLOUT; import holdfast.client"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0
    monkeypatch.setattr(sys, "platform", "darwin")
    server = await TcpNetwork().listen(End, "127.0.0.1", 0, crowd=True)
    assert not isinstance(server, SocketServer)
    monkeypatch.undo()
    server.close()
    server = await TcpNetwork().listen(End, "127.0.0.1", 0, crowd=True)
    assert isinstance(server, SocketServer)
    server.close()


async def test_two_processes_share_a_port() -> None:
    server = await listen(End, "127.0.0.1", 0, reuse_port=True)
    second = await listen(End, "127.0.0.1", server.port, reuse_port=True)
    assert isinstance(second, SocketServer)
    assert second.port == server.port
    server.close()
    second.close()
