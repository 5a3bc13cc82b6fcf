"""Which incarnations live, as this observer saw their beats move."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry
from holdfast.failures import Failures

if TYPE_CHECKING:
    from holdfast.clock import Clock
    from holdfast.log.port import Log
    from holdfast.observe.metrics import Metrics

INTERVAL: Final = 0.5
"""Seconds between two looks: a beat is seen at most that late, so a death shows within 6 s."""

DEAD_AFTER: Final = 5.0
"""Seconds of successful looks without movement, after which an incarnation is dead."""

LONGEST_GAP: Final = 2.0
"""Seconds between two looks above which the time between them does not count: this process was stopped."""

MAX_KNOWN: Final = 10_000
"""Most incarnations remembered. Above it the one that has not moved for longest is forgotten and counted;
asked for again, it counts as alive for `DEAD_AFTER`."""


class Liveness:
    """Looks at the beats of all shards. Time counts only while looking succeeds: an outage kills nobody.

    One shard that answers is enough, and a count that differs is a sign of life, so neither a shard that is
    away nor a store that lost its counts makes anybody dead. An incarnation that nobody has heard of is
    alive until it was looked for in vain for `DEAD_AFTER`.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        metrics: Metrics | None = None,
        *,
        max_known: int = MAX_KNOWN,
    ) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._failures = Failures("liveness", clock, metrics)
        self._max_known = max_known
        self._looked = 0.0  # seconds of successful looking
        self._moved: dict[str, float] = {}  # when each was last seen to move, in that time; oldest first
        self._counts: list[dict[str, int]] = [{} for _ in range(log.partitions)]
        self._seen = [False] * log.partitions  # whether the last look at the shard succeeded
        self._at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def alive(self, incarnation: str) -> bool:
        """Tell whether an incarnation lives, as far as is known."""
        moved = self._moved.get(incarnation)
        if moved is None:
            self._remember(incarnation)
            return True
        return self._looked - moved < DEAD_AFTER

    def dead(self, shard: int) -> list[str]:
        """Return the incarnations that a shard knows, and that do not live, in order."""
        return sorted(node for node in self._counts[shard] if not self.alive(node))

    async def look(self) -> None:
        """Look at all shards once."""
        looks = (self._log.beats(shard) for shard in range(self._log.partitions))
        found = await asyncio.gather(*looks, return_exceptions=True)
        now = self._clock.monotonic()
        moved: dict[str, None] = {}
        connected = False
        unexpected: BaseException | None = None
        for shard, counts in enumerate(found):
            if isinstance(counts, dict):
                before = self._counts[shard]
                moved.update((node, None) for node, count in counts.items() if before.get(node) != count)
                connected = connected or self._seen[shard]
                self._counts[shard] = counts
                self._seen[shard] = True
            else:
                self._seen[shard] = False
                if not isinstance(counts, Retry):
                    unexpected = counts  # told when what the other shards said is taken in
        if connected and now - self._at <= LONGEST_GAP:
            self._looked += now - self._at
        self._at = now
        for node in moved:
            self._remember(node)
        if unexpected is not None:
            raise unexpected

    def _remember(self, node: str) -> None:
        self._moved.pop(node, None)
        self._moved[node] = self._looked
        if len(self._moved) > self._max_known:
            del self._moved[next(iter(self._moved))]
            if self._metrics is not None:
                self._metrics.log_liveness_forgotten.inc()

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - counted, and looked again: to go blind would be worse
                self._failures.note()
            await self._clock.sleep(INTERVAL)
