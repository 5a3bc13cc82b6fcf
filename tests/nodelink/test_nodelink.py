"""Both sides of nodelink, joined by a network in memory."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clock import ManualClock
from holdfast.membership.port import Node
from holdfast.network import MemoryNetwork, TcpNetwork
from holdfast.nodelink.frames import BREAK, VERSION, Hello, MessageItem, Push, ReplyItem, framed
from holdfast.nodelink.link import CONNECT_SECONDS, Link
from holdfast.nodelink.server import MAX_LINKS, IncomingLink, LinkServer
from holdfast.observe.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable


class Side:
    """An access node's side: what it got."""

    def __init__(self, network: Any, clock: Any, *, secret: str = "s", incarnation: str = "a-1") -> None:
        self.metrics = Metrics()
        self.pushes: list[Push] = []
        self.lost: list[str] = []
        self.incoming: list[IncomingLink] = []
        self.server = LinkServer(
            network,
            "127.0.0.1",
            0,
            incarnation=incarnation,
            secret=secret,
            metrics=self.metrics,
            on_push=self.on_push,
            on_lost=lambda link: self.lost.append(link.dispatcher),
            clock=clock,
        )

    def on_push(self, link: IncomingLink, push: Push) -> None:
        self.pushes.append(push)
        if link not in self.incoming:
            self.incoming.append(link)

    def refused(self, reason: str) -> float:
        return value(self.metrics, "holdfast_access_nodelink_refused_total", reason=reason)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def link_to(side: Side, network: Any, clock: Any, **more: Any) -> Link:
    node = Node("a", more.pop("incarnation", "a-1"), "access", f"127.0.0.1:{side.server.port}")
    settings: dict[str, Any] = {
        "dispatcher": "d-1",
        "secret": "s",
        "buffer": 1 << 20,
        "metrics": Metrics(),
        "random": Random(1),
    }
    return Link(network, clock, node, **(settings | more))


async def linked() -> tuple[ManualClock, Side, Link]:
    clock, network = ManualClock(), MemoryNetwork()
    side = Side(network, clock)
    await side.server.start()
    link = link_to(side, network, clock)
    link.start()
    await clock.settle()
    return clock, side, link


async def test_chain() -> None:
    """Each partition's first frame on a link is a break, and each later one follows the one before."""
    clock, side, link = await linked()
    item = MessageItem("room:a", "e", 1, b'"ts":1')
    assert link.push(0, "g", 5, [item])
    assert link.push(1, "g", 7, [])
    assert link.push(0, "g", 9, [ReplyItem(3, 4, b"{}")])
    await clock.settle()
    assert [(push.partition, push.follows, push.upto) for push in side.pushes] == [
        (0, BREAK, 5),
        (1, BREAK, 7),
        (0, 5, 9),
    ]
    assert side.pushes[0].items == [item]
    link.break_chain(0)
    link.push(0, "g", 10, [])
    link.push(1, "g", 11, [])
    await clock.settle()
    assert [push.follows for push in side.pushes[3:]] == [BREAK, 7]
    link.close()
    await clock.settle()
    assert side.lost == ["d-1"]


async def test_reconnect_breaks_all_chains() -> None:
    """A link that ended comes back within its longest delay, and starts every chain anew."""
    clock, side, link = await linked()
    link.push(0, "g", 5, [])
    await clock.settle()
    side.incoming[0].close()
    await clock.settle()
    assert not link.push(0, "g", 6, [])
    await clock.advance(2.1)
    assert link.connected
    link.push(0, "g", 7, [])
    await clock.settle()
    assert side.pushes[-1].follows == BREAK
    link.close()


async def test_dropped_buffer() -> None:
    """inv 7: what a hung node does not take is dropped at the bound and counted; a break follows."""
    clock, network = ManualClock(), MemoryNetwork()
    side = Side(network, clock)
    await side.server.start()
    metrics = Metrics()
    link = link_to(side, network, clock, buffer=10_000, metrics=metrics)
    link.start()
    await clock.settle()
    link.push(0, "g", 0, [])
    await clock.settle()
    side.incoming[0].pause()
    entry = MessageItem("room:a", "e", 1, b"x" * 1000)
    sent = 0
    while link.push(0, "g", sent + 1, [entry]):
        sent += 1
        assert sent < 100, "nothing bounds the buffer"
    assert 5 <= sent < 10
    assert value(metrics, "holdfast_dispatch_dropped_total") > 9000
    assert value(metrics, "holdfast_dispatch_breaks_total", why="buffer") == 1
    await clock.advance(2.1)
    assert link.connected
    assert link.push(0, "g", 100, [entry])
    await clock.settle()
    assert (side.pushes[-1].follows, side.pushes[-1].upto) == (BREAK, 100)
    link.close()
    assert value(metrics, "holdfast_dispatch_links") == 0


