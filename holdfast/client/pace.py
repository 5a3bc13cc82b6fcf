"""How many frames a client may write now, so that the server has no reason to refuse them as too many."""

from __future__ import annotations

from typing import Final

BURST_SECONDS: Final = 1.0
"""As many frames as `limits.rate` allows in this time may go at once; then they are paced."""

PAUSE: Final = 0.05
"""Seconds until the next ones go, once that many did, at least."""


class Pace:
    """A token bucket, kept as the time at which it is full again. Times are monotonic seconds."""

    __slots__ = ("_full",)

    def __init__(self) -> None:
        self._full = 0.0

    def room(self, now: float, rate: int) -> int:
        """Return how many frames may go now."""
        self._full = max(self._full, now)
        return int((now + BURST_SECONDS - self._full) * rate + 0.001)

    def spend(self, count: int, rate: int) -> None:
        """Take note of so many frames that went."""
        self._full += count / rate
