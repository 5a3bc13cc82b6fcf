"""How far outbound reaches, asked when it matters: a "no" counts only from a store that has taken it all in.

Who may not subscribe is told so for good, and a store that has just lost its last writes says it of members,
too (inv 9). Logic does the same with who may not send.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.errors import Retry
from holdfast.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.bus.port import Bus
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

    Told = Callable[[Mapping[int, tuple[int, int]] | None], None]


class Durable:
    """Asks the queue for its ends: one question at a time, for all who wait for one that begins after theirs.

    Who waits is bounded by the joins under way.
    """

    def __init__(self, bus: Bus, clock: Clock, metrics: Metrics) -> None:
        self._bus = bus
        self._failures = Failures("durable", clock, metrics)
        self._waiting: list[Told] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, call: Told) -> None:
        """Call back with (first, end) offsets of outbound's partitions as they are now, None if not told."""
        self._waiting.append(call)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Ask no more; who waits is not called."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, []
                ends: Mapping[int, tuple[int, int]] | None = None
                try:
                    ends = await self._bus.ends("outbound")
                except Retry:
                    pass  # the queue is away: they come again
                except Exception:  # noqa: BLE001 - counted
                    self._failures.note()
                for call in calls:
                    call(ends)
        finally:
            self._task = None
