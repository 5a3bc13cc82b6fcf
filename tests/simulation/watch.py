"""Looks at the bounds while a run goes on (inv 7), and at the rate at which a draining node empties (inv 10).

The settings of a simulated cluster are small, so that a run reaches its bounds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.protocol.connection import State
from holdfast.records import Request, Send, decode_inbound
from services.access.delivery import PAGE_BYTES
from services.dispatch import saver
from tests.simulation.configure import DRAIN_RATE
from tests.simulation.producer import LONGEST_HOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.bus.port import Record
    from tests.simulation.world import Node, World

EVERY: Final = 0.2

SEEN: Final = 4.0
"""Seconds after which every access node has seen that a partition is full, and what it let in is written."""

FRAME: Final = 8192
"""Bytes of a run's largest frame, about: one may go above a bound that was not reached before it."""


class Watch:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self) -> None:
        """Look, again and again."""
        queue = QueueWatch(self.world)
        while True:
            await asyncio.sleep(EVERY)
            queue.look()
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
            for partition in service._partitions.values():
                yield "state to be written", partition._saver._size, saver.BOUND + settings.dispatch.fetch * 2
                yield "state to be written again", len(partition._saver._again), saver.AGAIN
            feed = service._feed
            for queue in feed._queues.values() if feed is not None else ():
                yield "a partition's queue", len(queue), settings.dispatch.pending + settings.dispatch.fetch
        else:
            worker = service._worker
            if worker is not None:
                # What comes beyond it is one fetch, of all partitions.
                room = worker._room + settings.logic.batch * self.world.plan.partitions
                yield "all partitions in hand", worker._pending(), room
            for part in worker._parts.values() if worker is not None else ():
                bound = settings.logic.pending + settings.logic.batch
                yield "a partition in hand", len(part.items), bound


class QueueWatch:
    """Looks whether clients put no more into a partition of inbound once it was seen to be full.

    It counts while access nodes run and reach Kafka, and Kafka writes at once: what a node cannot see it does
    not refuse, and one that stood still does not know yet.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        partitions = world.plan.partitions if world.plan.backlog else 0
        self._full: list[float | None] = [None] * partitions
        self._ends = [0] * partitions
        self._late_until = 0.0

    def look(self) -> None:
        """Look once."""
        world, now = self._world, self._world.loop.now
        if world.kafka.hold_batch:
            self._late_until = now + LONGEST_HOLD * world.settings.kafka.deadline
        sees = not world.kafka.down and now >= self._late_until
        sees = sees and all(self._sees(node) for node in world.nodes.values())
        group = world.kafka.group(world.settings.kafka.group, "inbound")
        for number, since in enumerate(self._full):
            log = world.kafka.broker.partition("inbound", number)
            new = log.end - self._ends[number]
            self._ends[number] = log.end
            if not sees or log.end - group.committed.get(number, 0) < world.plan.backlog:
                self._full[number] = None
            elif since is None:
                self._full[number] = now
            elif now - since > SEEN and (late := sum(map(_sent, log.records[-new:] if new else ()))):
                text = f"{late} are let into inbound {number}, which has been full for {now - since:.1f} s"
                world.ledger.violated(7, text)

    def _sees(self, node: Node) -> bool:
        process = node.process
        if node.role != "access" or process is None:
            return True
        return not process.paused and self._world.links.reachable(process.name, "kafka")


def _sent(record: Record) -> bool:
    """Tell whether a client has put a record into the queue."""
    try:
        return isinstance(decode_inbound(record.value or b""), (Send, Request))
    except msgspec.MsgspecError:
        return False


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
