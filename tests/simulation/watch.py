"""Looks at the bounds while a run goes on (inv 7), and at the rate at which a draining node empties (inv 10).

The settings of a simulated cluster are small, so that a run reaches its bounds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from holdfast.protocol.connection import State
from services.access.delivery import PAGE_BYTES
from tests.simulation.configure import DRAIN_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.world import Node, World

EVERY: Final = 0.2

FRAME: Final = 8192
"""Bytes of a run's largest frame, about: one may go above a bound that was not reached before it."""


class Watch:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self) -> None:
        """Look, again and again."""
        while True:
            await asyncio.sleep(EVERY)
            for node in self.world.nodes.values():
                if node.up and node.service is not None:
                    for what, size, bound in self._sizes(node):
                        if size > bound:
                            text = f"{node.name}: {what} holds {size}, its bound is {bound}"
                            self.world.ledger.violated(7, text)

    def _sizes(self, node: Node) -> Iterator[tuple[str, int, int]]:
        settings, service = self.world.settings, node.service
        if node.role == "access":
            for driver in service.drivers.values():
                size = driver.transport.get_write_buffer_size() if driver.transport is not None else 0
                yield "a connection's buffer", size, settings.access.buffer + PAGE_BYTES + FRAME
        elif node.role == "dispatch":
            for link in service._links._links.values():
                wire = link._wire
                if wire is not None and wire.transport is not None:
                    size = wire.transport.get_write_buffer_size()
                    yield "a link's buffer", size, settings.nodelink.buffer + FRAME
            feed = service._feed
            for queue in feed._queues.values() if feed is not None else ():
                yield "a partition's queue", len(queue), settings.dispatch.pending + settings.dispatch.fetch
        else:
            worker = service._worker
            for part in worker._parts.values() if worker is not None else ():
                bound = settings.logic.pending + settings.logic.batch
                yield "a partition in hand", len(part.items), bound


class DrainWatch:
    """Counts whom a node that stops has sent away. `look` is called while it does."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._name = node.name
        self._service: Any = node.service if node.role == "access" else None
        self._asked: set[int] = set()
        self._began = world.loop.now
        held = len(self._service.drivers) if self._service is not None else 0
        drain = world.settings.process.drain_seconds
        # All must be asked within half of the time: where the rate is too low for that, it is made higher.
        self._rate = max(DRAIN_RATE, held / (drain / 2 * 0.5))
        self._until = self._began + drain / 2

    def look(self) -> None:
        """Count."""
        now = self._world.loop.now
        if self._service is None or now > self._until:
            return
        drivers = self._service.drivers.items()
        self._asked |= {number for number, one in drivers if one.machine.state is State.DRAINING}
        most = self._rate * (now - self._began + 0.1) + 1
        if len(self._asked) > most:
            text = f"{self._name}: {len(self._asked)} clients are sent away after {now - self._began:.2f} s"
            self._world.ledger.violated(10, text)
            self._service = None
