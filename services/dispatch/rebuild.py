"""Between a claimed token and serving: whether the log still joins the shard, and what must be rebuilt.

Each tenure begins here. An empty or damaged shard gets its facts from the state topic, and its logs from as
far back as any channel keeps them; where the log is not the one it has taken in, a new generation begins.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from holdfast.bus.port import OffsetLost
from holdfast.errors import Retry
from holdfast.log.port import MAX_BATCH, NEW, WINDOW_MS, Watermark
from holdfast.log.rules import idle_limit
from holdfast.policy import Policy
from holdfast.records import StateRecord, checksum, decode_state, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from random import Random

    from holdfast.bus.port import Producer, Record, Topic
    from holdfast.log.port import ShardState
    from holdfast.parts import Parts

FETCH_SECONDS: Final = 0.5

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Begun(NamedTuple):
    """Where a tenure begins: records from `position` on are read, those up to offset `until` are replays.

    `unjoined` says why the shard begins a new generation, "" where it does not. `fenced`: the token is gone.
    `at` (s, monotonic): the token was moved after this.
    """

    state: ShardState
    position: int
    until: int
    unjoined: str
    at: float
    fenced: bool = False


class Rebuild:
    """Begins the tenures of one partition. `pause(delay)` sleeps and returns the next delay, or raises."""

    def __init__(
        self,
        number: int,
        parts: Parts,
        *,
        owner: str,
        producer: Producer,
        random: Random,
        pause: Callable[[float], Awaitable[float]],
    ) -> None:
        self.number = number
        self._owner = owner
        self._producer = producer
        self._random = random
        self._pause = pause
        self._clock = parts.clock
        self._log = parts.log
        self._bus = parts.bus
        self._rebuilds = parts.metrics.dispatch_rebuilds
        policies = (Policy(), *parts.settings.policies().values())
        # Two windows more than is kept: a repetition of what came before the replay is taken for new, but it
        # is then older than what any channel keeps, and shown to nobody.
        longest = max(idle_limit(policy.keep_seconds * 1000) for policy in policies)
        self.reach_ms = longest + 2 * WINDOW_MS

    async def span(self, topic: Topic = "outbound") -> tuple[int, int]:
        """Return the first offset and the end of the partition's log."""
        return (await self._done(lambda: self._bus.ends(topic)))[self.number]

    async def begin(self, state: ShardState) -> Begun:
        """Begin a tenure of a shard whose token was claimed."""
        start, end = await self.span()
        generation, watermark, lost = state.generation, state.watermark, ""
        if state.damaged or not generation:
            lost = "damaged" if state.damaged else "empty"
            told = await self._load()
            if not generation and told is not None:
                generation = told.epoch
                watermark = Watermark(told.version, told.seq, told.checksum)
        # The state topic's record may be of long ago: that the log no longer keeps it says nothing.
        unjoined = await self._unjoined(watermark, start, end, kept=bool(state.generation))
        if unjoined or not generation:
            at = self._clock.monotonic()
            now = await self._done(lambda: self._log.state(self.number))
            if now.owner != self._owner:  # to look took long: the generation is somebody else's to choose
                return Begun(now, NEW, NEW, unjoined, at, fenced=True)
            generation = f"{self._random.getrandbits(48):012x}"
            await self.write(self.generation_record(generation, Watermark()))
        wipe = bool(lost or unjoined)
        if wipe:
            self._rebuilds.labels("unjoined" if unjoined else lost).inc()
        whole = wipe or watermark.offset == NEW
        position = await self._reach(end) if whole else min(state.saved, watermark.offset) + 1
        replayed = position < end and (whole or watermark.offset < end - 1)
        until = end - 1 if replayed else NEW
        at = 0.0

        async def begin() -> ShardState:
            nonlocal at
            at = self._clock.monotonic()
            return await self._log.begin(
                self.number, self._owner, generation=generation, until=until, wipe=wipe
            )

        begun = await self._done(begin)
        start = (await self.span())[0]
        return Begun(begun, max(position, start), until, unjoined, at, fenced=begun.owner != self._owner)

    def generation_record(self, generation: str, watermark: Watermark) -> StateRecord:
        """Return the state record of a generation, and of a record that it has taken in."""
        return StateRecord(
            "generation",
            "",
            "",
            watermark.offset,
            generation,
            watermark.ts,
            checksum=watermark.checksum,
        )

    async def write(self, record: StateRecord) -> None:
        """Make a state record durable."""
        key, value = record.key.encode(), encode(record)

        async def produce() -> int:
            return await self._producer.produce("state", self.number, key, value)

        await self._done(produce)

    async def _unjoined(self, watermark: Watermark, start: int, end: int, *, kept: bool) -> str:
        """Return why the log is not the one that the shard has taken in up to the watermark, or "".

        `kept`: it must still have what follows.
        """
        offset = watermark.offset
        if offset == NEW:
            return ""
        if offset + 1 > end or (kept and offset + 1 < start):
            return f"the watermark is {offset}, the log spans {start} to {end}"
        if offset < start:
            return ""
        async for records in self.read("outbound", offset, offset + 1):
            for record in records:
                same = (record.ts, checksum(record.value or b"")) == (watermark.ts, watermark.checksum)
                if record.offset == offset and same:
                    return ""
                return f"another record is at the watermark's offset {offset}"
        return ""

    async def _reach(self, end: int) -> int:
        """Return the offset that the longest retention of a channel reaches back to."""
        ts = max(self._clock.now_ms() - self.reach_ms, 0)
        return min(end, await self._done(lambda: self._bus.offset_at("outbound", self.number, ts)))

    async def _load(self) -> StateRecord | None:
        """Give the shard the facts of the state topic; return the generation that it names."""
        start, end = await self.span("state")
        generation = None
        async for records in self.read("state", start, end):
            facts = []
            for record in records:
                fact = fact_of(record)
                if fact is not None and fact.kind == "generation":
                    generation = fact
                elif fact is not None:
                    facts.append(fact)
            for first in range(0, len(facts), MAX_BATCH):
                await self._load_some(facts[first : first + MAX_BATCH])
        return generation

    async def _load_some(self, facts: Sequence[StateRecord]) -> None:
        # Where the token is gone, `begin` finds out.
        await self._done(lambda: self._log.load(self.number, self._owner, facts))

    async def read(self, topic: Topic, position: int, end: int) -> AsyncIterator[Sequence[Record]]:
        """Yield the records of this partition from `position` to before `end`."""
        reader = await self._done(lambda: self._bus.reader(topic))
        try:
            reader.assign({self.number: position})
            while position < end:
                try:
                    fetched = await reader.fetch(MAX_BATCH, FETCH_SECONDS)
                except OffsetLost as lost:
                    position = max(position, lost.start)
                    if position >= min(end, lost.end):
                        return
                    reader.seek(self.number, position)
                    continue
                except Retry as error:
                    _log.warning("partition %d: reading %s: %s", self.number, topic, error)
                    await self._pause(FETCH_SECONDS)
                    continue
                records = fetched.get(self.number, ())
                if records:
                    position = records[-1].offset + 1
                    yield records
                else:
                    await self._pause(0.0)
        finally:
            try:
                await reader.close()
            except Retry as error:
                _log.debug("partition %d: a reader was not closed: %s", self.number, error)

    async def _done(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call again and again until its outcome is known."""
        delay = 0.1
        while True:
            try:
                return await call()
            except Retry as error:
                _log.warning("partition %d: beginning waits: %s", self.number, error)
            delay = await self._pause(delay)


def fact_of(record: Record) -> StateRecord | None:
    """Return what a record of the state topic says; None where it says nothing."""
    if record.value is None:
        return None
    try:
        fact: Any = decode_state(record.value)
    except msgspec.DecodeError as error:
        _log.error("a state record at offset %d cannot be read: %s", record.offset, error)
        return None
    return fact if isinstance(fact, StateRecord) else None
