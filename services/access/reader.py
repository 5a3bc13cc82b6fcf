"""Reads of the log, merged: one in flight per shard; what arrives meanwhile goes into the next."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry
from holdfast.failures import Failures
from holdfast.log.port import Rebuilding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.clock import Clock
    from holdfast.log.port import Log, Query, View
    from holdfast.observe.metrics import Metrics

    from .links import Links
    from .turns import Turns

MAX_QUERIES: Final = 128
"""Queries in one read, at most: a read must not hold the store for long."""

ANSWER_STEPS: Final = 4
"""What an answer counts for among the steps of a turn: one that completes a connect takes 50 µs."""

FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 1.0

_log = logging.getLogger(__name__)


class Reader:
    """Reads channels. A query is asked again until it is answered; who asked must know when to give up.

    What waits is bounded by who asks: one query per join and one per channel position that lags.
    `links` knows the highest (generation, offset) of a shard: a store that says less has lost writes, and
    will be rebuilt. It is told where the store stood in each answer.
    """

    def __init__(self, log: Log, clock: Clock, links: Links, metrics: Metrics, turns: Turns) -> None:
        self._log = log
        self._failures = Failures("reads", clock, metrics)
        self._links = links
        self._turns = turns
        self.clock = clock
        self._waiting: list[list[tuple[Query, Callable[[View], None]]]] = [[] for _ in range(log.partitions)]
        self._running = [False] * log.partitions
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self, shard: int, query: Query, call: Callable[[View], None]) -> None:
        """Make `call` with the answer to `query`."""
        self._waiting[shard].append((query, call))
        if not self._running[shard]:
            self._running[shard] = True
            task = asyncio.get_running_loop().create_task(self._run(shard))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def later(self, call: Callable[[], None]) -> None:
        """Make a call that reads again what was read from a store that is behind."""
        self.clock.call_later(FIRST_DELAY, call)

    def stop(self) -> None:
        """Read no more."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, shard: int) -> None:
        delay, most = FIRST_DELAY, MAX_QUERIES
        try:
            while waiting := self._waiting[shard]:
                batch, self._waiting[shard] = waiting[:most], waiting[most:]
                try:
                    views = await self._read(shard, [query for query, _ in batch])
                except Retry as error:
                    _log.debug("a read failed: %s", error, extra={"shard": shard})
                    self._waiting[shard] = batch + self._waiting[shard]
                    await self.clock.sleep(error.after or delay)
                    delay = min(delay * 2, LONGEST_DELAY)
                    continue
                except Exception:  # noqa: BLE001 - counted; one by one and last, if it is a query that does it
                    self._waiting[shard] += batch
                    most = 1
                    await self._failures.pause()
                    continue
                self._failures.passed()
                delay, most = FIRST_DELAY, min(most * 2, MAX_QUERIES)
                self._links.was_read(shard, views[0].generation, views[0].position)
                for (_, call), view in zip(batch, views, strict=True):
                    self._turns.do(self._failures.call, call, view, steps=ANSWER_STEPS)
        finally:
            self._running[shard] = False

    async def _read(self, shard: int, queries: Sequence[Query]) -> Sequence[View]:
        generation, position = self._links.position(shard)
        views = await self._log.read(shard, queries)
        if views[0].generation == generation and views[0].position < position:
            raise Rebuilding("the store has lost writes")
        return views
