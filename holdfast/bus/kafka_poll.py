"""The thread beneath a Kafka consumer: what waits for librdkafka, outside of the loop.

librdkafka fetches in threads of its own, and is waited for in C. The loop gives orders, which are carried out
one after the other between two polls; what a poll brought is handed over with the number of orders that were
carried out before it, so that the loop can tell what was fetched before it moved a position from what came
after. The thread waits when it is a handful ahead of what the loop said to be gone. That is said by the half
handful: a word for each made logic and dispatch 7 and 10 % dearer at 1,000 messages a second.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from holdfast.bus.kafka_security import Librdkafka
from holdfast.bus.port import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from confluent_kafka import KafkaError

    from holdfast.settings import Kafka

    Order = Callable[[Consumer], None]

HANDFUL: Final = 1000
"""Records handed over at a time, at most; besides, librdkafka holds `_QUEUE_KIB`."""

_QUEUE_KIB: Final = 8 * 1024
_FETCH_WAIT_MS: Final = 200
_REST_SECONDS: Final = 0.2
_POLL_SECONDS: Final = 0.05
"""An order waits for the poll that is on its way: so long where nothing comes."""

_MEMBER_SECONDS: Final = 60.0
"""A member that does not ask for records for so long is taken for dead by its group."""

_log = logging.getLogger(__name__)


class Broken(Exception):  # noqa: N818 - what a partition's fetch failed with
    """librdkafka reads a partition no further: `lost` because its position is not in the log."""

    def __init__(self, error: KafkaError, partition: int, position: int) -> None:
        super().__init__(error.str())
        self.lost = error.name() == "_AUTO_OFFSET_RESET"
        self.partition = partition
        self.position = position


class Owner(Protocol):
    """Whom a `Poll` works for. All of it is called in the loop."""

    def handed(self, records: Sequence[Record], failures: Sequence[Broken], orders: int) -> None:
        """Take what came after so many orders were carried out."""

    def reopened(self) -> None:
        """Order again what is to be read: the consumer beneath is a new one, which knows nothing."""

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Let go of partitions. The group waits for the end of it."""

    async def assigned_to(self, partitions: Sequence[int]) -> None:
        """Take over partitions. Nothing of them is handed over before the end of it."""


