"""What the contract of the bus port is tested with."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from holdfast.bus.kafka import KafkaBus
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.clock import SystemClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from holdfast.bus.port import Bus, Consumer, Record, Topic


P = 3


SECONDS = 20.0


class Place(Protocol):
    """One adapter under test."""

    metrics: Metrics

    async def bus(self) -> Bus:
        """Return another process's connection to the same topics."""

    async def truncate(self, topic: Topic, partition: int, start: int) -> None:
        """Let retention take what is below `start`."""


class MemoryPlace:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.broker = MemoryBroker(P, SystemClock())

    async def bus(self) -> Bus:
        bus = MemoryBus(self.broker, self.metrics, buffer=(1000, 1_000_000))
        await bus.start()
        return bus

    async def truncate(self, topic: Topic, partition: int, start: int) -> None:
        self.broker.truncate(topic, partition, start)

    async def close(self) -> None:
        pass


class KafkaPlace:
    def __init__(self, address: str, prefix: str) -> None:
        self.metrics = Metrics()
        self.settings = Kafka(
            servers=address,
            prefix=prefix,
            partitions=P,
            replication=1,
            buffer_records=1000,
            buffer_bytes=1_000_000,
            session_timeout=2.0,
        )
        self._buses: list[KafkaBus] = []

    async def bus(self) -> Bus:
        bus = KafkaBus(self.settings, self.metrics, SystemClock())
        self._buses.append(bus)
        await bus.start()
        return bus

    async def truncate(self, topic: Topic, partition: int, start: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.servers)
        await admin.start()
        tp = TopicPartition(f"{self.settings.prefix}.{topic}", partition)
        await admin.delete_records({tp: RecordsToDelete(before_offset=start)})
        await admin.close()

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@asynccontextmanager
async def writing(bus: Bus, deadline: float = 10.0) -> AsyncIterator[Any]:
    producer = await bus.producer(deadline=deadline)
    try:
        yield producer
    finally:
        await producer.close()


@asynccontextmanager
async def reading(
    bus: Bus, topic: Topic, positions: dict[int, int], group: str = ""
) -> AsyncIterator[Consumer]:
    consumer = await bus.reader(topic, group)
    try:
        consumer.assign(positions)
        yield consumer
    finally:
        await consumer.close()


async def collect(consumer: Consumer, count: int, most: int = 1000) -> list[Record]:
    """Fetch until `count` records came."""
    found: list[Record] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < count:
            for records in (await consumer.fetch(most, 0.5)).values():
                assert len(records) <= most
                found += records
    return found


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not true():
            await asyncio.sleep(0.01)


async def begun(bus: Bus) -> None:
    """Start a bus as services do: again while Kafka, or this machine, takes too long."""
    async with asyncio.timeout(2 * SECONDS):
        while True:
            try:
                return await bus.start()
            except Retry:
                await asyncio.sleep(0.1)


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


class Movements:
    """What a group member was told, in order."""

    def __init__(self, log: list[tuple[str, str, tuple[int, ...]]], name: str) -> None:
        self.log = log
        self.name = name
        self.consumer: Consumer | None = None
        self.commits: dict[int, int] = {}

    async def assigned(self, partitions: Sequence[int]) -> None:
        self.log.append((self.name, "assigned", tuple(partitions)))

    async def revoked(self, partitions: Sequence[int]) -> None:
        if self.consumer is not None and self.commits:
            await self.consumer.commit({p: self.commits[p] for p in partitions if p in self.commits})
        await asyncio.sleep(0.01)
        self.log.append((self.name, "revoked", tuple(partitions)))

    async def join(self, bus: Bus, group: str) -> Consumer:
        self.consumer = await bus.join_group(
            "inbound", group, on_assigned=self.assigned, on_revoked=self.revoked
        )
        return self.consumer
