"""How many frames a connection may send: a token bucket, and a count of what was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast.protocol.host import Bounds

FLOOD: Final = 4
"""Times the burst that may be refused as `rate_limited` before the connection is ended as `flooding`. Each
frame that is within the rate takes one refusal back: what ends is sent at more than twice the rate."""


class Allowance:
    """What is left of one connection's rate and burst."""

    __slots__ = ("_allowance", "_refused", "bounds")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._allowance = 0.0
        self._refused = 0

    def take(self, now: float) -> float:
        """Take one from the token bucket, kept as the time at which it is full again; return the seconds by
        which it came too early, 0 where it did not."""  # noqa: D209, D205
        bounds = self.bounds
        full = max(self._allowance, now)
        early = full - now - (bounds.burst - 1) / bounds.rate
        if early > 1e-9:  # what adding fractions of a second leaves behind
            return early
        self._allowance = full + 1 / bounds.rate
        if self._refused:
            self._refused -= 1
        return 0.0

    def refused(self, count: int) -> bool:
        """Count refusals; return whether they are a flood."""
        self._refused += count
        return self._refused > FLOOD * self.bounds.burst
