"""The clock port: all waiting and all time-stamping goes through it, so tests move time by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


T = TypeVar("T")


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Take the call back; harmless when it was made already."""


class Clock(Protocol):
    """What services know of time."""

    def now_ms(self) -> int:
        """Return Unix time in ms, for time stamps that people and other machines read."""

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring and for deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Make `call` after `seconds`."""


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    def now_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """See `Clock`."""
        return asyncio.get_running_loop().call_later(seconds, call)


class _ManualTimer:
    __slots__ = ("call", "cancelled", "when")

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """Time that stands still until `advance` moves it, timer by timer, in order.

    Between two timers the event loop runs until its tasks have had `settle` turns, so that what one timer
    sets off happens before the next one fires.
    """

    def __init__(self, start_ms: int = 1_700_000_000_000, settle: int = 50) -> None:
        self._start_ms = start_ms
        self._elapsed = 0.0
        self._settle = settle
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _ManualTimer]] = []

    def now_ms(self) -> int:
        """See `Clock`."""
        return self._start_ms + int(self._elapsed * 1000)

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """See `Clock`."""
        timer = _ManualTimer(self._elapsed + max(seconds, 0.0), call)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    async def settle(self) -> None:
        """Let everything that is ready now happen."""
        for _ in range(self._settle):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, firing each timer at its own moment."""
        target = self._elapsed + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= target:
            when, _, timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            self._elapsed = max(self._elapsed, when)
            timer.call()
            await self.settle()
        self._elapsed = target
        await self.settle()


async def within(clock: Clock, seconds: float, awaitable: Awaitable[T]) -> T:
    """Await with a time limit on `clock`.

    Raises TimeoutError when the limit passes first; what was awaited is cancelled then.
    """
    task = asyncio.ensure_future(awaitable)
    caller = asyncio.current_task()
    cancels = caller.cancelling() if caller is not None else 0
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = clock.call_later(seconds, expire)
    try:
        return await task
    except asyncio.CancelledError:
        # Whoever is cancelled in the moment of the limit must not take it for the limit, and go on.
        if expired and task.cancelled() and (caller is None or caller.cancelling() == cancels):
            raise TimeoutError(f"not done within {seconds} s") from None
        task.cancel()
        raise
    finally:
        timer.cancel()
