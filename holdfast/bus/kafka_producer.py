"""The Kafka producer: records of one loop turn travel together, and a failure ends all that was on its way.

What a record costs is mostly its share of a request, so records wait for nothing but a request that is
already on its way to the same broker, and what came meanwhile goes into the next one, of all partitions
together. A partition has one batch on its way at most: what is queued behind it dies with it (invariant 12).
A batch that was sent and failed may have used up its numbers; so one sweep watches the deadlines, and after
any failure the sender beneath (`kafka_sender`) is replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition

from holdfast.bus.kafka_sender import AGAIN, Sender
from holdfast.bus.port import MAX_RECORD
from holdfast.errors import Reject, Retry
from holdfast.tasks import cancelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.bus.kafka_sender import Batch, Pending
    from holdfast.bus.port import Topic
    from holdfast.clock import Clock, Timer
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Kafka

_RECORD_OVERHEAD: Final = 64
_BACKOFF: Final = (0.05, 1.0)
_OPEN_STEPS: Final = 3

_AGAIN_SECONDS: Final = 0.1
"""Until a batch is sent again that a broker could not take, or whose partition has no leader."""

_NO_HEADERS: Final[list[tuple[str, bytes]]] = []

_log = logging.getLogger(__name__)


class _Lane:
    """One partition: what waits, and the one batch that is on its way.

    `busy`: it is ready to be sent, is being sent, or waits until it may be sent again.
    """

    __slots__ = ("batch", "busy", "topic", "tp", "waiting")

    def __init__(self, topic: Topic, tp: TopicPartition) -> None:
        self.topic = topic
        self.tp = tp
        self.waiting: deque[Pending] = deque()
        self.batch: Batch | None = None
        self.busy = False


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
        self._ready: list[_Lane] = []
        self._behind: dict[int, list[_Lane]] = {}  # by broker that is busy: who is ready after
        self._flushing = False
        self._records = 0
        self._bytes = 0
        self._closed = False
        self._sweeper: Timer | None = None
        self._sender: Sender | None = None
        self._failure = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
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
        if not lane.busy:
            lane.busy = True
            self._ready.append(lane)
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
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
        if self._sender is not None:
            self._release(self._sender)
            self._sender = None
        if self._released:
            await asyncio.wait(self._released)

    async def _run(self) -> None:
        """Keep a sender beneath: open one, send by it until something fails, open the next."""
        backoff = _BACKOFF[0]
        while True:
            sender = await self._open()
            if sender is None:
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, _BACKOFF[1])
                continue
            backoff = _BACKOFF[0]
            self._sender = sender
            self._failure.clear()
            self._flush()
            await self._failure.wait()

    async def _open(self) -> Sender | None:
        """Return a new sender that knows all topics, None when that fails."""
        seconds = max(self._deadline, 1.0)
        sender = Sender(self._settings, seconds)
        try:
            # Each step has `seconds`; whoever asks a broker that is silent asks the next one then.
            async with asyncio.timeout(_OPEN_STEPS * seconds):
                await sender.start(list(self._names.values()))
        except asyncio.CancelledError:
            self._release(sender)
            raise
        except Exception as error:  # noqa: BLE001 - KafkaError, OSError, TimeoutError and more: all one to us
            _log.info("no Kafka producer yet: %r", error)
            self._release(sender)
            return None
        return sender

    def _flush(self) -> None:
        """Send what is ready. Lanes of a broker that has a request of ours fill up until it has answered."""
        self._flushing = False
        sender = self._sender
        if sender is None:
            return
        ready, self._ready = self._ready, []
        turn: dict[int, list[_Lane]] = {}
        homeless: list[_Lane] = []
        for lane in ready:
            broker = sender.leader(lane.tp)
            if broker is None:
                homeless.append(lane)
            elif broker in self._behind:
                self._behind[broker].append(lane)
            else:
                turn.setdefault(broker, []).append(lane)
        if homeless:
            sender.look_again()
            self._later(sender, homeless)
        for broker, lanes in turn.items():
            self._behind[broker] = []
            request = self._loop.create_task(self._request(sender, broker, lanes))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _request(self, sender: Sender, broker: int, lanes: Sequence[_Lane]) -> None:
        """Send a batch of each lane, and take the answer, unless all of it has failed meanwhile."""
        try:
            if sender is not self._sender:
                return
            now = self._clock.now_ms()
            batches = []
            for lane in lanes:
                if lane.batch is None:
                    lane.batch = sender.batch(lane.tp, lane.waiting, now)
                batches.append(lane.batch)
            offsets = await sender.send(broker, batches)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was on its way is unknown
            if sender is self._sender:
                self._fail(f"Kafka did not take a batch: {error!r}")
            return
        if sender is not self._sender:
            return
        self._ready += self._behind.pop(broker)
        again = []
        for lane, batch, offset in zip(lanes, batches, offsets, strict=True):
            if offset == AGAIN:
                again.append(lane)
                continue
            self._settle(lane.topic, batch, offset)
            lane.batch = None
            lane.busy = bool(lane.waiting)
            if lane.busy:
                self._ready.append(lane)
        if again:
            self._later(sender, again)
        if self._ready:
            self._flush()

    def _later(self, sender: Sender, lanes: Sequence[_Lane]) -> None:
        """Let lanes be ready again in a moment, unless all that waits has failed by then."""

        def ready() -> None:
            if sender is self._sender:
                self._ready += lanes
                self._flush()

        self._clock.call_later(_AGAIN_SECONDS, ready)

    def _settle(self, topic: Topic, batch: Batch, offset: int) -> None:
        for record in batch.records:
            future = record[5]
            if not future.done():
                future.set_result(offset)
            offset += 1
            self._bytes -= record[4]
        self._records -= len(batch.records)
        self._produced[topic].inc(len(batch.records))

    def _fail(self, why: str) -> None:
        """Fail all that is pending and drop the sender: see invariant 12."""
        sender, self._sender = self._sender, None
        if sender is not None:
            self._metrics.bus_producer_replaced.inc()
            self._release(sender)
        self._failure.set()
        self._behind.clear()
        failed: list[Pending] = []
        for lane in self._lanes.values():
            both = [*(lane.batch.records if lane.batch else ()), *lane.waiting]
            lane.batch = None
            lane.busy = False
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
            first = lane.batch.records if lane.batch else lane.waiting
            if first and first[0][0] <= now:
                self._fail(f"Kafka did not answer within {self._deadline:g} s")
                break
        if self._records:
            self._watch()
        else:
            self._idle.set()

    def _release(self, sender: Sender) -> None:
        task = asyncio.create_task(self._end(sender, list(self._requests)), name="kafka producer's end")
        self._released.add(task)
        task.add_done_callback(self._released.discard)

    @staticmethod
    async def _end(sender: Sender, requests: Sequence[asyncio.Task[None]]) -> None:
        await cancelled(requests)
        await sender.end()


def record_size(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> int:
    """Return about how many bytes a record takes on its way."""
    size = _RECORD_OVERHEAD + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content) + 8
    return size
