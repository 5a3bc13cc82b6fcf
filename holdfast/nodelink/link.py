"""The dispatch side of nodelink: one persistent link to one access node, and the chain of each partition.

A link is never waited for: while it is down, or when its node does not take what it is sent, pushes are
dropped, and each partition's next frame is a break, after which the node reads the log (invariant 7).

What the partitions push in one turn of the loop goes out in one write. Redis answers for several partitions
at once; a write for each was a third of dispatch's CPU, and to the node it was a read for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import TYPE_CHECKING, Final, cast

import msgspec

from holdfast.clock import within
from holdfast.failures import Failures
from holdfast.nodelink.frames import (
    BREAK,
    HEADER,
    MAX_FRAME,
    VERSION,
    Hello,
    Item,
    Push,
    decode_welcome,
    framed,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from holdfast.clock import Clock
    from holdfast.membership.port import Node
    from holdfast.network import Network
    from holdfast.observe.metrics import Metrics
    from holdfast.tls import Trust

CONNECT_SECONDS: Final = 3.0
MAX_WELCOME: Final = 4096
"""Bytes of what a node may say of itself."""

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 2.0
"""Below the 3 s after which a node that hears nobody asks the shards itself."""

STEADY_SECONDS: Final = 5.0
"""A link that lived this long was a good one: the next delay starts small again."""

_log = logging.getLogger(__name__)


class _Wire(asyncio.Protocol):
    """One connection of a link, and what this turn of the loop has for it."""

    __slots__ = ("_link", "_loop", "_out", "_size", "lost", "transport")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._size = 0
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def waiting(self) -> int:
        """Bytes that the node has not taken."""
        assert self.transport is not None
        return self._size + self.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write, at the end of this turn."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self._size += len(data)

    def flush(self) -> None:
        """Write what waits."""
        out, self._out, self._size = self._out, [], 0
        if out and self.transport is not None and not self.transport.is_closing():
            # uvloop raises where it has cut a connection whose opener was cancelled: see `Link._give_up`.
            with contextlib.suppress(RuntimeError):
                self.transport.write(b"".join(out) if len(out) > 1 else out[0])

    def close(self, *, at_once: bool = False) -> None:
        """End the connection; `at_once`, without what waits."""
        assert self.transport is not None
        if at_once:
            self._out, self._size = [], 0
            self.transport.abort()
        else:
            self.flush()
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self.transport = transport
        self._link._connected(self)

    def data_received(self, data: bytes) -> None:
        self._link._heard(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.lost.done():
            self.lost.set_result(None)
        self._link._disconnected(self)


class Link:
    """A link to one incarnation of an access node, connected again with jitter whenever it ends.

    `buffer` is the bound in bytes of what may wait for the node. `on_connected` is called at each new
    connection, when all chains are broken already. `incarnation` is whom it is to: where the directory does
    not know (static membership), the node has said so by then.
    """

    def __init__(
        self,
        network: Network,
        clock: Clock,
        node: Node,
        *,
        dispatcher: str,
        secret: str,
        buffer: int,
        metrics: Metrics,
        random: Random,
        on_connected: Callable[[Link], None] | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.node = node
        self.incarnation = node.incarnation
        self._network = network
        self._clock = clock
        self._hello = framed(Hello(VERSION, dispatcher, node.incarnation, secret))
        self._buffer = buffer
        self._metrics = metrics
        self._random = random
        self._on_connected = on_connected
        self._trust = trust
        self._wire: _Wire | None = None
        self._chains: dict[int, int] = {}
        self._said = b""
        self._failures = Failures("nodelink", clock, metrics)
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether pushes go anywhere now."""
        return self._wire is not None

    @property
    def waiting(self) -> int:
        """Bytes that the node has not taken yet."""
        wire = self._wire
        return 0 if wire is None or wire.transport is None else wire.transport.get_write_buffer_size()

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """End the link. What waits in its buffer is still sent where the node takes it."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        wire, self._wire = self._wire, None
        if wire is not None:
            self._metrics.dispatch_links.dec()
            wire.close()

    def push(self, partition: int, generation: str, upto: int, items: list[Item]) -> bool:
        """Put a frame on its way; tell whether it was. False: it is dropped, and the chains are broken."""
        wire = self._wire
        if wire is None:
            return False
        data = framed(Push(partition, generation, self._chains.get(partition, BREAK), upto, items))
        waiting = wire.waiting
        # A frame that alone is above the bound may still go into an empty buffer, or it would never go.
        if (waiting and waiting + len(data) > self._buffer) or len(data) > MAX_FRAME:
            self._drop(wire, waiting + len(data))
            return False
        self._chains[partition] = upto
        wire.write(data)
        return True

    def break_chain(self, partition: int) -> None:
        """Make the partition's next frame a break."""
        self._chains.pop(partition, None)

    def _drop(self, wire: _Wire, size: int) -> None:
        _log.warning(
            "pushes dropped, link restarted", extra={"access_node": self.node.incarnation, "bytes": size}
        )
        self._metrics.dispatch_dropped.inc(size)
        self._metrics.dispatch_breaks.labels("buffer").inc()
        self._disconnected(wire)
        wire.close(at_once=True)

    def _connected(self, wire: _Wire) -> None:
        assert wire.transport is not None
        wire.transport.write(self._hello)
        self._said = b""
        if self.node.incarnation:
            self._ready(wire)

    def _heard(self, wire: _Wire, data: bytes) -> None:
        """Take the node's Welcome; there is nothing else that it has to say."""
        if self.node.incarnation or self._wire is wire or wire.transport is None:
            return
        said = self._said = self._said + data
        end = HEADER + int.from_bytes(said[:HEADER], "big")
        if len(said) < min(end, MAX_WELCOME):
            return
        try:
            self.incarnation = decode_welcome(said[HEADER:end]).incarnation
        except msgspec.DecodeError as error:
            self._metrics.dispatch_strangers.inc()
            _log.warning("not a node: %s", error, extra={"access_node": self.node.name})
            wire.transport.abort()
            return
        self._ready(wire)

    def _ready(self, wire: _Wire) -> None:
        self._chains.clear()
        self._wire = wire
        self._metrics.dispatch_links.inc()
        if self._on_connected is not None:
            self._on_connected(self)

    def _disconnected(self, wire: _Wire) -> None:
        if self._wire is wire:
            self._wire = None
            self._metrics.dispatch_links.dec()

    def _give_up(self, wires: list[_Wire]) -> None:
        """End what an attempt has left: a wire may be there in the moment in which its time is over.

        uvloop cuts it then, and tells nobody.
        """
        for wire in wires:
            self._disconnected(wire)
            if wire.transport is not None:
                wire.close(at_once=True)

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            began = self._clock.monotonic()
            wires: list[_Wire] = []

            def made(wires: list[_Wire] = wires) -> _Wire:
                wires.append(_Wire(self))
                return wires[-1]

            try:
                host, _, port = self.node.address.rpartition(":")
                secure = self._trust.context if self._trust is not None else None
                opening = self._network.connect(made, host, int(port), ssl=secure)
                await within(self._clock, CONNECT_SECONDS, opening)
                await wires[-1].lost
            except (OSError, TimeoutError) as error:
                level = logging.WARNING if isinstance(error, ssl.SSLError) else logging.DEBUG
                _log.log(level, "link not connected: %s", error, extra={"access_node": self.node.incarnation})
                self._give_up(wires)
            except Exception:  # noqa: BLE001 - counted; an address that is none, say, until there is another
                self._give_up(wires)
                await self._failures.pause()
            if self._clock.monotonic() - began >= STEADY_SECONDS:
                delay = FIRST_DELAY
            # Full jitter: all dispatchers see a node's restart at the same moment.
            await self._clock.sleep(self._random.uniform(0, delay))
            delay = min(delay * 2, LONGEST_DELAY)
