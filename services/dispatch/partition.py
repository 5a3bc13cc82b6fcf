"""One partition's worker: claims its shard, applies what comes, and pushes what follows.

Whatever does not fit (the shard lost writes, is damaged, or the log is another) ends the tenure; the next one
begins at once, with the same token, by finding out where the shard and the log stand (`rebuild`).

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
from holdfast.failures import Failures
from holdfast.log.port import NEW, Batch, Status, Watermark
from holdfast.records import checksum, encode

from .claim import claim
from .outcome import Interpreter, Taken
from .rebuild import Rebuild
from .saver import Saver, Write
from .tidy import Tidy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from holdfast.bus.port import OffsetLost, Producer, Record
    from holdfast.log.port import Applied, LogRecord
    from holdfast.parts import Parts

    from .claim import Claim
    from .feed import Feed, Queue
    from .links import Links
    from .rebuild import Begun

BATCH_BYTES: Final = 1024 * 1024
"""Bytes of values in one apply, about, so that a call stays short and a frame far below its bound."""

FLUSH_SECONDS: Final = 3.0
"""At the end of a tenure: how long to wait for state records. A successor writes again what is missing."""

RETRY_SECONDS: Final = 0.1
LONGEST_RETRY: Final = 2.0

_log = logging.getLogger(__name__)


class _Over(Exception):  # noqa: N818 - not an error: the tenure has ended
    """This tenure is over: `why` is fenced or stopped."""


class _Again(Exception):  # noqa: N818 - not an error: what is known of shard and log does not fit
    """This tenure begins again: `why` it must find out where shard and log stand."""


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
        self._failures = Failures("partition", parts.clock, parts.metrics)
        self._tracing = parts.tracing
        self._owner = owner
        self._feed = feed
        self._links = links
        self._producer = producer
        self._random = random
        self._interpreter = Interpreter(parts.metrics, parts.bus.partitions)
        self._saver = Saver(producer, parts.clock, NEW)
        self._held_until = 0.0
        self._rebuild = Rebuild(
            number, parts, owner=owner, producer=producer, random=random, pause=self._pause
        )
        self._until = NEW
        self._known = NEW
        self._told_upto = NEW
        self._replaying = False
        self._lost_offset = ""
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
                taken = await claim(
                    self._shards,
                    self._clock,
                    self.number,
                    self._owner,
                    takeover=self._settings.takeover,
                    stopping=lambda: self._stopping,
                )
                if taken is not None:
                    await self._tenure(taken)
            except _Again as again:
                _log.warning("partition %d begins again: %s", self.number, again)
                await self._clock.sleep(RETRY_SECONDS * self._random.uniform(0.5, 1.0))
            except _Over as over:
                _log.warning("partition %d: %s", self.number, over)
            except Stop as stop:
                # Nothing this process could do would make it right: say so until somebody does.
                self.refusal = str(stop)
                _log.error("partition %d: %s", self.number, stop)
                await self._clock.sleep(self._settings.takeover)
            except Exception:  # noqa: BLE001 - counted, and the partition starts over
                # Whatever it was, it must not take the other partitions with it.
                self._failures.note()
                self._metrics.dispatch_claims.labels("failed").inc()
                await self._clock.sleep(self._settings.idle)

    # a tenure

    async def _tenure(self, claimed: Claim) -> None:
        self._metrics.dispatch_claims.labels("claimed").inc()
        self.refusal = ""
        if not claimed.kept:
            self._saver.forget()
        begun = await self._rebuild.begin(claimed.state)
        if begun.fenced:
            raise _Over("fenced: another dispatcher holds the token")
        self._begin(begun)
        self._links.break_chains(self.number, "tenure")
        queue = self._feed.open(self.number, begun.position, wake=self._event.set, on_lost=self._lost)
        tidy = Tidy(self._rebuild, self._saver, self._clock, self._random, self._metrics)
        tidying = asyncio.get_running_loop().create_task(tidy.run())
        self.serving = True
        self._metrics.dispatch_partitions.inc()
        _log.info(
            "partition %d: serving from offset %d, rebuilding to %d",
            self.number,
            begun.position,
            begun.until,
        )
        try:
            self._tell()
            await self._serve(queue)
            await self._hand_over()
        finally:
            self.serving = False
            self._replays(NEW)
            self._metrics.dispatch_partitions.dec()
            self._feed.close(self.number)
            tidying.cancel()
            await asyncio.gather(tidying, return_exceptions=True)
            await self._saver.close()

    def _begin(self, begun: Begun) -> None:
        """Take over what a tenure begins with."""
        state = begun.state
        if begun.unjoined:
            self._unjoined(begun.unjoined)
        if state.generation != self.generation:
            self.generation, self._known = state.generation, NEW
        self.carried = state.watermark
        self._known = max(self._known, self.carried.offset)
        if self._known == NEW:
            self._known = begun.until  # which replies were pushed is not known: to nobody they come twice
        self._told_upto = self.carried.offset
        self._held_until = begun.at + self._settings.takeover / 2
        # As a rule the log says again what is not durable yet. Where it is another one, nobody else would.
        unsaved = self._saver.unsaved() if begun.unjoined else ()
        self._saver = Saver(self._producer, self._clock, state.saved, held=self._holds, metrics=self._metrics)
        self._saver.add(NEW, unsaved)
        self._limit = self._settings.fetch
        self._lost_offset = ""
        self._replays(begun.until)
        if not self._replaying and self.carried.offset != NEW:
            self._remember()

    def _holds(self) -> bool:
        """Tell whether nobody can have taken the token: it moved less than half of `takeover` ago."""
        return self._clock.monotonic() < self._held_until

    def _replays(self, until: int) -> None:
        """Note that what comes up to offset `until` is replayed: NEW, nothing."""
        replaying = until > self.carried.offset
        if replaying != self._replaying:
            self._metrics.dispatch_rebuilding.inc(1 if replaying else -1)
        self._until, self._replaying = until, replaying

    def _remember(self) -> None:
        """Write down which generation this is, and a record that it has taken in."""
        record = self._rebuild.generation_record(self.generation, self.carried)
        self._saver.add(self._saver.saved, [Write("state", self.number, record.key.encode(), encode(record))])

    async def _serve(self, queue: Queue) -> None:
        idle = self._settings.idle
        self._told = moved = self._clock.monotonic()
        while not self._stopping:
            self._event.clear()
            if self._lost_offset:
                raise _Again(self._lost_offset)
            now = self._clock.monotonic()
            if now - self._told >= idle:
                if now - moved >= idle:
                    await self._apply(queue, ())
                    moved = now
                    await self._look_for_the_end(queue)
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

    async def _look_for_the_end(self, queue: Queue) -> None:
        """Begin again where a replay has no more to read: the log has become shorter than it was."""
        if self._replaying and not len(queue):
            _, end = await self._rebuild.span()
            if queue.next >= end and not len(queue):
                raise _Again(f"the log ends at {end}, the replay was to reach {self._until}")

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
            last = self._batch((), self.carried)
            await self._shards.apply(self.number, last)
            await self._shards.release(self.number, self._owner)
            self._metrics.dispatch_claims.labels("released").inc()

    # a batch

    def _batch(self, asked: Sequence[LogRecord], last: Watermark) -> Batch:
        now_ms = self._clock.now_ms()
        return Batch(self._owner, self.carried, last, asked, self._saver.saved, now_ms, self.generation)

    async def _apply(self, queue: Queue, records: Sequence[Record]) -> None:
        taken = self._interpreter.take_in(records)
        if self._tracing is not None and not self._replaying:
            taken.follow(self._tracing)
        last = self.carried
        if records:
            record = records[-1]
            last = Watermark(record.offset, record.ts, checksum(record.value or b""))
        applied = await self._applied(taken, last)
        if applied.status == Status.REFUSED and len(records) == 1:
            # Found by halving: this is the record that cannot be decided on.
            spans, taken = taken.spans, self._interpreter.refused(records[0], applied.reason)
            taken.spans = spans
            applied = await self._applied(taken, last)
        if applied.status == Status.APPLIED:
            self._finish(taken, applied, last)
        elif applied.status == Status.FENCED:
            self._metrics.dispatch_claims.labels("lost").inc()
            raise _Over("fenced: another dispatcher holds the token")
        elif applied.status == Status.BEHIND:
            self._metrics.dispatch_rewinds.inc()
            raise _Again(f"the shard fell back from {self.carried.offset} to {applied.found.offset}")
        elif applied.status == Status.DAMAGED:
            raise _Again("a batch was applied in part")
        else:
            _log.warning("partition %d: a batch was refused: %s", self.number, applied.reason)
            queue.put_back(records)
            self._limit = max(1, len(records) // 2)
            if len(records) <= 1:
                await self._pause(RETRY_SECONDS)

    async def _applied(self, taken: Taken, last: Watermark) -> Applied:
        """Apply, again and again while the outcome is unknown: what was applied is skipped then."""
        batch = self._batch(taken.asked, last)
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
                if applied.status == Status.APPLIED:
                    self._held_until = began + self._settings.takeover / 2
                return applied
            delay = await self._pause(delay)

    def _finish(self, taken: Taken, applied: Applied, last: Watermark) -> None:
        found = applied.found
        broken = found != self.carried
        if broken:
            # A lost reply, or somebody was here before: what was pushed for those records is not known.
            self._links.break_chains(self.number, "watermark")
        self._interpreter.interpret(
            taken,
            applied,
            new_after=self._until,
            known=max(self._known, found.offset),
            now_ms=self._clock.now_ms(),
        )
        first = self.carried.offset == NEW != last.offset
        self.carried = found if found.offset > last.offset else last
        self._known = max(self._known, self.carried.offset)
        self._limit = min(self._limit * 2, self._settings.fetch)
        self._saver.add(self.carried.offset, taken.writes)
        if self._replaying and self.carried.offset >= self._until:
            self._replays(NEW)
            self._remember()
            self._links.break_chains(self.number, "replayed")
            broken = True
        elif first and not self._replaying:
            self._remember()  # a generation of no record would be joined by any log
        if not self._replaying:
            self._told_upto = self.carried.offset
            self._links.push(self.number, self.generation, self._told_upto, taken.by_node)
            if broken:
                self._tell()
        elif taken.by_node:
            # Replies: somebody waits for them. What nodes know of the log stays where it was.
            self._links.push(self.number, self.generation, self._told_upto, taken.by_node)
        if taken.spans is not None:
            taken.end_spans(applied)

    def _tell(self) -> None:
        """Let every node know the position."""
        self._told = self._clock.monotonic()
        if not self._replaying:
            self._links.announce(self.number, self.generation, self.carried.offset)

    # when the log and the shard disagree

    def _lost(self, lost: OffsetLost) -> int:
        """Begin again: the log is not what it was."""
        self._lost_offset = str(lost)
        self._links.break_chains(self.number, "offset_lost")
        self._event.set()
        return lost.start

    def _unjoined(self, what: str) -> None:
        """Say loudly that the shard has begun a new generation, from what there is."""
        self.alarm = f"partition {self.number}: the log no longer joins the shard: {what}"
        self._metrics.dispatch_unjoined.inc()
        _log.error(self.alarm)
