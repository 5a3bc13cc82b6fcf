"""The consumer of inbound: fetches, holds back, commits, and handles again what was not durable."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from holdfast.bus.backlog import marks
from holdfast.bus.port import OffsetLost
from holdfast.errors import Retry, Stop
from holdfast.failures import Failures

from .outbox import Withheld
from .partition import Partition
from .recall import recall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.bus.backlog import Backlog
    from holdfast.bus.port import Bus, Consumer, Record
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Settings

    from .outbox import Outbox
    from .runner import Runner

_log = logging.getLogger(__name__)

IDLE: Final = 0.5
"""Seconds that a fetch waits for the first record: how late a commit or a failure is noticed when idle."""

BUSY: Final = 0.01
"""The same while partitions are held back, or while as much is in hand as the producer has room for."""

COMMIT: Final = 1.0
"""Seconds between commits: what a successor handles again, at most, beyond what was unfinished."""

HAND_OVER: Final = 3.0
"""Seconds that runs of a revoked partition have to end before they are abandoned."""

_LONGEST: Final = 5.0


class Worker:
    """One member of the consumer group of logic.

    What is in hand is bounded: a partition with `logic.pending` records unfinished is paused, and nothing is
    fetched while all partitions together hold half of what the producer has room for, or while dispatch is
    far behind with what was put out.

    After any failed output the worker goes back to what is durable, with backoff, and handles everything
    after that again (invariant 12): handler outputs are numbered, so they appear once all the same.
    """

    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        runner: Runner,
        outbound: Backlog,
        *,
        clock: Clock,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._runner = runner
        self._outbound = outbound
        self._waiting = False
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._room = max(settings.kafka.buffer_records // 2, 1)
        self._parts: dict[int, Partition] = {}
        self._consumer: Consumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._failures = 0
        self._unexpected = Failures("consumer", clock, metrics)
        self._committed_at = 0.0
        self.problem = ""

    async def start(self) -> None:
        """Join the group and begin. Raises Retry while the bus is away."""
        self._consumer = await self._bus.join_group(
            "inbound",
            self._settings.kafka.group,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
        )
        self._task = asyncio.get_running_loop().create_task(self._run(self._consumer))

    async def stop(self) -> None:
        """Fetch no more, let runs end (HAND_OVER seconds at most), commit, leave the group."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._consumer is not None:
            await self._revoked(list(self._parts))
            await self._consumer.close()
        await self._runner.stop()

    @property
    def partitions(self) -> Sequence[int]:
        """The partitions that are this worker's now."""
        return sorted(self._parts)

    # the loop

    async def _run(self, consumer: Consumer) -> None:
        again = False
        while not self._stopping:
            try:
                if again or self._runner.broken or self._outbox.failed():
                    await self._again(consumer)
                    again = False
                await self._turn(consumer)
            except Withheld:
                continue
            except OffsetLost as lost:
                _log.error(
                    "records of inbound were gone before they were handled: %s; going on at %d",
                    lost,
                    lost.start,
                )
                self._lose(consumer, lost)
            except Retry as error:
                _log.warning("the bus is away: %s", error)
                await self._clock.sleep(self._delay())
            except Stop as stop:
                _log.error("logic cannot go on: %s", stop)
                self.problem = str(stop)
                return
            except Exception:  # noqa: BLE001 - counted; the worker must go on with what is durable
                self.problem = "the consumer failed, see the log"
                again = True
                await self._unexpected.pause()
            else:
                self._unexpected.passed()

    async def _turn(self, consumer: Consumer) -> None:
        held = self._hold_back(consumer)
        if self._pending() >= self._room:
            await self._clock.sleep(BUSY)
            batches: Mapping[int, Sequence[Record]] = {}
        else:
            batches = await consumer.fetch(self._settings.logic.batch, BUSY if held else IDLE)
        mine = []
        for number, records in batches.items():
            part = self._parts.get(number)
            if part is not None and part.live and not part.closing and records:
                mine.append((part, records))
        fresh = [(part, records[0]) for part, records in mine if part.position is None]
        for part, first in fresh:
            part.position = first.offset
        if fresh:
            await recall(self._bus, self._clock, fresh)
            mine = [(part, records) for part, records in mine if part.live and not part.closing]
        for part, records in mine:
            self._runner.take(part, records)
        for part in self._parts.values():
            if part.settle():
                for arrived in part.timed:
                    age = max(self._clock.now_ms() - arrived, 0) / 1000
                    self._metrics.logic_age_seconds.observe(age)
                part.timed.clear()
                self._failures = 0
                self.problem = ""
        self._metrics.logic_pending.set(self._pending())
        if self._clock.monotonic() - self._committed_at >= COMMIT:
            self._committed_at = self._clock.monotonic()
            await self._commit(consumer, list(self._parts.values()))

    def _pending(self) -> int:
        return sum(len(part.items) for part in self._parts.values())

    def _hold_back(self, consumer: Consumer) -> bool:
        """Pause partitions that have too much unfinished, resume those that have half of it.

        All of them are paused while dispatch is far behind: what handlers put out would only be more for it.
        """
        bound = self._settings.logic.pending
        held, far = False, self._outbound.far
        if far and not self._waiting:
            self._metrics.logic_backlog_waits.inc()
        self._waiting = far
        for part in self._parts.values():
            if not part.paused and (far or len(part.items) >= bound):
                consumer.pause(part.number)
                part.paused = True
                if not far:
                    self._metrics.logic_paused.inc()
            elif part.paused and not far and len(part.items) <= bound // 2:
                consumer.resume(part.number)
                part.paused = False
            held = held or part.paused
        return held

    async def _commit(self, consumer: Consumer, parts: Sequence[Partition]) -> None:
        """Store how far each partition is finished and durable, and who crowds it. Raises Retry."""
        crowding = {part.number: part.crowding(self._settings.logic.share) for part in parts}
        self._metrics.logic_crowding.set(sum(map(len, crowding.values())))
        notes = {number: marks(senders) for number, senders in crowding.items()}
        offsets = {
            part.number: part.position
            for part in parts
            if part.position is not None
            and (part.position, notes[part.number]) != (part.committed, part.noted)
        }
        if not offsets:
            return
        await consumer.commit(offsets, notes)
        for part in parts:
            if part.number in offsets:
                part.committed, part.noted = offsets[part.number], notes[part.number]

    # going back

    async def _again(self, consumer: Consumer) -> None:
        """Fence off everything in hand, and read again from what is durable."""
        self._metrics.logic_rewinds.inc()
        assigned = set(consumer.assigned())
        for number, part in list(self._parts.items()):
            part.settle()
            self._parts[number] = successor = part.again()
            if successor.position is not None and number in assigned:
                consumer.seek(number, successor.position)
        delay = self._delay()
        _log.warning("an output failed; handling again what is not durable, in %.2f s", delay)
        await self._clock.sleep(delay)
        self._outbox.reset()
        self._runner.broken = False

    def _delay(self) -> float:
        self._failures += 1
        backoff = self._settings.logic.backoff * 2.0 ** min(self._failures - 1, 10)
        return min(backoff, _LONGEST) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret

    def _lose(self, consumer: Consumer, lost: OffsetLost) -> None:
        part = self._parts.get(lost.partition)
        if part is not None:
            part.live = False
            self._parts[lost.partition] = Partition(lost.partition, lost.start)
        consumer.seek(lost.partition, lost.start)

    # rebalance

    async def _assigned(self, partitions: Sequence[int]) -> None:
        for number in partitions:
            before = self._parts.get(number)
            if before is not None:
                before.live = False
            self._parts[number] = Partition(number)
        _log.info("partitions assigned: %s", sorted(partitions))

    async def _revoked(self, partitions: Sequence[int]) -> None:
        """Let runs of these partitions end, commit what is durable, and fence off the rest (invariant 8)."""
        parts = [part for number in partitions if (part := self._parts.get(number)) is not None]
        for part in parts:
            part.closing = True
        deadline = self._clock.monotonic() + HAND_OVER
        try:
            while (
                any(part.busy() for part in parts)
                and not self._outbox.failed()
                and self._clock.monotonic() < deadline
            ):
                await self._clock.sleep(BUSY)
            for part in parts:
                part.settle()
            if self._consumer is not None:
                await self._commit(self._consumer, parts)
        except Retry as error:
            _log.warning("the last commit of %s is missing: %s", sorted(partitions), error)
        finally:
            for part in parts:
                part.live = False
                if self._parts.get(part.number) is part:
                    del self._parts[part.number]
        _log.info("partitions revoked: %s", sorted(partitions))
