"""What clients send, taken in slices: a read of 256 KiB may hold tens of thousands of frames.

The rest of a read waits, and its connection is not read from until it was
taken; after 2 ms of work the loop gets its turn, and then the next connection.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.observe.metrics import Metrics

    from .driver import Driver

SLICE_SECONDS: Final = 0.002
TURN_SECONDS: Final = 0.005
"""Time that larger reads may take in one turn of the loop before those of other connections wait as well."""


class Inflow:
    """Shares the loop among those who send. What waits is one read per connection."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rest: dict[Driver, Iterator[None]] = {}
        self._ready: collections.deque[Driver] = collections.deque()
        self._scheduled = False
        self._turn_end: float | None = None

    def has(self, driver: Driver) -> bool:
        """Tell whether something of this connection waits."""
        return bool(self._rest) and driver in self._rest

    def received(self, driver: Driver, data: bytes) -> None:
        """Take a large read of a connection, or one after which something still waits."""
        steps = driver.steps(data)
        if driver in self._rest:  # the transport had it already when it was paused
            self._rest[driver] = itertools.chain(self._rest[driver], steps)
        elif not self._run(driver, steps, self._until()):
            self._wait(driver, steps)
        elif not driver.transport.is_closing():
            driver.transport.resume_reading()  # it may have waited for its turn

    def resume(self, driver: Driver) -> None:
        """Go on with a connection that takes its answers again."""
        if driver in self._rest:
            self._go_on(driver)
        else:
            driver.transport.resume_reading()

    def forget(self, driver: Driver) -> None:
        """Drop what waits of a connection that is gone."""
        self._rest.pop(driver, None)

    def _wait(self, driver: Driver, steps: Iterator[None]) -> None:
        self._metrics.access_reads_sliced.inc()
        self._rest[driver] = steps
        if not driver.transport.is_closing():
            driver.transport.pause_reading()
        self._go_on(driver)

    def _go_on(self, driver: Driver) -> None:
        self._ready.append(driver)
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _until(self) -> float:
        """Return when work that begins now must stop."""
        now = time.perf_counter()
        if self._turn_end is None:
            self._turn_end = now + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._next_turn)
        return min(now + SLICE_SECONDS, self._turn_end)

    def _next_turn(self) -> None:
        self._turn_end = None

    def _turn(self) -> None:
        self._scheduled = False
        end = time.perf_counter() + SLICE_SECONDS
        ready = self._ready
        try:
            for _ in range(len(ready)):
                self._next(ready.popleft(), end)
                if time.perf_counter() > end:
                    break
        finally:
            if ready:
                self._wake()

    def _next(self, driver: Driver, end: float) -> None:
        steps = self._rest.get(driver)
        if steps is None:
            return
        if driver.transport.is_closing():
            del self._rest[driver]
        elif self._run(driver, steps, end):
            del self._rest[driver]
            if not driver.transport.is_closing():
                driver.transport.resume_reading()
        elif not driver.paused:
            self._ready.append(driver)

    def _run(self, driver: Driver, steps: Iterator[None], end: float) -> bool:
        """Take steps until the time is over or the client stops to take its answers; True: all were taken."""
        if driver.paused or time.perf_counter() > end:
            return False
        for _ in steps:  # noqa: SIM110 - a generator around it is one call more for each frame
            if driver.paused or time.perf_counter() > end:
                return False
        return True
