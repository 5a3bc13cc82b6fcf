"""What a partition must make durable before `saved` may advance: state records, user's groups, dead letters.

It runs beside the partition, so pushes do not wait for it. Everything it writes may be written twice:
state has versions, and a dead letter that comes twice is better than one that does not come. What would not
be harmless is a record of one who was superseded, written after the newer one of a successor (the topic keeps
the last of each key): so it writes only while it is sure that nobody can have taken the token. And a batch
that a producer gave up, this one's or a predecessor's, may be written behind what is newer: what this writes
while that can be, it writes once more after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast.errors import Reject, Retry
from holdfast.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.bus.port import Producer, Topic
    from holdfast.clock import Clock, Timer
    from holdfast.observe.metrics import Metrics

BOUND: Final = 5000
"""Writes that may wait, at most: above it the partition applies nothing until they are durable."""

AT_ONCE: Final = 500
"""Writes given to the producer at once, about."""

LATE: Final = 30.0
"""Seconds after which no batch that a producer gave up is written any more: nobody at the broker has it."""

AGAIN: Final = 5000
"""Keys that are remembered to be written once more, at most: above it the oldest is let go, and counted."""

BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 2.0

_log = logging.getLogger(__name__)


class Write(NamedTuple):
    """One record to be made durable."""

    topic: Topic
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Saver:
    """Makes writes durable in order, again and again until they are. `saved` is the offset reached.

    Nothing is begun to be written unless `held()`: the token cannot be another's yet.
    """

    def __init__(
        self,
        producer: Producer,
        clock: Clock,
        saved: int,
        *,
        held: Callable[[], bool] = lambda: True,
        metrics: Metrics | None = None,
    ) -> None:
        self.saved = saved
        self._failures = Failures("state", clock, metrics)
        self._held = held
        self._producer = producer
        self._clock = clock
        self._waiting: deque[tuple[int, Sequence[Write]]] = deque()
        self._size = 0
        self._touched: set[bytes | None] | None = None
        self._doubt_until = clock.monotonic() + LATE
        self._again: dict[bytes, Write] = {}
        self._timer: Timer | None = None
        self._let_go = metrics.dispatch_state_let_go if metrics is not None else None
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether the bound is reached."""
        return self._size >= BOUND

    def add(self, offset: int, writes: Sequence[Write]) -> None:
        """Everything up to `offset` is saved once these writes, and all before them, are durable."""
        if writes:
            self._waiting.append((offset, writes))
            self._size += len(writes)
            if self._touched is not None:
                self._touched.update(write.key for write in writes)
            for write in writes:
                if write.key is not None:
                    self._again.pop(write.key, None)  # this one comes behind it
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._task is None:
            self.saved = max(self.saved, offset)
        elif self._waiting:
            # Nothing of its own to write: it is saved with what came before it.
            last, before = self._waiting[-1]
            self._waiting[-1] = (max(last, offset), before)

    def watch(self) -> set[bytes | None]:
        """Return the keys of what is not durable yet; those of what is added until `unwatch` join them."""
        self._touched = {write.key for _, writes in self._waiting for write in writes}
        return self._touched

    def unwatch(self) -> None:
        """Note no more keys."""
        self._touched = None

    def unsaved(self) -> list[Write]:
        """Return what is not durable yet, in order."""
        return [write for _, writes in self._waiting for write in writes]

    def forget(self) -> None:
        """Leave what is not durable to whoever had the token since this was closed."""
        self._waiting.clear()
        self._size = 0

    async def flush(self) -> None:
        """Wait until nothing is on its way."""
        while self._task is not None:
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Give up what is on its way: whoever comes next starts from `saved` and writes it again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        try:
            while self._waiting:
                group: list[Write] = []
                entries = 0
                for _, writes in self._waiting:
                    if entries and len(group) + len(writes) > AT_ONCE:
                        break
                    group += writes
                    entries += 1
                await self._write(group)
                for _ in range(entries):
                    # Read again: an entry may have grown in offset meanwhile, though never in writes.
                    offset, writes = self._waiting.popleft()
                    self._size -= len(writes)
                    self.saved = max(self.saved, offset)
        finally:
            self._task = None

    async def _write(self, writes: Sequence[Write]) -> None:
        delay = BACKOFF
        while True:
            if self._held():
                try:
                    failed = await self._try(writes)
                except Exception:  # noqa: BLE001 - counted; what is not durable keeps `saved` where it is
                    self._doubt_until = self._clock.monotonic() + LATE
                    await self._failures.pause()
                    continue
                if failed is None:
                    self._failures.passed()
                    self._remember(writes)
                    return
                self._doubt_until = self._clock.monotonic() + LATE
                _log.warning("state records are not durable yet: %s", failed)
            await self._clock.sleep(delay)
            delay = min(delay * 2, LONGEST_BACKOFF)

    def _remember(self, writes: Sequence[Write]) -> None:
        """Note what must be written once more when nothing older can come behind it any more."""
        if self._clock.monotonic() >= self._doubt_until:
            return
        for write in writes:
            # A cursor is a hint, and the next one is on its way.
            if write.topic == "state" and write.key is not None and not write.key.startswith(b"cursor\0"):
                self._again.pop(write.key, None)
                self._again[write.key] = write
        while len(self._again) > AGAIN:
            del self._again[next(iter(self._again))]
            if self._let_go is not None:
                self._let_go.inc()
        if self._again and self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self._clock.call_later(self._doubt_until - self._clock.monotonic(), self._write_again)

    def _write_again(self) -> None:
        self._timer = None
        if self._clock.monotonic() < self._doubt_until:
            self._look_later()
        elif self._again:
            writes, self._again = list(self._again.values()), {}
            self.add(self.saved, writes)

    async def _try(self, writes: Sequence[Write]) -> Retry | None:
        futures: list[asyncio.Future[int]] = []
        failed: Retry | None = None
        for write in writes:
            try:
                futures.append(self._producer.produce(*write))
            except Retry as full:
                failed = full
                break
            except Reject as reject:
                # To try again would hold up all the rest for ever.
                _log.error("a record for %s cannot be written: %s", write.topic, reject)
        for result in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(result, Retry):
                failed = failed or result
            elif isinstance(result, BaseException):
                _log.error("a state record cannot be written: %s", result, exc_info=result)
        return failed
