"""The dispatch side of nodelink: one persistent link to one access node, and the chain of each partition.

A link is never waited for: while it is down, or when its node does not take what it is sent, pushes are
dropped, and each partition's next frame is a break, after which the node reads the log (invariant 7).
"""

from __future__ import annotations

import asyncio
import logging
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
    """One connection of a link."""

    __slots__ = ("_link", "lost", "transport")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

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
            assert wire.transport is not None
            wire.transport.close()

    def push(self, partition: int, generation: str, upto: int, items: list[Item]) -> bool:
        """Put a frame on its way; tell whether it was. False: it is dropped, and the chains are broken."""
        wire = self._wire
        if wire is None:
            return False
        transport = wire.transport
        assert transport is not None
        data = framed(Push(partition, generation, self._chains.get(partition, BREAK), upto, items))
        waiting = transport.get_write_buffer_size()
        # A frame that alone is above the bound may still go into an empty buffer, or it would never go.
        if (waiting and waiting + len(data) > self._buffer) or len(data) > MAX_FRAME:
            self._drop(wire, waiting + len(data))
            return False
        self._chains[partition] = upto
        transport.write(data)
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
        assert wire.transport is not None
        self._disconnected(wire)
        wire.transport.abort()

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
                await within(self._clock, CONNECT_SECONDS, self._network.connect(made, host, int(port)))
                await wires[-1].lost
            except (OSError, TimeoutError) as error:
                _log.debug("link not connected: %s", error, extra={"access_node": self.node.incarnation})
            except Exception:  # noqa: BLE001 - counted; an address that is none, say, until there is another
                await self._failures.pause()
            if self._clock.monotonic() - began >= STEADY_SECONDS:
                delay = FIRST_DELAY
            # Full jitter: all dispatchers see a node's restart at the same moment.
            await self._clock.sleep(self._random.uniform(0, delay))
            delay = min(delay * 2, LONGEST_DELAY)
