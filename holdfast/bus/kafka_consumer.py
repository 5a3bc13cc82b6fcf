"""The Kafka consumers: of a group, whose partitions move, and the reader, which is told its partitions.

aiokafka asks a broker for nothing as long as it holds unread records of any of that broker's partitions; so
everything it has is taken at once, what is over the caller's limit is kept here, and a partition that has
enough of it is paused beneath until the caller took it. Each partition's surplus is bounded by one fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from holdfast.bus import kafka_end
from holdfast.bus.kafka_security import options
from holdfast.bus.port import OffsetLost, Record
from holdfast.errors import Retry
from holdfast.tasks import cancelled, take_note

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from holdfast.settings import Kafka

    Ends = Callable[[], Awaitable[Mapping[int, tuple[int, int]]]]
    Moved = Callable[[Sequence[int]], Awaitable[None]]

_CLOSE_SECONDS: Final = 5.0
_GRACE: Final = 0.02
_FETCH_BYTES: Final = 1024 * 1024
_FETCH_WAIT_MS: Final = 200
"""A partition that is resumed or sought waits this long, at most, for the fetch that is on its way."""


class KafkaConsumer:
    """See `holdfast.bus.port.Consumer`."""

    def __init__(self, beneath: AIOKafkaConsumer, name: str, group: str, settings: Kafka, ends: Ends) -> None:
        self._beneath = beneath
        self._name = name
        self._group = group
        self._deadline = settings.deadline
        self._ends = ends
        self._surplus: dict[int, deque[Record]] = {}
        self._held: set[int] = set()
        self._paused: set[int] = set()
        self._mine: set[int] | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._pull: asyncio.Task[Any] | None = None
        # One that took too long is waited for, not cancelled: aiokafka shields the request beneath it, whose
        # failure nobody would ask for then.
        self._commit: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()

    async def fetch(self, max_records: int, timeout: float) -> Mapping[int, Sequence[Record]]:
        """See `holdfast.bus.port.Consumer`."""
        waited = 0.0 if any(p not in self._paused for p in self._surplus) else timeout
        until = self._loop.time() + waited
        if self._pull is None:
            pull = self._beneath.getmany(timeout_ms=int(waited * 1000))
            self._pull = asyncio.create_task(pull, name="kafka consumer's pull")
        # While a group finds its members, aiokafka waits for that, however long it takes: so do not wait for
        # the pull itself. What it brings is taken in the turn in which it ends, or by the next call.
        await asyncio.wait([self._pull], timeout=waited + _GRACE)
        try:
            self._harvest()
        except OffsetOutOfRangeError as error:
            await self._lost(error.args[0])
        except NoOffsetForPartitionError as error:
            partition = error.args[0].partition
            self.seek(partition, (await self._ends())[partition][0])
        except KafkaError as error:
            raise Retry(f"Kafka: {error!r}") from error
        if not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), max(until - self._loop.time(), 0.0))
        return self._take(max_records) if self._settled.is_set() else {}

    def assigned(self) -> Sequence[int]:
        """See `holdfast.bus.port.Consumer`."""
        if self._mine is not None:
            return sorted(self._mine)
        return sorted(tp.partition for tp in self._beneath.assignment())

    def take_all(self, partitions: int) -> None:
        """Become a reader: aiokafka is given all partitions, once and for all, and they are paused.

        Whenever its assignment changes it drops what it was fetching, and with a group id it may stop.
        """
        self._mine = set()
        self._beneath.assign([TopicPartition(self._name, partition) for partition in range(partitions)])
        for partition in range(partitions):
            self.seek(partition, 0)
            self.pause(partition)

    def assign(self, positions: Mapping[int, int]) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if self._mine is None:
            raise ValueError("the group decides what this consumer reads")
        for partition in self._mine - set(positions):
            self.seek(partition, 0)
            self.pause(partition)
        added = set(positions) - self._mine
        self._mine = set(positions)
        for partition, offset in positions.items():
            self.seek(partition, offset)
        for partition in added:
            self.resume(partition)

    def seek(self, partition: int, offset: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._settle_pull()
        self._surplus.pop(partition, None)
        self._let(partition)
        self._beneath.seek(TopicPartition(self._name, partition), offset)

    def pause(self, partition: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._paused.add(partition)
        self._beneath.pause(TopicPartition(self._name, partition))

    def resume(self, partition: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._paused.discard(partition)
        if partition not in self._held:
            self._beneath.resume(TopicPartition(self._name, partition))

    async def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if not self._group:
            raise ValueError("a reader without a group has nowhere to commit to")
        notes = notes or {}
        where = {TopicPartition(self._name, p): (offset, notes.get(p, "")) for p, offset in offsets.items()}
        try:
            async with asyncio.timeout(self._deadline):
                if self._commit is not None:
                    await asyncio.wait({self._commit})
                commit = asyncio.create_task(self._beneath.commit(where), name="kafka consumer's commit")
                commit.add_done_callback(take_note)
                self._commit = commit
                await asyncio.wait({commit})
                commit.result()
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            raise Retry(f"Kafka did not take the commit: {error!r}") from error

    async def close(self) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if self._commit is not None:
            self._commit.cancel()
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.wait([self._pull])
            self._settle_pull()
        await stop(self._beneath)

    def _harvest(self) -> None:
        """Take in what an ended pull brought; raises what it raised."""
        pull = self._pull
        if pull is None or not pull.done():
            return
        self._pull = None
        for tp, records in pull.result().items():
            self._surplus.setdefault(tp.partition, deque()).extend(
                [
                    Record(tp.partition, each.offset, each.timestamp, each.key, each.value, each.headers)
                    for each in records
                ]
            )

    def _settle_pull(self) -> None:
        """Before positions change: what was pulled belongs to the old ones, errors included."""
        with contextlib.suppress(KafkaError, asyncio.CancelledError):
            self._harvest()

    def _take(self, max_records: int) -> dict[int, Sequence[Record]]:
        taken: dict[int, Sequence[Record]] = {}
        for partition, surplus in list(self._surplus.items()):
            if partition not in self._paused:
                if len(surplus) <= max_records:
                    taken[partition] = tuple(surplus)
                    del self._surplus[partition]
                else:
                    taken[partition] = [surplus.popleft() for _ in range(max_records)]
            left = len(self._surplus.get(partition, ()))
            if left >= max_records and partition not in self._held:
                self._held.add(partition)
                self._beneath.pause(TopicPartition(self._name, partition))
            elif left < max_records:
                self._let(partition)
        return taken

    def _let(self, partition: int) -> None:
        if partition in self._held:
            self._held.discard(partition)
            if partition not in self._paused:
                self._beneath.resume(TopicPartition(self._name, partition))

    def _forget(self) -> None:
        self._settle_pull()
        self._surplus.clear()
        self._held.clear()
        self._paused.clear()

    async def _lost(self, positions: Mapping[TopicPartition, int]) -> None:
        ends = await self._ends()
        for tp, position in positions.items():
            start, end = ends[tp.partition]
            if not start <= position <= end:
                raise OffsetLost(tp.partition, position, start, end)


class Moves(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Passes a group's moves on, and keeps records back until whoever reads them knows of the move."""

    def __init__(self, on_assigned: Moved, on_revoked: Moved) -> None:
        self.consumer: KafkaConsumer | None = None
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Take a call of aiokafka; the group waits for its end."""
        if self.consumer is not None:
            self.consumer._settled.clear()
            self.consumer._forget()
        partitions = sorted(tp.partition for tp in revoked)
        if partitions:
            await self._on_revoked(partitions)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Take a call of aiokafka; `fetch` returns nothing before it ends."""
        await self._on_assigned(sorted(tp.partition for tp in assigned))
        if self.consumer is not None:
            self.consumer._settled.set()


def make(settings: Kafka, group: str) -> AIOKafkaConsumer:
    """Return an aiokafka consumer that never chooses a position by itself."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.servers,
        **options(settings),
        group_id=group or None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        request_timeout_ms=int(max(settings.deadline, 1.0) * 1000),
        session_timeout_ms=int(settings.session_timeout * 1000),
        heartbeat_interval_ms=int(settings.session_timeout * 1000 / 4),
        rebalance_timeout_ms=max(int(settings.session_timeout * 1000), 30_000),
    )
    kafka_end.careful(consumer._client)
    return consumer


async def stop(beneath: AIOKafkaConsumer) -> None:
    """Leave the group and close the connections, as far as that is possible in a few seconds.

    aiokafka's own `stop` hangs in an outage, and is cancelled by a task that it cancelled before it began.
    """
    ending = asyncio.create_task(beneath.stop(), name="kafka consumer's end")
    await asyncio.wait([ending], timeout=_CLOSE_SECONDS)
    if ending.done() and not ending.cancelled() and ending.exception() is None:
        return
    await cancelled([ending])
    await kafka_end.end(beneath)
