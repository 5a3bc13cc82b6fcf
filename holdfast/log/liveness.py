"""Which incarnations live, as this process sees their beats move (inv 6)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry

if TYPE_CHECKING:
    from holdfast.clock import Clock
    from holdfast.log.port import Log

DEAD_AFTER: Final = 5.0
"""Seconds of this observer's own successful reads without movement after which an incarnation is dead."""

EVERY: Final = 0.5
"""Seconds between reads. With `DEAD_AFTER` and a beat a second, a death is known within 6 s."""

LONGEST_GAP: Final = 2.0
"""A read that comes later than this after the one before says nothing of the time between: the store, or this
process, was away, and for all that is known nobody could beat."""

_log = logging.getLogger(__name__)


class _Seen:
    __slots__ = ("beats", "still")

    def __init__(self, beats: int) -> None:
        self.beats = beats
        self.still = 0.0


class Liveness:
    """Polls the beats of all shards and answers `alive`.

    An incarnation lives as long as its beat moved in any shard within the last 5 s of reads that succeeded.
    One that was never seen to beat is given as long from when it is first asked for. The dead are kept in
    mind while the shards still name them, and those who were asked for up to a bound.
    """

    MAX_ASKED: Final = 10_000

    def __init__(self, log: Log, clock: Clock) -> None:
        self._port = log
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._asked: dict[str, float] = {}
        self._read_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def alive(self, incarnation: str) -> bool:
        """Tell whether an incarnation is to be counted as living."""
        seen = self._seen.get(incarnation)
        if seen is not None:
            return seen.still < DEAD_AFTER
        if incarnation not in self._asked and len(self._asked) >= self.MAX_ASKED:
            self._asked.pop(next(iter(self._asked)))
        return self._asked.setdefault(incarnation, 0.0) < DEAD_AFTER

    async def look(self) -> None:
        """Read the beats of all shards once. Raises Retry when one of them could not be read."""
        beats: dict[str, int] = {}
        for answer in await asyncio.gather(
            *(self._port.beats(shard) for shard in range(self._port.partitions))
        ):
            for incarnation, count in answer.items():
                beats[incarnation] = beats.get(incarnation, 0) + count
        now = self._clock.monotonic()
        passed = 0.0
        if self._read_at is not None and now - self._read_at <= LONGEST_GAP:
            passed = now - self._read_at
        self._read_at = now
        for incarnation, count in beats.items():
            seen = self._seen.get(incarnation)
            if seen is None:
                self._seen[incarnation] = _Seen(count)
                self._asked.pop(incarnation, None)
            elif seen.beats != count:
                seen.beats, seen.still = count, 0.0
            else:
                seen.still += passed
        for incarnation in list(self._seen):
            if incarnation not in beats:
                # Forgotten by the store (a flush, a sweep): those who live will beat again in time.
                seen = self._seen.pop(incarnation)
                self._asked[incarnation] = seen.still
        for incarnation in self._asked:
            self._asked[incarnation] += passed

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Retry as error:
                self._read_at = None
                _log.debug("the beats could not be read: %s", error)
            await self._clock.sleep(EVERY)
