"""The Kafka producer: records of one loop turn travel together, and a failure ends all that was on its way.

aiokafka's cost is per request, so records wait for nothing but a request that is already on its way to the
same broker, and what came meanwhile goes into the next one. At most one batch of a partition is with aiokafka
at a time: what is queued behind it is still ours, and dies with it (invariant 12). aiokafka's own sends do
not expire, and an idempotent batch that failed may have used up its sequence numbers; so one sweep watches
the deadlines, and after any failure the producer beneath is replaced.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition

from holdfast.bus import kafka_end
from holdfast.bus.kafka_security import options
from holdfast.bus.port import MAX_RECORD
from holdfast.errors import Reject, Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.bus.port import Topic
    from holdfast.clock import Clock, Timer
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Kafka

MAX_BATCH: Final = 512 * 1024
"""Bytes of one batch; a broker takes 1 MiB by default."""

_RECORD_OVERHEAD: Final = 64
_BACKOFF: Final = (0.05, 1.0)
_OPEN_STEPS: Final = 3

_NO_HEADERS: Final[list[tuple[str, bytes]]] = []

_log = logging.getLogger(__name__)

_Pending = tuple[float, bytes | None, bytes | None, Any, int, asyncio.Future[int]]
"""Deadline, key, value, headers, size, future."""


class _Lane:
    """One partition: what waits, and the one batch that is on its way."""

    __slots__ = ("flying", "topic", "tp", "waiting")

    def __init__(self, topic: Topic, tp: TopicPartition) -> None:
        self.topic = topic
        self.tp = tp
        self.waiting: deque[_Pending] = deque()
        self.flying: list[_Pending] = []


class KafkaProducer:
    """See `holdfast.bus.port.Producer`."""

    def __init__(
        self, settings: Kafka, deadline: float, metrics: Metrics, clock: Clock, names: dict[Topic, str]
    ) -> None:
        self._settings = settings
        self._deadline = deadline
        self._metrics = metrics
        self._clock = clock
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[Topic, int], _Lane] = {}
        self._ready: dict[_Lane, None] = {}
        self._busy: dict[int | None, int] = {}  # batches on their way, by broker
        self._records = 0
        self._bytes = 0
        self._closed = False
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._sweeper: Timer | None = None
        self._beneath: kafka_end.Producer | None = None
        self._pump: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._released: set[asyncio.Task[None]] = set()
        self._produced = {topic: metrics.bus_produced.labels(topic) for topic in names}
        self._failed = {topic: metrics.bus_produce_failed.labels(topic) for topic in names}
        self._told = 0
        metrics.bus_buffer_records_limit.inc(settings.buffer_records)
        self._task = asyncio.create_task(self._run(), name="kafka producer")

    def produce(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[int]:
        """See `holdfast.bus.port.Producer`."""
        size = record_size(key, value, headers)
        if size > MAX_RECORD:
            self._metrics.bus_too_large.labels(topic).inc()
            raise Reject("too_large", f"a record has {size} bytes; {MAX_RECORD} are possible")
        if self._closed:
            raise Retry("this producer is closed")
        if self._records >= self._settings.buffer_records or self._bytes + size > self._settings.buffer_bytes:
            self._metrics.bus_buffer_full.inc()
            raise Retry("too much is on its way to Kafka already", after=1.0)
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane(topic, TopicPartition(self._names[topic], partition))
        future: asyncio.Future[int] = self._loop.create_future()
        self._records += 1
        self._bytes += size
        due = self._clock.monotonic() + self._deadline
        lane.waiting.append((due, key, value, list(headers) if headers else _NO_HEADERS, size, future))
        if not lane.flying:
            self._ready[lane] = None
            self._notify()
        if self._sweeper is None:
            self._idle.clear()
            self._watch()
        return future

    @property
    def crowded(self) -> bool:
        """See `holdfast.bus.port.Producer`."""
        settings = self._settings
        return 2 * self._records > settings.buffer_records or 2 * self._bytes > settings.buffer_bytes

    async def close(self) -> None:
        """See `holdfast.bus.port.Producer`."""
        self._closed = True
        await self._idle.wait()
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._beneath is not None:
            self._release(self._beneath)
        if self._released:
            await asyncio.wait(self._released)

    def _notify(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        """Keep a producer beneath: open one, send through it until something fails, open the next."""
        backoff = _BACKOFF[0]
        while True:
            beneath = await self._open()
            if beneath is None:
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, _BACKOFF[1])
                continue
            backoff = _BACKOFF[0]
            self._beneath = beneath
            self._busy.clear()
            self._pump = asyncio.create_task(self._send_forever(beneath), name="kafka producer's pump")
            try:
                await asyncio.wait([self._pump])
            finally:
                self._pump.cancel()

    async def _open(self) -> kafka_end.Producer | None:
        """Return a new producer that knows all topics, None when that fails."""
        seconds = max(self._deadline, 1.0)
        beneath = kafka_end.Producer(
            bootstrap_servers=self._settings.servers,
            **options(self._settings),
            acks="all",
            enable_idempotence=True,
            max_batch_size=MAX_BATCH,
            request_timeout_ms=int(seconds * 1000),
        )
        try:
            # Each step has `seconds`; whoever asks a broker that is silent asks the next one then.
            async with asyncio.timeout(_OPEN_STEPS * seconds):
                await beneath.start()
                for name in self._names.values():
                    await beneath.partitions_for(name)
        except asyncio.CancelledError:
            self._release(beneath)
            raise
        except Exception as error:  # noqa: BLE001 - KafkaError, OSError, TimeoutError and more: all one to us
            _log.info("no Kafka producer yet: %r", error)
            self._release(beneath)
            return None
        return beneath

    async def _send_forever(self, beneath: kafka_end.Producer) -> None:
        self._wake = self._loop.create_future()  # the last pump's end may have cancelled the old one
        try:
            while True:
                # Lanes of a broker that has a request of ours are left to fill up until it answers.
                leader = beneath.client.cluster.leader_for_partition
                turn = [
                    (lane, node)
                    for lane in self._ready
                    if not self._busy.get(node := leader(lane.tp)) and not lane.flying
                ]
                for lane, node in turn:
                    del self._ready[lane]
                    await self._send(beneath, lane, node)
                await self._wake
                self._wake = self._loop.create_future()
        except Exception as error:  # noqa: BLE001 - whatever aiokafka raises, what was on its way is unknown
            self._fail(f"Kafka did not take a batch: {error!r}")

    async def _send(self, beneath: kafka_end.Producer, lane: _Lane, node: int | None) -> None:
        batch = beneath.create_batch()
        append, waiting, flying = batch.append, lane.waiting, lane.flying
        now = self._clock.now_ms()
        while waiting:
            record = waiting[0]
            if append(timestamp=now, key=record[1], value=record[2], headers=record[3]) is None:
                break
            flying.append(waiting.popleft())
        batch.close()
        self._busy[node] = self._busy.get(node, 0) + 1
        sent = await beneath.send_batch(batch, lane.tp.topic, partition=lane.tp.partition)
        sent.add_done_callback(functools.partial(self._answered, beneath, lane, node))

    def _answered(
        self, beneath: kafka_end.Producer, lane: _Lane, node: int | None, sent: asyncio.Future[Any]
    ) -> None:
        error = None if sent.cancelled() else sent.exception()
        if beneath is not self._beneath:
            return
        if sent.cancelled() or error is not None:
            self._fail(f"Kafka did not take a batch: {error!r}")
            return
        offset = sent.result().offset
        if offset < 0:
            self._fail("Kafka has this batch already, and does not say where")
            return
        for record in lane.flying:
            if not record[5].done():
                record[5].set_result(offset)
            offset += 1
            self._bytes -= record[4]
        self._records -= len(lane.flying)
        self._produced[lane.topic].inc(len(lane.flying))
        lane.flying.clear()
        self._busy[node] -= 1
        if lane.waiting:
            self._ready[lane] = None
        if self._ready and not self._busy[node]:
            self._notify()

    def _fail(self, why: str) -> None:
        """Fail all that is pending and drop the producer beneath: see invariant 12."""
        beneath, self._beneath = self._beneath, None
        if beneath is not None:
            self._metrics.bus_producer_replaced.inc()
            self._release(beneath)
        if self._pump is not None:
            self._pump.cancel()
        failed: list[_Pending] = []
        for lane in self._lanes.values():
            both = [*lane.flying, *lane.waiting]
            lane.flying = []  # a cancelled `_send` may still hold the old one
            lane.waiting.clear()
            self._failed[lane.topic].inc(len(both))
            failed += both
        self._ready.clear()
        self._records = self._bytes = 0
        _log.warning("%d records on their way to Kafka failed: %s", len(failed), why)
        for record in failed:
            future = record[5]
            if not future.done():
                future.set_exception(Retry(why))
                future.exception()  # looked at: whoever does not wait for it need not be told at exit

    def _watch(self) -> None:
        self._sweeper = self._clock.call_later(min(max(self._deadline / 10, 0.05), 0.5), self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock.monotonic()
        self._metrics.bus_buffer_records.inc(self._records - self._told)
        self._told = self._records
        for lane in self._lanes.values():
            first = lane.flying or lane.waiting
            if first and first[0][0] <= now:
                self._fail(f"Kafka did not answer within {self._deadline:g} s")
                break
        if self._records:
            self._watch()
        else:
            self._idle.set()

    def _release(self, beneath: kafka_end.Producer) -> None:
        task = asyncio.create_task(beneath.end(), name="kafka producer's end")
        self._released.add(task)
        task.add_done_callback(self._released.discard)


def record_size(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    """Return about how many bytes a record takes on its way."""
    size = _RECORD_OVERHEAD + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content) + 8
    return size
