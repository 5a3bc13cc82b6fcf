"""What nobody expected must not end a background loop: it is told, counted, and after a pause tried again.

A task that ends with an exception ends silently, and what it did is done no more: no beats, reads or fetches.
What a loop can do something about (a `Retry`, and what its port names) it catches itself; whatever else
comes up goes through here, so that it always shows in the same way: a traceback, and `loop_failures`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

FIRST: Final = 0.1
LONGEST: Final = 5.0
"""Seconds between two attempts, at first and at most: they double."""

_log = logging.getLogger(__name__)


class Failures:
    """Those of one loop. `name` is the metric's label: few, all known."""

    __slots__ = ("_clock", "_count", "_delay", "_name")

    def __init__(self, name: str, clock: Clock, metrics: Metrics | None) -> None:
        self._name = name
        self._clock = clock
        # It is there, at 0, before the first one: an increase from nothing is none to Prometheus.
        self._count = metrics.loop_failures.labels(name) if metrics is not None else None
        self._delay = FIRST

    def note(self) -> None:
        """Tell and count the exception that is being handled."""
        if self._count is not None:
            self._count.inc()
        _log.exception("%s failed in a way that nobody expected; it goes on", self._name)

    def call(self, call: Callable[..., object], *arguments: object) -> None:
        """Make a call; what it raises is told and counted, and holds up nobody else."""
        try:
            call(*arguments)
        except Exception:  # noqa: BLE001 - see the module
            self.note()

    async def pause(self) -> None:
        """Tell and count the exception that is being handled, and sleep before the next attempt."""
        self.note()
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST)
        await self._clock.sleep(delay)

    def passed(self) -> None:
        """Take note that an attempt went well: the next pause is a short one again."""
        self._delay = FIRST


async def forever(name: str, step: Callable[[], Awaitable[None]], clock: Clock, metrics: Metrics) -> None:
    """Run `step` again and again until cancelled, whatever it raises."""
    failures = Failures(name, clock, metrics)
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - see the module
            await failures.pause()
        else:
            failures.passed()