async def test_frame_above_the_bound() -> None:
    """A frame larger than the whole bound still goes to a node that has nothing waiting."""
    clock, network = ManualClock(), MemoryNetwork()
    side = Side(network, clock)
    await side.server.start()
    link = link_to(side, network, clock, buffer=100)
    link.start()
    await clock.settle()
    assert link.push(0, "g", 1, [MessageItem("room:a", "e", 1, b"x" * 1000)])
    await clock.settle()
    assert len(side.pushes) == 1
    link.close()


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (framed(Hello(VERSION + 1, "d", "a-1", "s")), "version"),
        (framed(Hello(VERSION, "d", "a-0", "s")), "incarnation"),
        (framed(Hello(VERSION, "d", "a-1", "wrong")), "secret"),
        (framed(Hello(VERSION, "", "a-1", "s")), "bad_frame"),
        (framed(Push(0, "g", BREAK, 0, [])), "hello_first"),
        (b"\x00\x00\x00\x03abc", "bad_frame"),
        (b"\x00\x00\xff\xff", "too_large"),
        (framed(Hello(VERSION, "d", "a-1", "s")) * 2, "bad_frame"),
        (framed(Hello(VERSION, "d", "a-1", "s")) + b"\xff\xff\xff\xff", "too_large"),
    ],
)
async def test_refusals(first: bytes, reason: str) -> None:
    """inv 11: a link that is not what it should be is closed, and counted by its reason."""
    clock, network = ManualClock(), MemoryNetwork()
    side = Side(network, clock)
    await side.server.start()
    closed = await raw(network, side.server.port, first)
    await clock.settle()
    assert closed.done()
    assert side.refused(reason) == 1
    assert side.pushes == []


async def raw(network: MemoryNetwork, port: int, data: bytes) -> asyncio.Future[None]:
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Raw(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(data)

        def connection_lost(self, exc: Exception | None) -> None:
            closed.set_result(None)

    await network.connect(Raw, "127.0.0.1", port)
    return closed


async def test_silent_and_too_many() -> None:
    """inv 7: who says nothing is closed in time, and there is a bound on links."""
    clock, network = ManualClock(), MemoryNetwork()
    side = Side(network, clock)
    await side.server.start()
    closed = [await raw(network, side.server.port, b"") for _ in range(MAX_LINKS + 1)]
    await clock.settle()
    assert [future.done() for future in closed] == [False] * MAX_LINKS + [True]
    assert side.refused("too_many") == 1
    await clock.advance(5.1)
    assert all(future.done() for future in closed)
    assert side.refused("no_hello") == MAX_LINKS
    assert side.lost == []


async def test_pause_keeps_order() -> None:
    """A node that is behind pauses a link; on resume everything comes, in order, once."""
    clock, side, link = await linked()
    link.push(0, "g", 0, [])
    await clock.settle()
    side.incoming[0].pause()
    for upto in range(1, 50):
        link.push(0, "g", upto, [])
    await clock.settle()
    assert len(side.pushes) == 1
    side.incoming[0].resume()
    await clock.settle()
    assert [push.upto for push in side.pushes] == list(range(50))
    link.close()


async def test_renewed_incarnation() -> None:
    """inv 6: a node that took a new incarnation is not pushed to under its old one."""
    clock, side, link = await linked()
    side.server.renew("a-2")
    await clock.advance(3)
    link.push(0, "g", 1, [])
    await clock.settle()
    assert side.pushes == []
    assert side.refused("incarnation") > 0
    link.close()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(0, 400))
def test_any_cut_of_the_bytes(cuts: list[int], size: int) -> None:
    """Frames are the same however the network cuts them."""

    async def run() -> list[int]:
        side = Side(MemoryNetwork(), ManualClock())
        incoming = IncomingLink(side.server)
        incoming.connection_made(Sink())
        pushes = [Push(0, "g", BREAK, upto, [MessageItem("c:c", "e", 1, b"x" * size)]) for upto in range(5)]
        data = framed(Hello(VERSION, "d", "a-1", "s")) + b"".join(map(framed, pushes))
        at = 0
        for cut in [*cuts, len(data)]:
            incoming.data_received(data[at : at + cut])
            at += cut
        return [push.upto for push in side.pushes]

    assert asyncio.run(run()) == list(range(5))


