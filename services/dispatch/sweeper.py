"""Buries dead access nodes, and sweeps what they left: their sessions' last events, routes, sessions.

Each dispatcher does it in the shards that it serves. First the tombstone, in the state topic: an incarnation
that has one never returns, not even to a Redis that was rebuilt. Then, page by page, the events of its
sessions; an entry is removed only after its `disconnect` is in the queue, so a sweep that ends in the middle
is gone on with by whoever serves the shard next (inv 6). What is held is read from the incarnation's own set:
no scan of the key space.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.failures import Failures, forever
from holdfast.log.liveness import Liveness
from holdfast.log.port import TOMBSTONE_SECONDS
from holdfast.records import SessionEvent, StateRecord, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.bus.port import Producer
    from holdfast.log.port import SessionInfo
    from holdfast.parts import Parts

EVERY: Final = 1.0
"""Seconds between two looks for dead incarnations."""

PAGE: Final = 200
"""Routes and sessions swept in one call: a call must not hold the store for long."""

PAUSE: Final = 0.02
"""Seconds between two pages of one shard: a node of 20,000 sessions is swept in seconds, beside all else."""

TIDY_SECONDS: Final = 600.0
"""Seconds between two looks for tombstones that are too old."""

REASON: Final = "node_lost"
"""The reason told to who handles the `disconnect` of a session that its node could not end."""

_log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps the shards that `serving` names. `owner` is the token that they are served with."""

    def __init__(
        self, parts: Parts, owner: str, producer: Producer, serving: Callable[[], Iterable[int]]
    ) -> None:
        self._log = parts.log
        self._clock = parts.clock
        self._metrics = parts.metrics
        self._failures = Failures("sweeper", parts.clock, parts.metrics)
        self._partitions = parts.bus.partitions
        self._owner = owner
        self._producer = producer
        self._serving = serving
        self._liveness = Liveness(parts.log, parts.clock, parts.metrics)
        self._sweeping: dict[int, asyncio.Task[None]] = {}
        self._tidied: dict[int, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        await self._liveness.start()
        self._task = asyncio.get_running_loop().create_task(
            forever("sweeper", self._look, self._clock, self._metrics)
        )

    async def stop(self) -> None:
        """Sweep no more: what is left is found by whoever serves the shards next."""
        tasks = [*self._sweeping.values(), *((self._task,) if self._task else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._liveness.stop()

    async def _look(self) -> None:
        await self._clock.sleep(EVERY)
        for shard in sorted(self._serving()):
            # A shard that hangs delays no other one's sweep.
            if shard not in self._sweeping and self._due(shard):
                self._sweeping[shard] = asyncio.get_running_loop().create_task(self._shard(shard))

    def _due(self, shard: int) -> bool:
        tidied = self._tidied.setdefault(shard, self._clock.monotonic())
        return bool(self._liveness.dead(shard)) or self._clock.monotonic() - tidied >= TIDY_SECONDS

    async def _shard(self, shard: int) -> None:
        try:
            for incarnation in self._liveness.dead(shard):
                await self._bury(shard, incarnation)
                await self._sweep(shard, incarnation)
            if self._clock.monotonic() - self._tidied[shard] >= TIDY_SECONDS:
                await self._tidy(shard)
                self._tidied[shard] = self._clock.monotonic()
        except Retry as error:
            _log.warning("sweeping shard %d waits: %s", shard, error)
        except Exception:  # noqa: BLE001 - counted, and begun again: it must not take the other shards with it
            self._failures.note()
        finally:
            self._sweeping.pop(shard, None)

    async def _bury(self, shard: int, incarnation: str) -> None:
        if incarnation in await self._log.tombstones(shard):
            return
        tombstone = StateRecord("dead", "", incarnation, self._clock.now_ms())
        await self._producer.produce("state", shard, tombstone.key.encode(), encode(tombstone))
        if await self._log.load(shard, self._owner, [tombstone]):
            self._metrics.dispatch_tombstones.inc()

    async def _sweep(self, shard: int, incarnation: str) -> None:
        done: list[tuple[str, str]] = []
        count = 0
        while True:
            swept = await self._log.sweep(shard, self._owner, incarnation, done, PAGE)
            if swept is None:
                return
            if swept.over:
                # One that was stopped in order has left nothing.
                level = logging.WARNING if count else logging.INFO
                _log.log(level, "shard %d: %s is dead, it left %d sessions", shard, incarnation, count)
                return
            await self._end(swept.sessions, swept.told)
            done = [(user, info.session) for user, info in swept.sessions]
            self._metrics.dispatch_swept.inc(len(done))
            count += len(done)
            await self._clock.sleep(PAUSE)

    async def _end(self, sessions: Sequence[tuple[str, SessionInfo]], told: int) -> None:
        """Make the last events of sessions durable, each session's in order. Raises Retry: begin again."""
        futures = []
        try:
            for user, info in sessions:
                # What the node could not say any more; said twice, it is one.
                for kind in ("connect", "disconnect") if info.since >= told else ("disconnect",):
                    futures.append(self._event(user, info, kind))  # noqa: PERF401 - one may be refused
        finally:
            results = await asyncio.gather(*futures, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _event(self, user: str, info: SessionInfo, kind: str) -> asyncio.Future[int]:
        record = SessionEvent(
            kind,
            user,
            info.session,
            info.device,
            info.client or info.session,
            info.node,
            info.since if kind == "connect" else self._clock.now_ms(),
            REASON if kind == "disconnect" else "",
        )
        partition = partition_of(user, self._partitions)
        return self._producer.produce("inbound", partition, user.encode(), encode(record))

    async def _tidy(self, shard: int) -> None:
        """Remove tombstones so old that their nodes, if they come back, begin anew by themselves."""
        oldest = self._clock.now_ms() - TOMBSTONE_SECONDS * 1000
        for incarnation, ts in (await self._log.tombstones(shard)).items():
            if ts < oldest:
                gone = StateRecord("dead", "", incarnation, ts, present=False)
                await self._producer.produce("state", shard, gone.key.encode(), None)
                await self._log.load(shard, self._owner, [gone])
