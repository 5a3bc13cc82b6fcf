"""The simulated Kafka: the memory broker's partitions behind delays, outages and lost answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.bus.memory_broker import MemoryBroker
from holdfast.bus.port import OffsetLost, Progress, Record, Topic, between
from holdfast.errors import Retry
from tests.simulation.group import Group, Member
from tests.simulation.producer import NAME, SimProducer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from random import Random

    from tests.simulation.loop import Process, SimClock, SimLoop
    from tests.simulation.network import Links


class SimKafka:
    """What all processes share. `on_append` sees each record at the moment it is written."""

    def __init__(
        self, loop: SimLoop, links: Links, clock: SimClock, partitions: int, random: Random, timeout: float
    ) -> None:
        self.loop = loop
        self.links = links
        self.random = random
        self.broker = MemoryBroker(partitions, clock, keep=1_000_000)
        self.timeout = timeout  # of a group's sessions
        self.down = False
        self.lose_batch = 0.0  # a batch is not written, and its producer told so, or not
        self.lose_answer = 0.0  # a batch is written, and its producer not told so
        self.hold_batch = 0.0  # a batch is written long after its producer gave up
        self.on_append: Callable[[Topic, int, Any, int, Any], None] = lambda *_: None
        self.groups: dict[tuple[str, Topic], Group] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._held: list[Callable[[], None]] = []

    def group(self, name: str, topic: Topic) -> Group:
        key = (name, topic)
        if key not in self.groups:
            self.groups[key] = Group(self, self.broker.partitions)
        return self.groups[key]

    def set_down(self, down: bool) -> None:
        self.down = down
        if not down:
            held, self._held = self._held, []
            for call in held:
                call()
            self.wake()

    def when_up(self, call: Callable[[], None]) -> None:
        self._held.append(call)

    def write(self, topic: Topic, partition: int, key: Any, value: Any, headers: Any) -> int:
        offset = self.broker.append(topic, partition, key, value, headers)
        self.on_append(topic, partition, value, offset, headers)
        return offset

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def news(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._waiters.append(waiter)
        timer = self.loop.call_later(seconds, _give, waiter)
        try:
            await waiter
        finally:
            timer.cancel()


def _give(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class SimConsumer:
    """See `holdfast.bus.port.Consumer`; with a `member` of a group, whose partitions it then reads."""

    def __init__(
        self, kafka: SimKafka, process: Process, topic: Topic, group: Group | None, member: Member | None
    ) -> None:
        self._kafka = kafka
        self._process = process
        self._topic = topic
        self._group = group
        self._member = member
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()

    async def fetch(self, max_records: int, timeout: float) -> Mapping[int, Sequence[Record]]:
        kafka = self._kafka
        until = kafka.loop.now + timeout
        while True:
            await asyncio.sleep(kafka.links.delay(self._process.name, NAME))
            found = self._read(max_records)
            left = until - kafka.loop.now
            if found or left <= 0:
                return found
            await kafka.news(left)

    def assigned(self) -> Sequence[int]:
        return sorted(self._positions)

    def assign(self, positions: Mapping[int, int]) -> None:
        self._positions = dict(positions)
        self._paused &= set(positions)

    def seek(self, partition: int, offset: int) -> None:
        if partition in self._positions:
            self._positions[partition] = offset
            self._kafka.wake()

    def pause(self, partition: int) -> None:
        self._paused.add(partition)

    def resume(self, partition: int) -> None:
        self._paused.discard(partition)
        self._kafka.wake()

    async def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> None:
        kafka = self._kafka
        assert self._group is not None
        await asyncio.sleep(kafka.links.delay(self._process.name, NAME))
        if kafka.down or not kafka.links.reachable(self._process.name, NAME):
            await asyncio.sleep(1.0)
            raise Retry("the broker is away")
        if self._member is not None and not self._group.may_commit(self._member, offsets):
            raise Retry("the group has given these partitions to another member")
        self._group.committed.update(offsets)
        self._group.notes.update({p: (notes or {}).get(p, "") for p in offsets})
        if kafka.random.random() < kafka.lose_answer:
            raise Retry("the answer to a commit was lost")

    async def close(self) -> None:
        self._positions = {}
        if self._group is not None and self._member is not None:
            self._group.leave(self._member)

    def take_over(self, partitions: Sequence[int]) -> None:
        """Read these partitions, from where the group is."""
        assert self._group is not None
        self._paused.clear()
        committed = self._group.committed
        self._positions = {p: committed.get(p, 0) for p in partitions}

    def _read(self, max_records: int) -> dict[int, Sequence[Record]]:
        kafka = self._kafka
        if kafka.down or not kafka.links.reachable(self._process.name, NAME):
            return {}
        if self._member is not None and not self._member.reading:
            return {}
        found: dict[int, Sequence[Record]] = {}
        for partition, position in self._positions.items():
            if partition in self._paused:
                continue
            log = kafka.broker.partition(self._topic, partition)
            if not log.start <= position <= log.end:
                if found:
                    continue
                raise OffsetLost(partition, position, log.start, log.end)
            if position < log.end:
                records = log.read(position, kafka.random.randint(1, max_records))
                self._positions[partition] = records[-1].offset + 1 if records else log.end
                if records:
                    found[partition] = records
        return found


class SimBus:
    """One process's handle. See `holdfast.bus.port.Bus`."""

    def __init__(self, kafka: SimKafka, process: Process, buffer: int) -> None:
        self.partitions = kafka.broker.partitions
        self._kafka = kafka
        self._process = process
        self._buffer = buffer

    def _there(self) -> bool:
        return not self._kafka.down and self._kafka.links.reachable(self._process.name, NAME)

    async def _ask(self) -> None:
        await asyncio.sleep(self._kafka.links.delay(self._process.name, NAME))
        if not self._there():
            await asyncio.sleep(0.5)
            raise Retry("the broker is away")

    async def start(self) -> None:
        await self._ask()

    async def close(self) -> None:
        pass

    async def producer(self, *, deadline: float) -> SimProducer:
        return SimProducer(self._kafka, self._process, deadline, self._buffer)

    async def join_group(
        self,
        topic: Topic,
        group: str,
        *,
        on_assigned: Callable[[Sequence[int]], Awaitable[None]],
        on_revoked: Callable[[Sequence[int]], Awaitable[None]],
    ) -> SimConsumer:
        await self._ask()
        joined = self._kafka.group(group, topic)
        member = Member(self._process, on_assigned, on_revoked)
        consumer = SimConsumer(self._kafka, self._process, topic, joined, member)
        member.take_over = consumer.take_over
        joined.join(member)
        return consumer

    async def reader(self, topic: Topic, group: str = "") -> SimConsumer:
        joined = self._kafka.group(group, topic) if group else None
        return SimConsumer(self._kafka, self._process, topic, joined, None)

    async def ends(self, topic: Topic) -> Mapping[int, tuple[int, int]]:
        await self._ask()
        logs = {p: self._kafka.broker.partition(topic, p) for p in range(self.partitions)}
        return {p: (log.start, log.end) for p, log in logs.items()}

    async def progress(self, topic: Topic, group: str) -> Mapping[int, Progress]:
        ends = await self.ends(topic)
        known = self._kafka.groups.get((group, topic))
        if known is None:
            return between({}, {}, ends)
        return between(known.committed, known.notes, ends)

    async def offset_at(self, topic: Topic, partition: int, ts: int) -> int:
        await self._ask()
        log = self._kafka.broker.partition(topic, partition)
        return next((record.offset for record in log.records if record.ts >= ts), log.end)

    async def healthy(self) -> bool:
        return self._there()
