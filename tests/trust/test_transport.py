"""TLS between a socket's transport and a protocol: every byte once and in order, and bounds that hold."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.certificate import Authority
from holdfast import tls, tls_transport
from holdfast.tls_transport import PIECE, SecureTransport, secured
from tests.trust.talk import Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Wire(asyncio.Transport):
    """The socket's transport: keeps what is written, and whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: SecureTransport
        self.written = b""
        self._reading = True
        self.closing = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += bytes(data)

    def take(self) -> bytes:
        written, self.written = self.written, b""
        return written

    def pause_reading(self) -> None:
        assert not self.closing
        self._reading = False

    def resume_reading(self) -> None:
        assert not self.closing
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


class Above(asyncio.Protocol):
    """The protocol above: keeps what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.transport: SecureTransport
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("SecureTransport", transport)

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Pair:
    """A client and a server with a wire between them that is moved by hand."""

    def __init__(self, peer: Peer, factory: Callable[[], SecureTransport]) -> None:
        self.peer = peer
        self.wire = Wire()
        self.wire.protocol = factory()
        self.wire.protocol.connection_made(self.wire)
        self.above = cast("Above", self.wire.protocol._above)
        self.peer.feed(b"")

    def move(self, cuts: list[int] | None = None) -> None:
        """Carry all bytes both ways, those to the server in pieces, until nobody has more to say."""
        while True:
            data = self.peer.take()
            for cut in cuts or ():
                if data[:cut] and not self.wire.closing:
                    self.wire.protocol.data_received(data[:cut])
                data = data[cut:]
            if data and not self.wire.closing:
                self.wire.protocol.data_received(data)
            answer = self.wire.take()
            if not answer and not data:
                return
            self.peer.feed(answer)

    async def settle(self) -> None:
        """Carry all bytes, and let what waits have its turns."""
        for _ in range(100):
            self.move()
            await asyncio.sleep(0)
            if not self.wire.written and not self.wire.protocol.held:
                return
        raise AssertionError("it does not end")


class Side:
    """An authority and a listener's factory."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.trust = tls.server("access", tls.Files(str(self.authority.issue())))
        self.factory = secured(Above, self.trust.context)

    def pair(self, **options: str) -> Pair:
        return Pair(Peer(self.authority, **options), self.factory)

    async def open(self, **options: str) -> Pair:
        pair = self.pair(**options)
        await pair.settle()
        assert pair.peer.shaken
        await asyncio.sleep(0)  # to the end of this turn
        return pair


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return Side(tmp_path_factory.mktemp("side"))


@given(
    sent=st.lists(st.integers(1, 3 * PIECE), min_size=1, max_size=5),
    answered=st.lists(st.integers(1, 5 * PIECE), max_size=5),
    cuts=st.lists(st.integers(1, 2 * PIECE), max_size=10),
    old=st.booleans(),
)
def test_bytes_arrive_once_and_in_order(
    side: Side, sent: list[int], answered: list[int], cuts: list[int], old: bool
) -> None:
    """However the wire cuts it, by TLS 1.2 and 1.3, each side gets what the other wrote."""

    async def run() -> None:
        pair = side.pair(ciphers="ECDHE+AESGCM" if old else "")
        pair.move(cuts)
        await pair.settle()
        assert pair.peer.ssl.version() == ("TLSv1.2" if old else "TLSv1.3")
        down = [bytes([number]) * size for number, size in enumerate(sent)]
        up = [bytes([number]) * size for number, size in enumerate(answered, 100)]
        for data in down:
            pair.peer.send(data)
        pair.move(cuts)
        for data in up:
            pair.above.transport.write(data)
        await pair.settle()
        assert pair.above.got == b"".join(down)
        assert pair.peer.got == b"".join(up)

    asyncio.run(run())


async def test_a_connection_exists_before_its_handshake(side: Side) -> None:
    """inv 7: the protocol knows of it from accept on, so that it counts; what is written to it is dropped."""
    pair = side.pair()
    assert pair.above.transport is pair.wire.protocol
    pair.above.transport.write(b"nobody could read it")
    assert pair.wire.take() == b""
    pair.above.transport.close()
    await asyncio.sleep(0)
    assert pair.above.lost == [None]


async def test_what_is_no_tls_ends_with_a_reason(side: Side) -> None:
    """A client that speaks no TLS is closed, and the protocol told why."""
    pair = side.pair()
    pair.wire.protocol.data_received(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0)
    assert pair.wire.closing
    (why,) = pair.above.lost
    assert isinstance(why, ssl.SSLError)
    assert pair.above.got == b""


