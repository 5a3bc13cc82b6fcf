"""The bus on Kafka: see `kafka_producer` and `kafka_consumer` for what they promise."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import confluent_kafka
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from holdfast.bus import kafka_end, kafka_topics
from holdfast.bus.kafka_consumer import KafkaConsumer
from holdfast.bus.kafka_producer import KafkaProducer
from holdfast.bus.kafka_security import options, why
from holdfast.bus.port import Progress, between
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from holdfast.bus.kafka_consumer import Moved
    from holdfast.bus.port import Topic
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Kafka

_HEALTH_SECONDS: Final = 0.9
_JOIN_SECONDS: Final = 60.0  # the other members may finish what they have first
_AWAY: Final = (KafkaError, confluent_kafka.KafkaException, OSError, TimeoutError)


class KafkaBus:
    """See `holdfast.bus.port.Bus`. Not `checked`, it reads topics that are refused otherwise."""

    def __init__(self, settings: Kafka, metrics: Metrics, clock: Clock) -> None:
        self.partitions = settings.partitions
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._names = kafka_topics.names(settings)
        self._seconds = max(settings.deadline, 1.0)
        self.checked = True
        self._admin: AIOKafkaAdminClient | None = None
        self._probe: AIOKafkaConsumer | None = None
        self._coordinators: dict[str, int] = {}

    async def start(self) -> None:
        """See `holdfast.bus.port.Bus`."""
        await self.close()  # of an earlier try
        try:
            self._admin = await kafka_topics.connect(self._settings, self._seconds)
            if self.checked:
                await kafka_topics.prepare(self._admin, self._settings, self._clock)
            self._probe = await self._started_probe()
        except _AWAY as error:
            raise Retry(
                f"Kafka at {self._settings.servers} (kafka.servers) is away: {error!r}{why()}"
            ) from error

    async def close(self) -> None:
        """See `holdfast.bus.port.Bus`."""
        probe, self._probe = self._probe, None
        if probe is not None:
            await kafka_end.stop(probe)
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def producer(self, *, deadline: float) -> KafkaProducer:
        """See `holdfast.bus.port.Bus`."""
        return KafkaProducer(self._settings, deadline, self._metrics, self._clock, self._names)

    async def join_group(
        self,
        topic: Topic,
        group: str,
        *,
        on_assigned: Callable[[Sequence[int]], Awaitable[None]],
        on_revoked: Callable[[Sequence[int]], Awaitable[None]],
    ) -> KafkaConsumer:
        """See `holdfast.bus.port.Bus`."""
        consumer = self._consumer(topic, group, (on_assigned, on_revoked))
        await self._begin(consumer, _JOIN_SECONDS)
        return consumer

    async def reader(self, topic: Topic, group: str = "") -> KafkaConsumer:
        """See `holdfast.bus.port.Bus`."""
        consumer = self._consumer(topic, group)
        await self._begin(consumer, self._seconds)
        return consumer

    async def ends(self, topic: Topic) -> Mapping[int, tuple[int, int]]:
        """See `holdfast.bus.port.Bus`."""
        if self._probe is None:
            raise Retry("the bus is not started")
        tps = [TopicPartition(self._names[topic], partition) for partition in range(self.partitions)]
        try:
            async with asyncio.timeout(self._seconds):
                first = await self._probe.beginning_offsets(tps)
                end = await self._probe.end_offsets(tps)
        except _AWAY as error:
            raise Retry(f"Kafka did not tell how far its logs reach: {error!r}") from error
        return {tp.partition: (first[tp], end[tp]) for tp in tps}

    async def progress(self, topic: Topic, group: str) -> Mapping[int, Progress]:
        """See `holdfast.bus.port.Bus`."""
        # In this order: the other way round a reader could seem to be ahead of the log.
        found = await self._committed(topic, group)
        offsets = {partition: offset for partition, (offset, _) in found.items()}
        notes = {partition: note for partition, (_, note) in found.items()}
        return between(offsets, notes, await self.ends(topic))

    async def _committed(self, topic: Topic, group: str) -> Mapping[int, tuple[int, str]]:
        """Return the offsets and notes that a group committed. Raises Retry."""
        if self._admin is None:
            raise Retry("the bus is not started")
        tps = [TopicPartition(self._names[topic], partition) for partition in range(self.partitions)]
        where = self._coordinators.pop(group, None)  # kept as long as it answers
        try:
            async with asyncio.timeout(self._seconds):
                if where is None:
                    where = await self._admin.find_coordinator(group)
                found = await self._admin.list_consumer_group_offsets(group, where, tps)
                # librdkafka's client for Python counts the end of a C string to a note.
                committed = {tp.partition: (found[tp].offset, found[tp].metadata.rstrip("\0")) for tp in tps}
        except (*_AWAY, AttributeError, KeyError) as error:
            # aiokafka stumbles over a partition's error, and answers a coordinator's with no partitions.
            raise Retry(f"Kafka did not tell what {group} committed: {error!r}") from error
        self._coordinators[group] = where
        return {partition: one for partition, one in committed.items() if one[0] >= 0}

    async def offset_at(self, topic: Topic, partition: int, ts: int) -> int:
        """See `holdfast.bus.port.Bus`."""
        if self._probe is None:
            raise Retry("the bus is not started")
        tp = TopicPartition(self._names[topic], partition)
        try:
            async with asyncio.timeout(self._seconds):
                found = (await self._probe.offsets_for_times({tp: ts}))[tp]
                if found is not None:
                    return int(found.offset)
                return int((await self._probe.end_offsets([tp]))[tp])
        except _AWAY as error:
            raise Retry(f"Kafka did not tell its offsets by time: {error!r}") from error

    async def healthy(self) -> bool:
        """See `holdfast.bus.port.Bus`."""
        if self._admin is None:
            return False
        with contextlib.suppress(*_AWAY):
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._admin.describe_cluster()
                return True
        return False

    def _consumer(self, topic: Topic, group: str, moves: tuple[Moved, Moved] | None = None) -> KafkaConsumer:
        return KafkaConsumer(self._settings, self._names[topic], group, lambda: self.ends(topic), moves)

    async def _begin(self, consumer: KafkaConsumer, seconds: float) -> None:
        try:
            await consumer.start(seconds)
        except _AWAY as error:
            raise Retry(
                f"Kafka at {self._settings.servers} (kafka.servers) is away: {error!r}{why()}"
            ) from error

    async def _started_probe(self) -> AIOKafkaConsumer:
        """Return what tells how far the logs reach. It reads nothing."""
        probe = AIOKafkaConsumer(
            bootstrap_servers=self._settings.servers,
            **options(self._settings),
            request_timeout_ms=int(self._seconds * 1000),
        )
        kafka_end.careful(probe._client)
        try:
            async with asyncio.timeout(self._seconds):
                await probe.start()
        except BaseException:
            await kafka_end.stop(probe)
            raise
        return probe
