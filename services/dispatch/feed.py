"""One consumer for all partitions of this process, and a bounded queue for each.

The consumer is always drained: what nobody takes holds up what comes behind it. A partition whose queue is
full is paused, and holds up no other. All partitions are assigned, once, and those of other dispatchers are
paused too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from holdfast.bus.port import OffsetLost
from holdfast.errors import Retry
from holdfast.failures import forever

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.bus.port import Consumer, Record
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of values in one queue above which its partition is paused."""

FETCH_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)


class Queue:
    """Records of one partition that are fetched and not applied. `wake` is called when some came."""

    def __init__(
        self,
        partition: int,
        position: int,
        *,
        bound: int,
        wake: Callable[[], None],
        on_lost: Callable[[OffsetLost], int],
    ) -> None:
        self.partition = partition
        self.next = position
        self.paused = False
        self.wake = wake
        self.on_lost = on_lost
        self._bound = bound
        self._records: deque[Record] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def full(self) -> bool:
        """Whether another fetch would pass the bound."""
        return len(self._records) > self._bound or self._bytes > QUEUE_BYTES

    @property
    def low(self) -> bool:
        """Whether a paused partition may go on."""
        return 2 * len(self._records) <= self._bound and 2 * self._bytes <= QUEUE_BYTES

    def put(self, records: Sequence[Record]) -> None:
        """Add what was fetched."""
        self._records.extend(records)
        self._bytes += sum(len(record.value or b"") for record in records)
        self.next = records[-1].offset + 1
        self.wake()

    def take(self, limit: int, size: int) -> list[Record]:
        """Remove and return at most `limit` records of about `size` bytes; at least one if there is one."""
        records = self._records
        batch: list[Record] = []
        taken = 0
        while records and len(batch) < limit and taken < size:
            record = records.popleft()
            batch.append(record)
            taken += len(record.value or b"")
        self._bytes -= taken
        return batch

    def put_back(self, batch: Sequence[Record]) -> None:
        """Undo a `take`."""
        self._records.extendleft(reversed(batch))
        self._bytes += sum(len(record.value or b"") for record in batch)

    def clear(self, position: int) -> None:
        """Start again at a position."""
        self._records.clear()
        self._bytes = 0
        self.next = position


class Feed:
    """Hands the consumer's records to the queues of the open partitions. `bound`: records of one queue."""

    def __init__(self, consumer: Consumer, clock: Clock, metrics: Metrics, *, bound: int) -> None:
        self._consumer = consumer
        self._clock = clock
        self._metrics = metrics
        self._at_once = max(1, min(500, bound // 2))
        self._bound = bound - self._at_once
        self._queues: dict[int, Queue] = {}
        self._moved: set[int] = set()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, partitions: int) -> None:
        """Begin to fetch, of `partitions` partitions those that are opened."""
        self._consumer.assign(dict.fromkeys(range(partitions), 0))
        for partition in range(partitions):
            self._consumer.pause(partition)
        self._task = asyncio.get_running_loop().create_task(
            forever("feed", self._fetch, self._clock, self._metrics)
        )

    async def stop(self) -> None:
        """Fetch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def open(
        self,
        partition: int,
        position: int,
        *,
        wake: Callable[[], None],
        on_lost: Callable[[OffsetLost], int],
    ) -> Queue:
        """Read a partition from `position` on. `on_lost` says where to go on when that is not in the log."""
        queue = Queue(partition, position, bound=self._bound, wake=wake, on_lost=on_lost)
        self._queues[partition] = queue
        self._moved.add(partition)
        self._consumer.seek(partition, position)
        self._consumer.resume(partition)
        self._some.set()
        return queue

    def queued(self) -> int:
        """Return the records that wait in the fullest queue."""
        return max(map(len, self._queues.values()), default=0)

    def close(self, partition: int) -> None:
        """Read a partition no more."""
        if self._queues.pop(partition, None) is not None:
            self._moved.add(partition)
            self._consumer.pause(partition)
        if not self._queues:
            self._some.clear()

    def seek(self, queue: Queue, position: int) -> None:
        """Forget what is queued and go on from `position`."""
        queue.clear(position)
        self._moved.add(queue.partition)
        self._consumer.seek(queue.partition, position)
        self._flow(queue)

    def take(self, queue: Queue, limit: int, size: int) -> list[Record]:
        """Take from a queue, and let its partition go on when there is room again."""
        batch = queue.take(limit, size)
        if queue.paused:
            self._flow(queue)
        return batch

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Store how far partitions are applied, for who looks at the backlog. Raises Retry."""
        open_now = {p: offset for p, offset in offsets.items() if p in self._queues}
        if open_now:
            await self._consumer.commit(open_now)

    def _flow(self, queue: Queue) -> None:
        if queue.paused and queue.low:
            queue.paused = False
            self._consumer.resume(queue.partition)
        elif not queue.paused and queue.full:
            queue.paused = True
            self._metrics.dispatch_queue_full.inc()
            self._consumer.pause(queue.partition)

    async def _fetch(self) -> None:
        await self._some.wait()
        self._moved.clear()
        try:
            fetched = await self._consumer.fetch(self._at_once, FETCH_SECONDS)
            self._put(fetched)
        except OffsetLost as lost:
            queue = self._queues.get(lost.partition)
            if queue is not None and lost.partition not in self._moved:
                self.seek(queue, queue.on_lost(lost))
            else:
                await self._clock.sleep(RETRY_SECONDS)
        except Retry as error:
            _log.warning("fetching failed: %s", error)
            await self._clock.sleep(RETRY_SECONDS)
        except Exception:
            # What this fetch brought may be in queues in part: it is fetched again from there on.
            for queue in self._queues.values():
                self._consumer.seek(queue.partition, queue.next)
            raise

    def _put(self, fetched: Mapping[int, Sequence[Record]]) -> None:
        for partition, records in fetched.items():
            queue = self._queues.get(partition)
            if queue is None or not records:
                continue
            if partition in self._moved:
                # The position moved while this fetch was on its way: it may be from before.
                self._consumer.seek(partition, queue.next)
                continue
            queue.put(records)
            self._flow(queue)
