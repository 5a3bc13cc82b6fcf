"""What one connection gets in one turn of the loop goes out in one write: acks, answers, messages.

A write is a system call, which is most of what a message to one user costs here; in a busy second every third
was to a connection that had just been written to. Crowds are written to at once: see `fanout`.
"""

from __future__ import annotations

import asyncio
import collections
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .driver import Driver

JOINED: Final = 16 * 1024
"""Bytes of one connection from which on they are written at once: to join them is to copy them."""

SLICE_SECONDS: Final = 0.002
LOOK: Final = 64


class Outbox:
    """Who has something to be written. A driver's `out` is None where there is nothing."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Driver] = collections.deque()
        self._scheduled = False

    def put(self, driver: Driver, data: bytes) -> None:
        """Write to a connection, behind what was put before, at the end of this turn."""
        out = driver.out
        if out is None:
            driver.out = data
            self._waiting.append(driver)
            if not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._turn)
        else:
            driver.out = out = out + data
            if len(out) > JOINED:
                driver.flush()

    def _turn(self) -> None:
        """Write what waits, for 2 ms; then the loop has its turn."""
        waiting = self._waiting
        end = time.perf_counter() + SLICE_SECONDS
        count = 0
        while waiting:
            waiting.popleft().flush()
            count += 1
            if count % LOOK == 0 and time.perf_counter() > end:
                asyncio.get_running_loop().call_soon(self._turn)
                return
        self._scheduled = False
