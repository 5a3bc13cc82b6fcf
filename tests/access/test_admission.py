"""Who is let in: a crowd that comes at once, those who say nothing, and the node's own bounds."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from holdfast.client import Client as SdkClient
from holdfast.protocol.proxy import header
from holdfast.protocol.websocket import WebSocketClient
from services.access import admission
from tests.access.world import Client, World


async def crowd(world: World, size: int, *, tcp: bool = True) -> list[Client]:
    """Let many clients connect in the same moment."""
    clients = [await world.open(tcp=tcp) for _ in range(size)]
    for number, client in enumerate(clients):
        if tcp or client._codec.open:
            client.send(t="connect", token=world.token(f"u{number}"))
    for _ in range(20):
        await world.clock.settle()
    return clients


async def test_a_crowd_is_let_in_at_the_rate_and_told_when_to_come_back() -> None:
    """inv 7: what is above the rate is turned away, each told a later moment, and is let in then."""
    async with World(connect_rate=10, connect_burst=20, settle=10) as world:
        clients = await crowd(world, 50)
        inside = [client for client in clients if client.take("connected")]
        outside = [client for client in clients if client.lost]
        assert (len(inside), len(outside)) == (20, 30)
        assert {(client.frames[0]["code"], client.frames[0]["close"]) for client in outside} == {
            ("overloaded", 4003)
        }
        waits = [client.frames[0]["retry"] for client in outside]
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(3.0, abs=0.11)
        assert world.value("access_refused", reason="rate") == 30
        assert world.value("access_closes", code="overloaded") == 30
        # Nothing was spent on them: no session, no route.
        assert world.node.roster.count == 20
        # They come back as told, and are let in.
        began = world.clock.monotonic()
        for number, wait in enumerate(waits):
            await world.clock.advance(max(began + wait - world.clock.monotonic(), 0))
            again = await world.open(tcp=True)
            again.send(t="connect", token=world.token(f"again{number}"))
            await again.got("connected")
        assert world.value("access_refused", reason="rate") == 30


async def test_a_crowd_of_websockets_gets_503_with_retry_after() -> None:
    """The handshake itself is refused, with the seconds to wait."""
    async with World(connect_rate=1, connect_burst=2) as world:
        clients = await crowd(world, 6, tcp=False)
        assert [client.closed for client in clients] == [None, None, 503, 503, 503, 503]
        assert world.value("access_refused", reason="rate") == 4


async def test_the_wait_of_a_huge_crowd_is_bounded() -> None:
    """Nobody is told to wait for more than a minute; above it they are spread over its second half."""
    async with World(connect_rate=1, connect_burst=1) as world:
        clients = await crowd(world, 200)
        waits = [client.frames[0]["retry"] for client in clients if client.lost]
        assert len(waits) == 199
        assert max(waits) <= 60
        late = waits[60:]
        assert min(late) >= 30
        assert len({round(wait) for wait in late}) > 15


async def test_who_says_nothing_costs_no_place_in_the_crowd() -> None:
    """Only who sends something counts against the rate."""
    async with World(connect_rate=1, connect_burst=1) as world:
        for _ in range(5):
            await world.open(tcp=True)
        await world.join("bob")
        assert world.value("access_refused", reason="rate") == 0


@pytest.mark.parametrize("tcp", [True, False])
async def test_connections_above_the_bound(tcp: bool) -> None:
    """inv 7: above the bound they are told to come back; above REFUSED_SHARE more, they are cut."""
    async with World(connections=2) as world:
        for name in ("a", "b"):
            await world.join(name)
        late = await world.open(tcp=tcp)
        if tcp:
            assert not late.lost  # what is said before it has said something may not reach it
            late.send(t="connect", token=world.token("c"))
        await late.gone()
        if tcp:
            assert (late.frames[0]["code"], late.frames[0]["close"]) == ("overloaded", 4003)
            assert 2.5 <= late.frames[0]["retry"] <= 7.5
        else:
            assert late.closed == 503
        assert world.value("access_refused", reason="connections") == 1


async def test_far_above_the_bound_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: at most REFUSED_SHARE connections above the bound are open in order to be told."""
    monkeypatch.setattr(admission, "REFUSED_SHARE", 0)
    async with World(connections=2) as world:
        for name in ("a", "b"):
            await world.join(name)
        late = await world.open(tcp=True)
        await late.gone()
        assert late.frames == []
        assert len(world.node.drivers) == 2
        assert world.value("access_refused", reason="connections") == 1


