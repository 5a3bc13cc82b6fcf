"""Takes out of the state topic who left a group so long ago that no replay brings the join back.

While such a record is needed (an older join may still be replayed), it keeps the one who left outside. After
that it would only be read again at each rebuild, for ever. So once a day the partition's state is read, and
what is of no use any more gets a record without a value, which compaction removes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry
from holdfast.failures import Failures
from holdfast.records import StateRecord

from .rebuild import fact_of
from .saver import Write

if TYPE_CHECKING:
    from random import Random

    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

    from .rebuild import Rebuild
    from .saver import Saver

PERIOD: Final = 86_400.0
"""Seconds between two looks."""

FIRST: Final = 3600.0
"""Seconds from the beginning of a tenure to its first look, at most."""

MARGIN_MS: Final = 86_400_000
"""Time that a record must be older than the oldest that a replay begins with."""

AT_ONCE: Final = 2000
"""Records taken out by one look, at most; the next goes on."""

_log = logging.getLogger(__name__)


class Tidy:
    """Looks after one partition's state during a tenure."""

    def __init__(
        self,
        rebuild: Rebuild,
        saver: Saver,
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._rebuild = rebuild
        self._saver = saver
        self._clock = clock
        self._random = random
        self._failures = Failures("tidy", clock, metrics)
        self._removed = metrics.dispatch_state_removed

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await self._clock.sleep(FIRST * self._random.uniform(0.1, 1.0))
        while True:
            try:
                await self.look()
            except Retry as error:
                _log.warning("the state topic is not tidied: %s", error)
            except Exception:  # noqa: BLE001 - counted; the next look may do better
                self._failures.note()
            await self._clock.sleep(PERIOD)

    async def look(self) -> None:
        """Read this partition's state once, and take out what is of no use. Raises Retry."""
        touched = self._saver.watch()
        try:
            useless = await self._useless()
            # From here on in one turn: whoever joined again since has touched the key, and keeps it.
            writes = [
                Write("state", self._rebuild.number, key, None) for key in useless if key not in touched
            ]
            if writes:
                self._saver.add(self._saver.saved, writes)
                self._removed.inc(len(writes))
        finally:
            self._saver.unwatch()

    async def _useless(self) -> dict[bytes, None]:
        before = self._clock.now_ms() - self._rebuild.reach_ms - MARGIN_MS
        found: dict[bytes, None] = {}
        start, end = await self._rebuild.span("state")
        async for records in self._rebuild.read("state", start, end):
            for record in records:
                key = record.key
                if key is None:
                    continue
                fact = fact_of(record)
                old = record.ts < before and isinstance(fact, StateRecord)
                if old and fact is not None and fact.kind in ("member", "group") and not fact.present:
                    if len(found) < AT_ONCE:
                        found[key] = None
                else:
                    found.pop(key, None)
        return found
