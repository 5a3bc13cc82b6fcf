"""Work done for many at once where there are many: a crowd's, in rounds; what comes alone, at once.

What is paid by the call (a script in Redis, a request to Kafka) costs a storm of connects a call for each one
or two of them, when each turn of the loop calls for what it brought. In rounds, a call is for a dozen.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock, Timer

CROWD: Final = 8
"""Things in one round from which on the next one waits for its time."""


class Pace:
    """Makes `call` in the loop's next turn after `ask`; after a crowd's round, `seconds` after that.

    `call` does all there is to do, and returns how much that was.
    """

    def __init__(self, clock: Clock, seconds: float, call: Callable[[], int]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._call = call
        self._next = 0.0
        self._timer: Timer | asyncio.Handle | None = None

    def ask(self) -> None:
        """See to it that there is a round."""
        if self._timer is None:
            wait = self._next - self._clock.monotonic()
            if wait > 0:
                self._timer = self._clock.call_later(wait, self.now)
            else:
                self._timer = asyncio.get_running_loop().call_soon(self.now)

    def now(self) -> None:
        """Have the round at once."""
        self.stop()
        self._next = self._clock.monotonic() + self._seconds if self._call() >= CROWD else 0.0

    def stop(self) -> None:
        """Have no round, unless somebody asks again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