async def test_a_record_that_was_changed_ends_the_connection(side: Side) -> None:
    """Nothing of a record that does not authenticate is passed on."""
    pair = await side.open()
    pair.peer.send(b"transfer 1 euro")
    data = bytearray(pair.peer.take())
    data[-1] ^= 1
    pair.wire.protocol.data_received(bytes(data))
    await asyncio.sleep(0)
    assert isinstance(pair.above.lost[0], ssl.SSLError)
    assert pair.above.got == b""


async def test_a_goodbye_ends_both_ways(side: Side) -> None:
    """Who closes says so, and waits for no answer."""
    pair = await side.open()
    pair.above.transport.write(b"the last word")
    pair.above.transport.close()
    pair.peer.feed(pair.wire.take())
    assert (pair.peer.got, pair.peer.ended) == (b"the last word", True)
    await asyncio.sleep(0)
    assert pair.above.lost == [None]
    other = await side.open()
    with pytest.raises(ssl.SSLWantReadError):
        other.peer.ssl.unwrap()
    other.wire.protocol.data_received(other.peer.take())
    assert other.wire.closing


async def test_a_crowd_shakes_hands_in_turns(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: with the time of a turn used up, who comes waits for the next and is not read from meanwhile."""
    monkeypatch.setattr(tls_transport, "TURN_SECONDS", 0.0)
    pairs = [side.pair() for _ in range(5)]
    for pair in pairs:
        pair.wire.protocol.data_received(pair.peer.take())
    assert sum(bool(pair.wire.written) for pair in pairs) <= 1
    assert sum(not pair.wire.is_reading() for pair in pairs) >= 4
    for pair in pairs:
        await pair.settle()
        assert pair.peer.shaken
        assert pair.wire.is_reading()


async def test_a_large_read_is_taken_in_turns(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: one who sends a thousand tiny records at once holds up nobody, and they arrive in order."""
    pair = await side.open()
    monkeypatch.setattr(tls_transport, "TURN_SECONDS", 0.0)
    for number in range(1000):
        pair.peer.send(b"%03d" % number)
    data = pair.peer.take()
    pair.wire.protocol.data_received(data[:-100])
    assert 0 < len(pair.above.got) < 1000
    assert not pair.wire.is_reading()
    pair.wire.protocol.data_received(data[-100:])  # the socket had it already
    await pair.settle()
    assert pair.above.got == b"".join(b"%03d" % number for number in range(1000))
    assert pair.wire.protocol.held == 0


async def test_who_was_paused_above_stays_so(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that is over resumes nothing that the protocol itself has paused, nor the other way round."""
    pair = await side.open()
    monkeypatch.setattr(tls_transport, "TURN_SECONDS", 0.0)
    pair.peer.send(b"x" * 5 * PIECE)
    pair.wire.protocol.data_received(pair.peer.take())
    assert pair.wire.protocol.held
    pair.above.transport.pause_reading()
    await pair.settle()
    assert not pair.wire.is_reading()
    pair.peer.send(b"x" * 5 * PIECE)
    pair.wire.protocol.data_received(pair.peer.take())
    pair.above.transport.resume_reading()
    assert not pair.wire.is_reading()
    await pair.settle()
    assert pair.wire.is_reading()
    assert len(pair.above.got) == 10 * PIECE


async def test_what_is_gone_has_no_more_turns(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that ends while it waits is not touched again."""
    monkeypatch.setattr(tls_transport, "TURN_SECONDS", 0.0)
    pairs = [side.pair() for _ in range(3)]
    for pair in pairs:
        pair.wire.protocol.data_received(pair.peer.take())
    pairs[1].above.transport.abort()
    for pair in (pairs[0], pairs[2]):
        await pair.settle()
        assert pair.peer.shaken
    assert pairs[1].above.lost == [None]
    assert not pairs[1].wire.written


async def test_a_protocol_that_fails_is_cut_off(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault above, in a later turn, ends that connection alone."""
    pair, other = await side.open(), await side.open()
    monkeypatch.setattr(tls_transport, "TURN_SECONDS", 0.0)

    def fault(data: bytes) -> None:
        del data
        raise RuntimeError("a fault")

    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["exception"]))
    for each in (pair, other):
        each.peer.send(b"x" * 3 * PIECE)
    pair.wire.protocol.data_received(pair.peer.take())
    monkeypatch.setattr(pair.above, "data_received", fault)
    other.wire.protocol.data_received(other.peer.take())
    await other.settle()
    assert pair.wire.aborted
    assert [str(report) for report in reports] == ["a fault"]
    assert len(other.above.got) == 3 * PIECE