async def test_who_is_refused_and_says_nothing() -> None:
    """inv 7: it is not waited for longer than a second, nor for more than REFUSED_SHARE of them."""
    async with World(connections=1) as world:
        await world.join("a")
        mute = await world.open(tcp=True)
        await world.clock.advance(2)
        await mute.gone()
        assert world.value("access_refused", reason="timeout") == 1
        assert world.node.admission._refused == {}


async def test_connections_of_one_address() -> None:
    """inv 7: one address has its bound, and is told so; others do not notice."""
    async with World(proxy_protocol=True, per_address=2) as world:
        mine, other = (header((address, 1), ("10.0.0.9", 2)) for address in ("10.0.0.1", "10.0.0.2"))
        for _ in range(2):
            await world.open(tcp=True, prefix=mine)
        late = await world.open(tcp=True, prefix=mine + b"\0")
        await late.gone()
        assert late.frames[0]["code"] == "overloaded"
        assert world.value("access_refused", reason="per_address") == 1
        free = await world.open(tcp=True, prefix=other)
        free.send(t="connect", token=world.token("free"))
        await free.got("connected")


def room_for(world: World, channels: int) -> None:
    """Let the node take so many more channels than it has."""
    node = world.node
    access = msgspec.structs.replace(node.settings.access, channels=len(node.registry) + channels)
    node.settings = msgspec.structs.replace(node.settings, access=access)


class Raw(asyncio.Protocol):
    """A socket that says what it is told to, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def raw(world: World, carrier: str, data: bytes = b"") -> Raw:
    client = Raw()
    await world.network.connect(lambda: client, "m", world.node.details()[carrier])
    client.transport.write(data)
    await world.clock.settle()
    return client


@pytest.mark.parametrize(
    ("carrier", "text"),
    [
        ("websocket", b"GET /ws HTTP/1.1\r\nHost: m\r\n" + b"X-A: b\r\n" * 500),
        ("tcp", (60_000).to_bytes(4, "big") + b" " * 1000),
    ],
)
async def test_slow_loris(carrier: str, text: bytes) -> None:
    """inv 7: a handshake that comes byte by byte ends at the handshake's time, whatever it sends."""
    async with World(handshake=5) as world:
        client = await raw(world, carrier)
        for byte in range(40):
            client.transport.write(text[byte : byte + 1])
            await world.clock.advance(0.2)
            if client.lost:
                break
        assert client.lost
        assert world.clock.monotonic() < 7
        assert (b"503" if carrier == "websocket" else b'"silent"') in client.heard
        assert world.value("access_refused", reason="timeout") == 1
        assert world.value("access_closes", code="silent") == 1


