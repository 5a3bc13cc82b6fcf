"""The Kafka consumers: of a group, whose partitions move, and the reader, which is told its partitions.

`kafka_poll` fetches, a thread of its own; here, in the loop, is what came and nobody has taken yet. What was
fetched before a position moved may come after that: it is told by the number of orders that the thread had
carried out by then. Records that wait are at most two handfuls (`HANDFUL`), and one of each paused partition.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from holdfast.bus.kafka_poll import HANDFUL, Poll
from holdfast.bus.port import OffsetLost
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.bus.kafka_poll import Broken
    from holdfast.bus.port import Record
    from holdfast.settings import Kafka

    Ends = Callable[[], Awaitable[Mapping[int, tuple[int, int]]]]
    Moved = Callable[[Sequence[int]], Awaitable[None]]

_CLOSE_SECONDS: Final = 5.0


class KafkaConsumer:
    """See `holdfast.bus.port.Consumer`. `ends` tells how far the topic's logs reach."""

    def __init__(
        self, settings: Kafka, topic: str, group: str, ends: Ends, moves: tuple[Moved, Moved] | None = None
    ) -> None:
        """Make a member of a group with `moves` (assigned, revoked), a reader without. Raises Stop."""
        self._poll = Poll(settings, topic, group, self, member=moves is not None)
        # A commit waits for the group's coordinator, and polls wait for the commit. A member would lose its
        # partitions without a coordinator anyway; a reader has a client of its own for it, and reads on.
        own = bool(group) and moves is None
        self._committer = Poll(settings, topic, group, self, member=False) if own else self._poll
        self._polls = {self._poll, self._committer}
        self._group = group
        self._moves = moves
        self._deadline = settings.deadline
        self._ends = ends
        self._surplus: dict[int, deque[Record]] = {}
        self._waiting = 0  # records of partitions that are not paused
        self._came = 0  # records that the thread does not know to be gone
        self._paused: set[int] = set()
        self._next: dict[int, int] = {}
        self._moved_at: dict[int, int] = {}
        self._failures: dict[int, Broken] = {}
        self._mine: set[int] = set()
        self._news = asyncio.Event()
        self._commit: asyncio.Future[None] | None = None
        self._joined = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def start(self, seconds: float) -> None:
        """Connect, and as a member wait for the first partitions, `seconds` at most.

        Raises TimeoutError, and KafkaException.
        """
        for poll in self._polls:
            poll.start()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(poll.started for poll in self._polls))
                if self._moves is not None:
                    await self._joined.wait()
        except BaseException:
            await self.close()
            raise

    async def fetch(self, max_records: int, timeout: float) -> Mapping[int, Sequence[Record]]:
        """See `holdfast.bus.port.Consumer`."""
        if not self._waiting and self._failing() is None:
            self._make_room()  # what waited may have been paused since
            self._news.clear()
            timer = self._loop.call_later(timeout, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()
        if (failure := self._failing()) is not None:
            await self._raise(failure)
        taken = self._take(max_records) if self._waiting else {}
        self._make_room()
        return taken

    def assigned(self) -> Sequence[int]:
        """See `holdfast.bus.port.Consumer`."""
        return sorted(self._mine)

    def assign(self, positions: Mapping[int, int]) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if self._moves is not None:
            raise ValueError("the group decides what this consumer reads")
        for partition in self._mine - set(positions):
            self._forget(partition)
            self._poll.drop(partition)
            self.resume(partition)
            self._moved_at[partition] = self._poll.orders
        self._mine = set(positions)
        for partition, offset in positions.items():
            self.seek(partition, offset)

    def seek(self, partition: int, offset: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._forget(partition)
        self._next[partition] = offset
        self._poll.move(partition, offset)
        self._moved_at[partition] = self._poll.orders

    def pause(self, partition: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if partition not in self._paused:
            self._paused.add(partition)
            self._waiting -= len(self._surplus.get(partition, ()))
            self._poll.pause(partition)

    def resume(self, partition: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if partition in self._paused:
            self._paused.discard(partition)
            self._waiting += len(self._surplus.get(partition, ()))
            self._poll.resume(partition)
            if self._waiting:
                self._news.set()

    async def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if not self._group:
            raise ValueError("a reader without a group has nowhere to commit to")
        try:
            async with asyncio.timeout(self._deadline):
                # One that took too long may still be carried out: an older place must never come last.
                while self._commit is not None and not self._commit.done():
                    await asyncio.wait({self._commit})
                commit = self._commit = self._committer.commit(offsets, notes or {})
                await asyncio.wait({commit})
                commit.result()
        except (KafkaException, TimeoutError) as error:
            raise Retry(f"Kafka did not take the commit: {error!r}") from error

    async def close(self) -> None:
        """See `holdfast.bus.port.Consumer`."""
        for poll in self._polls:
            poll.close()
        await asyncio.wait({poll.ended for poll in self._polls}, timeout=_CLOSE_SECONDS)

    # what the thread tells

    def handed(self, records: Sequence[Record], failures: Sequence[Broken], orders: int) -> None:
        """See `Owner`."""
        surplus, moved_at = self._surplus, self._moved_at
        for record in records:
            partition = record.partition
            if moved_at.get(partition, 0) > orders:
                continue
            waiting = surplus.get(partition)
            if waiting is None:
                waiting = surplus[partition] = deque()
            waiting.append(record)
            self._next[partition] = record.offset + 1
            if partition not in self._paused:
                self._waiting += 1
        for failure in failures:
            if moved_at.get(failure.partition, 0) <= orders:
                self._failures[failure.partition] = failure
        self._came += len(records)
        if self._waiting or self._failures:
            self._news.set()

    def reopened(self) -> None:
        """See `Owner`."""
        for partition in self._mine:
            self._poll.move(partition, self._next[partition])
            self._moved_at[partition] = self._poll.orders
        for partition in self._paused:
            self._poll.pause(partition)

    async def revoked(self, partitions: Sequence[int]) -> None:
        """See `Owner`."""
        self._let_go(partitions)
        self._mine -= set(partitions)
        if self._moves is not None and partitions:
            await self._moves[1](partitions)

    async def assigned_to(self, partitions: Sequence[int]) -> None:
        """See `Owner`."""
        self._let_go(partitions)
        self._mine |= set(partitions)
        if self._moves is not None:
            await self._moves[0](partitions)
        self._joined.set()

    def _let_go(self, partitions: Sequence[int]) -> None:
        """Know nothing of partitions any more."""
        for partition in partitions:
            self._forget(partition)
            self._paused.discard(partition)

    def _make_room(self) -> None:
        """Let more come for what was taken, forgotten or paused since."""
        gone = self._came - self._waiting
        if gone >= HANDFUL // 2:
            self._came -= gone
            self._poll.gone(gone)

    def _forget(self, partition: int) -> None:
        """Drop what is known of a partition's position, and what came of it."""
        waiting = self._surplus.pop(partition, None)
        if waiting and partition not in self._paused:
            self._waiting -= len(waiting)
        self._failures.pop(partition, None)

    def _take(self, max_records: int) -> dict[int, Sequence[Record]]:
        taken: dict[int, Sequence[Record]] = {}
        for partition, waiting in list(self._surplus.items()):
            if partition in self._paused or not waiting:
                continue
            if len(waiting) <= max_records:
                taken[partition] = tuple(waiting)
                del self._surplus[partition]
            else:
                taken[partition] = [waiting.popleft() for _ in range(max_records)]
            self._waiting -= len(taken[partition])
        return taken

    def _failing(self) -> Broken | None:
        for partition, failure in self._failures.items():
            if partition not in self._paused:
                return failure
        return None

    async def _raise(self, failure: Broken) -> None:
        """Tell of a partition that cannot be read, of a lost position until another one is sought."""
        partition = failure.partition
        if not failure.lost:
            del self._failures[partition]  # librdkafka goes on to try
            raise Retry(f"Kafka: {failure}")
        start, end = (await self._ends())[partition]
        if not start <= failure.position <= end:
            raise OffsetLost(partition, failure.position, start, end)
        if self._failures.get(partition) is failure:
            self.seek(partition, failure.position)
