"""Moving a manual clock while something is awaited, so that tests neither sleep nor hang."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from holdfast.clock import ManualClock

T = TypeVar("T")

STEP: Final = 0.01
"""Seconds by which the clock moves while the loop has nothing left to do."""

REAL_LIMIT: Final = 30.0
"""Seconds of real time after which a wait is given up, whatever the clock says."""


class Driving:
    """Runs coroutines on a `ManualClock`: first all that can happen now, then time in small steps."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._lock = asyncio.Lock()

    async def advance(self, seconds: float) -> None:
        """Move time on; only one of several concurrent callers moves it at a time."""
        async with self._lock:
            await self.clock.advance(seconds)

    async def run(self, work: Coroutine[Any, Any, T], limit: float, what: str) -> T:
        """Return the result of `work`, moving the clock by at most `limit` seconds.

        Raises AssertionError, with `what`, when it is not done by then.
        """
        task = asyncio.ensure_future(work)
        started = time.monotonic()
        until = self.clock.monotonic() + limit
        try:
            while not task.done():
                await self.clock.settle()
                if task.done():
                    break
                if self.clock.monotonic() >= until:
                    raise AssertionError(f"{what}: not within {limit:g} s of the cluster's time")
                if time.monotonic() - started > REAL_LIMIT:
                    raise AssertionError(f"{what}: not within {REAL_LIMIT:g} s of real time")
                await self.advance(STEP)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