async def test_a_head_that_does_not_end() -> None:
    """inv 7: a handshake of more than 8 KiB is refused as it grows."""
    async with World() as world:
        client = await raw(world, "websocket", b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
        assert client.lost
        assert client.heard.startswith(b"HTTP/1.1 431")
        assert world.value("access_refused", reason="handshake") == 1


async def test_origins() -> None:
    """A page of another origin is refused with 403 at the handshake; without an Origin it may come."""
    async with World(origins=("https://good.example",)) as world:
        heard = []
        for origin in ("https://bad.example", "https://good.example", ""):
            headers = [("Origin", origin)] if origin else []
            asked = WebSocketClient().request("m", "/ws", (), headers)
            heard.append((await raw(world, "websocket", asked)).heard[9:12])
        assert heard == [b"403", b"101", b"101"]
        assert world.value("access_refused", reason="handshake") == 1


async def test_half_open_connections() -> None:
    """inv 7: a peer that is gone without a word is pinged after a heartbeat, and cut after two."""
    async with World(heartbeat=10) as world:
        websocket, tcp = await world.join("a", tcp=False), await world.join("b")
        for client in (websocket, tcp):
            client.stop_reading()  # what is written to it goes nowhere, not even a close is answered
        await world.clock.advance(25)
        assert world.node.drivers == {}
        assert world.value("access_closes", code="silent") == 2


@pytest.mark.parametrize("tcp", [True, False])
async def test_channels_of_a_node(tcp: bool) -> None:
    """inv 7: above the bound no channel is taken on: joins are refused by name, connects come back later."""
    async with World() as world:
        bob = await world.join("bob", tcp=tcp)
        room_for(world, 2)
        for number in range(4):
            bob.send(t="subscribe", id=number, channel=f"room:{number}")
        await bob.got("subscribed", id=1)
        for number in (2, 3):
            error = await bob.got("error", id=number)
            assert (error["code"], error["retry"]) == ("too_many", True)
        bob.send(t="subscribe", id=9, channel="room:0")
        await bob.got("subscribed", id=9)
        assert world.value("access_channels_refused") == 2
        late = await world.open(tcp=tcp)
        late.send(t="connect", token=world.token("ann"))
        await late.gone()
        assert late.frames[-1]["code"] == "overloaded"
        assert world.value("access_refused", reason="channels") == 1
        bob.send(t="unsubscribe", id=10, channel="room:0")
        await bob.got("unsubscribed", id=10)
        bob.send(t="subscribe", id=11, channel="room:3")
        await bob.got("subscribed", id=11)


async def test_a_million_subscriptions() -> None:
    """inv 7: one connection has its bound, each ask above it is refused and counted, the node's stays."""
    async with World(subscriptions=5, rate=1_000_000, burst=1_000_000) as world:
        bob = await world.join("bob", tcp=False)
        driver = next(iter(world.node.drivers.values()))
        own = len(world.node.registry)
        lines = b"\n".join(b'{"t":"subscribe","id":%d,"channel":"room:%d"}' % (n, n) for n in range(1000))
        for _ in range(20):
            driver.data_received(bob._codec.wrap(lines))
            await bob.until(lambda: not world.node.inflow._rest)
        await bob.until(lambda: world.value("access_errors", code="too_many") >= 19_900)
        assert len(driver.channels_list()) == len(world.node.registry) == own + 5


async def test_channels_of_a_node_in_resume() -> None:
    """inv 7: what `resume` lists above the node's bound is refused as a subscribe is."""
    async with World() as world:
        await world.join("bob")
        room_for(world, 1)
        resume = {f"room:{number}": {"epoch": "x", "seq": 0} for number in range(3)}
        bob = await world.join("bob", resume=resume, token=world.token("bob"))
        refused = [(frame["code"], frame["retry"]) for frame in bob.take("error")]
        assert refused == [("too_many", True)] * len(refused)
        assert len(bob.frames[0]["channels"]) == 1 + 3 - len(refused)
        assert len(refused) >= 2


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_crowd_of_the_sdks_clients(scheme: str) -> None:
    """The SDK waits as it was told: a crowd is in after the time that the rate needs, with few attempts."""
    async with World(connect_rate=10, connect_burst=10, settle=20) as world:
        port = world.node.details()["tcp" if scheme == "tcp" else "websocket"]
        clients = [
            SdkClient(
                f"{scheme}://m:{port}",
                token=world.token(f"u{number}"),
                network=world.network,
                clock=world.clock,
                random=random.Random(number),
            )
            for number in range(60)
        ]
        attempts = [asyncio.ensure_future(client.connect(timeout=30.0)) for client in clients]
        for _ in range(40):
            await world.clock.advance(0.25)
            if all(attempt.done() for attempt in attempts):
                break
        await asyncio.gather(*attempts)
        refused = world.value("access_refused", reason="rate")
        assert 50 <= refused <= 50 + 30  # 50 at first; of those who come back, few find no place again
        assert world.clock.monotonic() <= 9.0
        for client in clients:
            await client.close()
