"""One partition's worker: claims its shard, applies what comes, and pushes what follows.

Partitions share a consumer, a producer and the links, none of which is ever waited for here by one for
another; all else is this partition's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from holdfast.clock import within
from holdfast.errors import Retry, Stop
from holdfast.log.port import NEW, Batch, Status, Watermark
from holdfast.records import StateRecord, checksum, encode

from .claim import claim
from .outcome import Interpreter, Taken
from .saver import Saver, Write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from holdfast.bus.port import OffsetLost, Producer, Record
    from holdfast.log.port import Applied, ShardState
    from holdfast.parts import Parts

    from .feed import Feed, Queue
    from .links import Links

BATCH_BYTES: Final = 1024 * 1024
"""Bytes of values in one apply, about, so that a call stays short and a frame far below its bound."""

FLUSH_SECONDS: Final = 3.0
"""At the end of a tenure: how long to wait for state records. A successor writes again what is missing."""

RETRY_SECONDS: Final = 0.1
LONGEST_RETRY: Final = 2.0

_log = logging.getLogger(__name__)


class _Over(Exception):  # noqa: N818 - not an error: the tenure has ended
    """This tenure is over: `why` is fenced or stopped."""


class Partition:
    """The worker of one partition."""

    def __init__(
        self,
        number: int,
        parts: Parts,
        *,
        owner: str,
        feed: Feed,
        links: Links,
        producer: Producer,
        random: Random,
    ) -> None:
        self.number = number
        self.generation = ""
        self.carried = Watermark()
        self.serving = False
        self.alarm = ""
        self.refusal = ""
        self._settings = parts.settings.dispatch
        self._clock = parts.clock
        self._shards = parts.log
        self._bus = parts.bus
        self._metrics = parts.metrics
        self._owner = owner
        self._feed = feed
        self._links = links
        self._producer = producer
        self._random = random
        self._interpreter = Interpreter(parts.metrics, parts.bus.partitions)
        self._saver = Saver(producer, parts.clock, NEW)
        self._new_after = NEW
        self._replaying = False
        self._limit = self._settings.fetch
        self._told = 0.0
        self._stopping = False
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work for the partition."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Finish the apply on its way, make its state durable, and release the token."""
        self._stopping = True
        self._event.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    @property
    def position(self) -> tuple[int, str, int] | None:
        """(partition, generation, offset) for nodes; None while there is nothing to tell."""
        if not self.serving or self._replaying:
            return None
        return self.number, self.generation, self.carried.offset

    async def _run(self) -> None:
        while not self._stopping:
            try:
                claimed = await claim(
                    self._shards,
                    self._clock,
                    self.number,
                    self._owner,
                    takeover=self._settings.takeover,
                    random=self._random,
                    stopping=lambda: self._stopping,
                )
                if claimed is not None:
                    await self._tenure(*claimed)
            except _Over as over:
                _log.warning("partition %d: %s", self.number, over)
            except Stop as stop:
                # Nothing this process could do would make it right: say so until somebody does.
                self.refusal = str(stop)
                _log.error("partition %d: %s", self.number, stop)
                await self._clock.sleep(self._settings.takeover)
            except Exception:  # noqa: BLE001 - logged, and the partition starts over
                # Whatever it was, it must not take the other partitions with it.
                _log.exception("partition %d failed, starting over", self.number)
                self._metrics.dispatch_claims.labels("failed").inc()
                await self._clock.sleep(self._settings.idle)

    # a tenure

    async def _tenure(self, before: ShardState, state: ShardState) -> None:
        self._metrics.dispatch_claims.labels("claimed").inc()
        self.refusal = ""
        self.generation = state.generation
        self.carried = state.watermark
        self._saver = Saver(self._producer, self._clock, state.saved)
        self._limit = self._settings.fetch
        position = await self._first_position(state)
        if not before.generation:
            self._saver.add(NEW, [self._generation_record(position)])
        self._links.break_chains(self.number, "tenure")
        queue = self._feed.open(self.number, position, wake=self._event.set, on_lost=self._lost)
        self.serving = True
        self._metrics.dispatch_partitions.inc()
        _log.info("partition %d: serving from offset %d", self.number, position)
        try:
            self._tell()
            await self._serve(queue)
            await self._hand_over()
        finally:
            self.serving = False
            self._metrics.dispatch_partitions.dec()
            self._feed.close(self.number)
            await self._saver.close()

    async def _first_position(self, state: ShardState) -> int:
        start, end = await self._span()
        watermark = state.watermark.offset
        self._new_after, self._replaying = watermark, False
        if watermark == NEW:
            # A shard without a past and a log with one: what is in it now is a replay, or may be one.
            self._new_after, self._replaying = end - 1, end > start
            return start
        if not start <= watermark + 1 <= end:
            self._unjoined(f"the watermark is {watermark}, the log spans {start} to {end}")
            return start
        return max(start, min(state.saved, watermark) + 1)

    async def _span(self) -> tuple[int, int]:
        delay = RETRY_SECONDS
        while True:
            try:
                return (await self._bus.ends("outbound"))[self.number]
            except Retry as error:
                _log.warning("partition %d: the log's ends are not known: %s", self.number, error)
            delay = await self._pause(delay)

    async def _serve(self, queue: Queue) -> None:
        idle = self._settings.idle
        self._told = moved = self._clock.monotonic()
        while not self._stopping:
            self._event.clear()
            now = self._clock.monotonic()
            if now - self._told >= idle:
                if now - moved >= idle:
                    await self._apply(queue, ())
                    moved = now
                self._tell()
            if self._saver.full:
                self._metrics.dispatch_state_waits.inc()
                await self._wait(idle / 10)
                continue
            batch = self._feed.take(queue, self._limit, BATCH_BYTES)
            if batch:
                await self._apply(queue, batch)
                moved = self._clock.monotonic()
            else:
                await self._wait(max(self._told + idle - now, 0.001))

    async def _wait(self, seconds: float) -> None:
        timer = self._clock.call_later(seconds, self._event.set)
        try:
            await self._event.wait()
        finally:
            timer.cancel()

    async def _pause(self, delay: float) -> float:
        """Sleep before a repetition; return the next delay. Raises _Over when there is none to come."""
        if self._stopping:
            raise _Over("stopped while a part is away")
        await self._clock.sleep(delay * self._random.uniform(0.5, 1.0))
        return min(delay * 2, LONGEST_RETRY)

    async def _hand_over(self) -> None:
        with contextlib.suppress(TimeoutError):
            await within(self._clock, FLUSH_SECONDS, self._saver.flush())
        with contextlib.suppress(Retry):
            # The successor starts at `saved`: tell it how far that is.
            last = Batch(self._owner, self.carried, self.carried, (), self._saver.saved, self._clock.now_ms())
            await self._shards.apply(self.number, last)
            await self._shards.release(self.number, self._owner)
            self._metrics.dispatch_claims.labels("released").inc()

    # a batch

    async def _apply(self, queue: Queue, records: Sequence[Record]) -> None:
        taken = self._interpreter.take_in(records)
        last = self.carried
        if records:
            record = records[-1]
            last = Watermark(record.offset, record.ts, checksum(record.value or b""))
        applied = await self._applied(taken, last)
        if applied.status == Status.REFUSED and len(records) == 1:
            # Found by halving: this is the record that cannot be decided on.
            taken = self._interpreter.refused(records[0], applied.reason)
            applied = await self._applied(taken, last)
        if applied.status == Status.APPLIED:
            self._finish(taken, applied, last)
        elif applied.status == Status.FENCED:
            self._metrics.dispatch_claims.labels("lost").inc()
            raise _Over("fenced: another dispatcher holds the token")
        elif applied.status == Status.BEHIND:
            await self._rewind(queue, applied.found)
        else:
            _log.warning("partition %d: a batch was refused: %s", self.number, applied.reason)
            queue.put_back(records)
            self._limit = max(1, len(records) // 2)
            if len(records) <= 1:
                await self._pause(RETRY_SECONDS)

    async def _applied(self, taken: Taken, last: Watermark) -> Applied:
        """Apply, again and again while the outcome is unknown: what was applied is skipped then."""
        batch = Batch(self._owner, self.carried, last, taken.asked, self._saver.saved, self._clock.now_ms())
        self._metrics.dispatch_batch.observe(len(taken.asked))
        delay = RETRY_SECONDS
        while True:
            began = self._clock.monotonic()
            try:
                applied = await self._shards.apply(self.number, batch)
            except Retry as error:
                self._metrics.dispatch_apply_retries.inc()
                _log.warning("partition %d: the outcome of an apply is unknown: %s", self.number, error)
            else:
                self._metrics.dispatch_apply_seconds.observe(self._clock.monotonic() - began)
                return applied
            delay = await self._pause(delay)

    def _finish(self, taken: Taken, applied: Applied, last: Watermark) -> None:
        found = applied.found
        broken = found != self.carried
        if broken:
            # A lost reply, or somebody was here before: what was pushed for those records is not known.
            self._links.break_chains(self.number, "watermark")
        self._interpreter.interpret(taken, applied, new_after=self._new_after, now_ms=self._clock.now_ms())
        self.carried = found if found.offset > last.offset else last
        self._limit = min(self._limit * 2, self._settings.fetch)
        self._saver.add(self.carried.offset, taken.writes)
        if self._replaying and self.carried.offset >= self._new_after:
            self._replaying = False
            self._links.break_chains(self.number, "replayed")
            broken = True
        if not self._replaying:
            self._links.push(self.number, self.generation, self.carried.offset, taken.by_node)
            if broken:
                self._tell()

    def _tell(self) -> None:
        """Let every node know the position."""
        self._told = self._clock.monotonic()
        if not self._replaying:
            self._links.announce(self.number, self.generation, self.carried.offset)

    # when the log and the shard disagree

    async def _rewind(self, queue: Queue, found: Watermark) -> None:
        """Go back to where the shard has lost its writes; nothing that is applied again is shown as new."""
        _log.warning(
            "partition %d: the shard fell back from %d to %d", self.number, self.carried.offset, found.offset
        )
        self._metrics.dispatch_rewinds.inc()
        start, end = await self._span()
        if found.offset != NEW and not start <= found.offset + 1 <= end:
            self._unjoined(f"the watermark fell to {found.offset}, the log spans {start} to {end}")
        self._new_after = max(self._new_after, self.carried.offset)
        self._replaying = True
        self.carried = found
        self._feed.seek(queue, max(start, found.offset + 1))

    def _lost(self, lost: OffsetLost) -> int:
        self._unjoined(str(lost))
        self._links.break_chains(self.number, "offset_lost")
        return lost.start

    def _unjoined(self, what: str) -> None:
        """Go on from what there is, and say so loudly. A new generation of the shard begins here."""
        self.alarm = f"partition {self.number}: the log no longer joins the shard: {what}"
        self._metrics.dispatch_unjoined.inc()
        _log.error(self.alarm)

    def _generation_record(self, position: int) -> Write:
        record = StateRecord("generation", "", "", max(position, 0), self.generation)
        return Write("state", self.number, record.key.encode(), encode(record))