class Poll:
    """Reads one topic, in a group or as it is told. Made in the loop; `orders` counts those given."""

    def __init__(self, settings: Kafka, topic: str, group: str, owner: Owner, *, member: bool) -> None:
        self._topic = topic
        self.orders = 0
        self._member = member
        self._owner = owner
        self._librdkafka = Librdkafka(settings)
        self._config = _config(settings, group)
        self._connect_seconds = max(settings.deadline, 1.0)
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[int, Order] | None] = queue.SimpleQueue()
        self._carried_out = 0
        self._ahead = 0
        self._closing = False
        self._reading: set[int] = set()
        self._leaving = False
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"kafka consumer of {topic}", daemon=True)

    # in the loop

    def start(self) -> None:
        """Begin; `started` ends when Kafka has answered, or with KafkaException."""
        self._thread.start()

    def gone(self, records: int) -> None:
        """Tell that so many of the records handed over wait no more."""
        self._queue.put((0, lambda _: self._gone(records)))

    def move(self, partition: int, offset: int) -> None:
        """Read a partition from `offset` on."""
        self._order(lambda consumer: self._moved(consumer, partition, offset))

    def drop(self, partition: int) -> None:
        """Read a partition no more."""
        self._order(lambda consumer: self._dropped(consumer, partition))

    def pause(self, partition: int) -> None:
        """Fetch no more of a partition."""
        self._order(lambda consumer: consumer.pause([TopicPartition(self._topic, partition)]))

    def resume(self, partition: int) -> None:
        """Undo `pause`."""
        self._order(lambda consumer: consumer.resume([TopicPartition(self._topic, partition)]))

    def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str]) -> asyncio.Future[None]:
        """Store offsets with notes. The future fails with KafkaException.

        What is ordered after it, and polls, wait for its end: as long as the group's coordinator hangs. To
        wait for that in another thread is of no use, since confluent-kafka lets in one at a time.
        """
        where = []
        for partition, offset in offsets.items():
            note = notes.get(partition)
            more = {"metadata": note} if note else {}
            where.append(TopicPartition(self._topic, partition, offset, **more))  # type: ignore[arg-type]
        done: asyncio.Future[None] = self._loop.create_future()
        self._order(lambda consumer: self._commit(consumer, where, done))
        return done

    def close(self) -> None:
        """Begin to end; `ended` is when the group is left and everything is released."""
        self._closing = True
        self._queue.put(None)

    def _order(self, order: Order) -> None:
        self.orders += 1
        self._queue.put((self.orders, order))

    # in the thread: of what waits for it, what has a number is an order

    def _run(self) -> None:
        while not self._closing:
            try:
                self._session()
            except Exception as error:  # noqa: BLE001 - whatever it was, there must be somebody who reads
                if not self.started.done():
                    self._closing = True
                    self._tell(_settle, self.started, error)
                elif not self._closing:
                    _log.warning("the consumer of %s is made again: %r", self._topic, error)
                    time.sleep(_REST_SECONDS)
        self._tell(_settle, self.ended, None)

    def _session(self) -> None:
        """Use one consumer, for as long as its certificates are those that we have."""
        config = {**self._config, **self._librdkafka.options(), "error_cb": self._librdkafka.failed}
        consumer = Consumer(config, logger=self._librdkafka.logger)
        self._leaving = False
        try:
            if not self.started.done():
                self._connect(consumer)
            if self._reading:
                self._reading.clear()
                self._tell(self._owner.reopened)
            if self._member:
                consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=self._revoke)
            while not self._closing and not self._librdkafka.stale:
                self._turn(consumer)
            if self._member:
                self._revoke(consumer, consumer.assignment())
        finally:
            self._leaving = True
            consumer.close()

    def _connect(self, consumer: Consumer) -> None:
        consumer.list_topics(self._topic, timeout=self._connect_seconds)
        self._tell(_settle, self.started, None)

    def _turn(self, consumer: Consumer) -> None:
        while self._ahead >= HANDFUL or not self._queue.empty():
            if not self._serve(consumer):
                return
        message = consumer.poll(_POLL_SECONDS)
        if message is None:
            return
        records, failures = [], []
        for each in (message, *consumer.consume(HANDFUL - 1, 0.0)):
            error = each.error()
            if error is None:
                records.append(_record(each))
            elif (partition := each.partition()) is not None and partition >= 0:
                failures.append(Broken(error, partition, each.offset() or 0))
            else:
                self._librdkafka.failed(error)
        if records or failures:
            self._ahead += len(records)
            self._tell(self._owner.handed, records, failures, self._carried_out)

    def _serve(self, consumer: Consumer) -> bool:
        """Wait for an order and carry it out. False: none is to be waited for."""
        waiting = self._queue.get()
        if waiting is None:
            return False
        number, order = waiting
        self._carried_out = number or self._carried_out
        try:
            order(consumer)
        except KafkaException as error:
            _log.warning("librdkafka refused an order about %s: %r", self._topic, error)
        return True

    def _gone(self, records: int) -> None:
        self._ahead -= records

    def _moved(self, consumer: Consumer, partition: int, offset: int) -> None:
        place = TopicPartition(self._topic, partition, offset)
        if self._member:
            consumer.seek(place)
            return
        self._dropped(consumer, partition)
        consumer.incremental_assign([place])
        self._reading.add(partition)

    def _dropped(self, consumer: Consumer, partition: int) -> None:
        if partition in self._reading:
            self._reading.discard(partition)
            consumer.incremental_unassign([TopicPartition(self._topic, partition)])

    def _commit(self, consumer: Consumer, where: list[TopicPartition], done: asyncio.Future[None]) -> None:
        wrong: KafkaException | None = None
        try:
            for place in consumer.commit(offsets=where, asynchronous=False):
                if place.error is not None:
                    wrong = KafkaException(place.error)
        except KafkaException as refused:
            wrong = refused
        self._tell(_settle, done, wrong)

    def _revoke(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self._move(consumer, self._owner.revoked(sorted(place.partition for place in places)))

    def _assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Begin where the group is; at the start of the log where it has committed nothing."""
        while not self._closing:
            try:
                found = consumer.committed(places, timeout=self._connect_seconds)
                for place in found:
                    if place.error is not None:
                        raise KafkaException(place.error)  # noqa: TRY301 - both are one to us
                    if place.offset < 0:
                        place.offset = OFFSET_BEGINNING
            except KafkaException as error:
                self._librdkafka.failed(error.args[0])
                time.sleep(_REST_SECONDS)
                continue
            consumer.assign(found)
            if found:
                consumer.resume(found)  # it remembers who was paused when they were ours before
            self._move(consumer, self._owner.assigned_to(sorted(place.partition for place in places)))
            return

    def _move(self, consumer: Consumer, coroutine: Coroutine[Any, Any, None]) -> None:
        """Wait until the loop has taken note of a move, and carry out what it orders meanwhile."""
        if self._closing or self._leaving:  # `close` moves, too: nobody waits for that
            coroutine.close()
            return
        moved = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        moved.add_done_callback(lambda _: self._queue.put((0, lambda _: None)))
        while not moved.done() and self._serve(consumer):
            pass
        if moved.done() and not moved.cancelled() and (error := moved.exception()) is not None:
            _log.error("who reads %s did not take a move", self._topic, exc_info=error)

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody is there any more
            self._closing = True


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # looked at: whoever gave up need not be told at exit


def _record(message: Any) -> Record:
    headers = message.headers()
    return Record(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(headers) if headers else (),
    )


def _config(settings: Kafka, group: str) -> dict[str, Any]:
    """Return librdkafka's settings: it never chooses a position by itself, and holds little."""
    milliseconds = int(settings.session_timeout * 1000)
    return {
        "bootstrap.servers": settings.servers,
        "client.id": "holdfast",
        "group.id": group or settings.group,  # it wants one; a reader without a group stores nothing
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_uncommitted",
        "check.crcs": True,
        "partition.assignment.strategy": "roundrobin",
        "session.timeout.ms": milliseconds,
        "heartbeat.interval.ms": milliseconds // 4,
        "max.poll.interval.ms": max(int(_MEMBER_SECONDS * 1000), milliseconds),
        "fetch.wait.max.ms": _FETCH_WAIT_MS,
        "fetch.max.bytes": _QUEUE_KIB * 1024 // 2,
        "fetch.queue.backoff.ms": 10,
        "fetch.error.backoff.ms": 100,
        "queued.min.messages": 2 * HANDFUL,
        "queued.max.messages.kbytes": _QUEUE_KIB,
        "socket.timeout.ms": int(max(settings.deadline, 2.0) * 1000),
        "socket.connection.setup.timeout.ms": int(max(settings.deadline, 1.0) * 1000),
        "reconnect.backoff.max.ms": 1000,
        "log.connection.close": False,
        "enable.metrics.push": False,
    }