class Sink(asyncio.Transport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_over_tcp() -> None:
    """The same over real sockets, with the machine's clock."""
    from holdfast.clock import SystemClock

    network, clock = TcpNetwork(), SystemClock()
    side = Side(network, clock)
    await side.server.start()
    link = link_to(side, network, clock)
    link.start()
    async with asyncio.timeout(5):
        await until(lambda: link.connected)
        for upto in range(100):
            link.push(0, "g", upto, [MessageItem("room:a", "e", upto, b"x" * 5000)])
        await until(lambda: len(side.pushes) == 100)
        assert side.server.links == 1
        link.close()
        await until(lambda: bool(side.lost))
    assert [push.follows for push in side.pushes] == [BREAK, *range(99)]
    side.server.close()


class Cut(asyncio.Transport):
    """One that is cut without a word, as uvloop does with a connection whose opener is cancelled."""

    cut = aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.cut:
            raise RuntimeError("the handler is closed")

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted = True


async def test_a_link_that_comes_when_its_time_is_over() -> None:
    """inv 7: what was pushed to it in that moment is dropped, and the next one is tried."""
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    clock, metrics = ManualClock(), Metrics()
    cuts: list[Cut] = []

    class Late:
        async def connect(self, factory: Callable[[], Any], *_: object, **__: object) -> None:
            cuts.append(Cut())
            try:
                await asyncio.Event().wait()
            finally:
                factory().connection_made(cuts[-1])
                cuts[-1].cut = link.push(0, "g", 5, [])

    node = Node("a", "a-1", "access", "127.0.0.1:7000")
    late: Any = Late()
    link = Link(late, clock, node, dispatcher="d", secret="", buffer=1000, metrics=metrics, random=Random(1))
    link.start()
    await clock.advance(CONNECT_SECONDS)
    assert cuts[0].cut
    assert cuts[0].aborted
    assert not link.connected
    assert value(metrics, "holdfast_dispatch_links") == 0
    assert not link.push(0, "g", 6, [])
    await clock.advance(CONNECT_SECONDS)
    assert len(cuts) == 2
    link.close()
    await clock.settle()
    assert troubles == []


async def test_a_node_that_nobody_could_name() -> None:
    """inv 6: with static membership the link learns at each connection whose it is, before it pushes."""
    clock, network = ManualClock(), MemoryNetwork()
    side = Side(network, clock)
    await side.server.start()
    connected: list[str] = []
    link = link_to(
        side, network, clock, incarnation="", on_connected=lambda link: connected.append(link.incarnation)
    )
    assert not link.push(0, "g", 5, [])
    link.start()
    await clock.settle()
    assert connected == ["a-1"]
    assert link.push(0, "g", 5, [])
    await clock.settle()
    side.server.renew("a-2")
    await clock.advance(1)
    assert connected == ["a-1", "a-2"]
    assert link.push(0, "g", 6, [])
    await clock.settle()
    assert [push.follows for push in side.pushes] == [BREAK, BREAK]
    link.close()
    await clock.settle()


@pytest.mark.parametrize("said", [b"\0\0\0\2\x90\x90", b"\xff\xff\xff\xff" + b"x" * 5000])
async def test_what_is_no_node(said: bytes) -> None:
    """inv 7, 11: an answer that is none, or too long a one, ends the connection, and is counted."""
    clock, network, metrics = ManualClock(), MemoryNetwork(), Metrics()

    class Other(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            for place in range(0, len(said), 1000):
                transport.write(said[place : place + 1000])  # type: ignore[attr-defined]

        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(True)

    lost: list[bool] = []
    server = await network.listen(Other, "127.0.0.1", 7000)
    node = Node("a", "", "access", f"127.0.0.1:{server.port}")
    link = Link(network, clock, node, dispatcher="d", secret="", buffer=1, metrics=metrics, random=Random(1))
    link.start()
    await clock.advance(0.01)
    assert lost
    assert value(metrics, "holdfast_dispatch_strangers_total") == 1
    assert not link.connected
    link.close()
    await clock.settle()
