"""A turn of the loop has room for so many steps: what a crowd brings above that waits for the next turns.

Everything that comes once for each connection of a crowd goes through here: reads, ends, answers of the log,
what follows a record. Without it 10,000 connections that were cut at once held the loop for 90 ms, in which
nobody else was heard. Where no crowd is, it costs a look at two fields.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, Final

from holdfast.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

STEPS: Final = 128
"""Steps in one turn of the loop, of 10 to 30 µs each: a read of one frame is one, what takes longer counts
for more. Few of them mean many turns, of which each has its price, and smaller heaps for Kafka and Redis.
"""


class Turns:
    """Shares out the steps of each turn, in the order in which they are asked for.

    What waits is bounded by who asks: a few steps for each connection and each record on its way.
    """

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self.steps = STEPS
        self._left = STEPS
        self._waiting: collections.deque[tuple[Callable[..., object], tuple[Any, ...], int]] = (
            collections.deque()
        )
        self._scheduled = False
        self._failures = Failures("turns", clock, metrics)

    def take(self, steps: int = 1) -> bool:
        """Have steps of this turn; False: none is left, or others wait for theirs."""
        if self._left <= 0 or self._waiting:
            return False
        self._left -= steps
        if not self._scheduled:
            self._next()
        return True

    def do(self, call: Callable[..., object], *arguments: object, steps: int = 1) -> None:
        """Make a call now, if there is a step left for it, or else in its order."""
        if self.take(steps):
            call(*arguments)
        else:
            self.later(call, *arguments, steps=steps)

    def later(self, call: Callable[..., object], *arguments: object, steps: int = 1) -> None:
        """Make a call behind those that wait. What it raises is counted."""
        self._waiting.append((call, arguments, steps))
        if not self._scheduled:
            self._next()

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def finish(self) -> None:
        """Make all calls that wait: at the end, when nobody else needs the loop."""
        while self._waiting:
            self._step()

    def _next(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._left = self.steps
        while self._waiting and self._left > 0:
            self._step()
        if self._left < self.steps and not self._scheduled:
            self._next()

    def _step(self) -> None:
        call, arguments, steps = self._waiting.popleft()
        self._left -= steps
        self._failures.call(call, *arguments)
