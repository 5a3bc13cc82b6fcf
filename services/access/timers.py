"""ONE timer wheel for all connections: heartbeats, handshakes, tokens' ends, clients put aside.

An entry costs a place in a list. Who is due is asked what to do (`check`) and says when to ask again; nothing
is moved when something was heard. An entry whose owner moved on to an earlier tick is stale, and skipped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from holdfast.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock, Timer
    from holdfast.observe.metrics import Metrics

NEVER: Final = 0
SLICE_SECONDS: Final = 0.002
STOPPED_SECONDS: Final = 2.0
"""Time between two turns above which it does not count: this process stood still, and what clients wrote
meanwhile waits to be read. Without this the first thing they would hear is that they were silent, or late."""

AGAIN_SECONDS: Final = 5.0
"""After this time who could not be checked is checked again."""

_LOOK: Final = 32


class Timed(Protocol):
    """Who may be put on the wheel. `due` is a tick, NEVER while it is not on it."""

    due: int

    def check(self, tick: int) -> int:
        """Do what is due; return the tick of the next check, or NEVER."""


class TimerWheel:
    """Counts ticks of `every` seconds; `tick` is the present one, shared by all as their time stamp."""

    def __init__(
        self, clock: Clock, every: float, on_tick: Callable[[], object], metrics: Metrics | None = None
    ) -> None:
        self.tick = 1
        self.every = every
        self._clock = clock
        self._on_tick = on_tick
        self._failures = Failures("timers", clock, metrics)
        self._began = clock.monotonic()
        self._buckets: dict[int, list[Timed]] = {}
        self._rest: list[Timed] = []
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to turn."""
        self._timer = self._clock.call_later(self.every, self._turn)

    def stop(self) -> None:
        """Turn no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._rest.clear()

    def ticks(self, seconds: float) -> int:
        """Return how many ticks pass in `seconds`, at least one."""
        return max(1, -int(-seconds // self.every))

    def put(self, timed: Timed, tick: int) -> None:
        """Check `timed` at `tick`, or earlier where it is due earlier already."""
        tick = max(tick, self.tick + 1)
        if timed.due != NEVER and timed.due <= tick:
            return
        timed.due = tick
        self._buckets.setdefault(tick, []).append(timed)

    def _turn(self) -> None:
        assert self._timer is not None
        now = int((self._clock.monotonic() - self._began) / self.every + 1e-6) + 1
        if (stopped := now - self.tick - self.ticks(STOPPED_SECONDS)) > 0:
            self._began += stopped * self.every
            now -= stopped
        while self.tick < now:
            self.tick += 1
            for timed in self._buckets.pop(self.tick, ()):
                if timed.due == self.tick:
                    timed.due = NEVER
                    self._rest.append(timed)
        self._timer = self._clock.call_later(self.every, self._turn)
        self._failures.call(self._on_tick)  # the wheel turns on for everybody
        self._slice()

    def _slice(self) -> None:
        """Check who is due, for 2 ms at a time: they may all have come in the same second."""
        end = time.perf_counter() + SLICE_SECONDS
        rest = self._rest
        count = 0
        while rest:
            timed = rest.pop()
            try:
                tick = timed.check(self.tick)
            except Exception:  # noqa: BLE001 - counted; it is looked at again, and so are all others
                self._failures.note()
                tick = self.tick + self.ticks(AGAIN_SECONDS)
            if tick != NEVER:
                self.put(timed, tick)
            count += 1
            if count % _LOOK == 0 and time.perf_counter() > end:
                if self._timer is not None:
                    self._clock.call_later(0.001, self._slice)
                return
