"""What stands for Kafka in memory: logs and groups, shared by every `MemoryBus` on it.

What may go wrong is set from outside: `away` is an outage, `drop_acks` one in which records are written and
the answers lost, `truncate` and `recreate` what befalls topics.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from holdfast.bus.memory_group import Group
from holdfast.bus.port import TOPICS, Record, Topic
from holdfast.clock import within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.clock import Clock

KEEP: Final = 10_000
"""Records kept of a partition: a cluster in memory may run for weeks."""

_offset: Final = attrgetter("offset")


class Partition:
    """Records in order of their offsets, which may have gaps where the topic is compacted."""

    __slots__ = ("compacted", "end", "records", "start", "ts")

    def __init__(self, compacted: bool) -> None:
        self.compacted = compacted
        self.records: list[Record] = []
        self.start = 0
        self.end = 0
        self.ts = 0

    def read(self, position: int, limit: int) -> list[Record]:
        """Return at most `limit` records from `position` on."""
        first = bisect_left(self.records, position, key=_offset)
        return self.records[first : first + limit]

    def truncate(self, start: int) -> None:
        """Drop what is below offset `start`."""
        self.start = max(self.start, min(start, self.end))
        del self.records[: bisect_left(self.records, self.start, key=_offset)]

    def tidy(self, keep: int) -> None:
        """Drop the oldest records above `keep`, or where compacted, those that a newer one replaced."""
        if len(self.records) < keep * 5 // 4:
            return
        if not self.compacted:
            self.truncate(self.records[-keep].offset)
            return
        newest = {record.key: record for record in self.records}
        self.records = sorted(newest.values(), key=_offset)


class MemoryBroker:
    """What all processes share: topics, groups, and what goes wrong."""

    def __init__(self, partitions: int, clock: Clock, keep: int = KEEP) -> None:
        self.partitions = partitions
        self.clock = clock
        self.keep = keep
        self.drop_acks = False
        self._away = False
        self._stalled: set[Callable[[], None]] = set()
        self._topics: dict[Topic, list[Partition]] = {topic: self._new(topic) for topic in TOPICS}
        self._groups: dict[tuple[str, Topic], Group] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def away(self) -> bool:
        """Whether this is an outage: nothing is written or read, and nobody is told so."""
        return self._away

    @away.setter
    def away(self, away: bool) -> None:
        self._away = away
        if not away:
            stalled, self._stalled = self._stalled, set()
            for call in stalled:
                call()
            self.wake()

    def when_back(self, call: Callable[[], None]) -> None:
        """Make `call` when the outage is over."""
        self._stalled.add(call)

    def partition(self, topic: Topic, partition: int) -> Partition:
        """Return one partition's log."""
        return self._topics[topic][partition]

    def group(self, name: str, topic: Topic) -> Group:
        """Return what is known of a consumer group."""
        return self._groups.setdefault((name, topic), Group(self.partitions, self.wake))

    def append(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> int:
        """Write a record; return its offset."""
        log = self._topics[topic][partition]
        offset = log.end
        log.ts = max(log.ts, self.clock.now_ms())
        log.records.append(Record(partition, offset, log.ts, key, value, tuple(headers)))
        log.end = offset + 1
        log.tidy(self.keep)
        return offset

    def truncate(self, topic: Topic, partition: int, start: int) -> None:
        """Let retention take what is below offset `start`."""
        self._topics[topic][partition].truncate(start)

    def recreate(self, topic: Topic) -> None:
        """Delete a topic and make it again, empty."""
        self._topics[topic] = self._new(topic)

    def wake(self) -> None:
        """Let every waiting consumer look again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def news(self, timeout: float) -> bool:
        """Wait until something was written, at most `timeout` s; tell whether it was."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await within(self.clock, timeout, waiter)
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def _new(self, topic: Topic) -> list[Partition]:
        return [Partition(compacted=topic == "state") for _ in range(self.partitions)]
