"""How fast clients may send to one channel (`rate` of its kind): above it, whom the token names come first.

Each node lets through its share, by the number of access nodes. What is refused is refused before it is in
the queue: its sender keeps it, and is told when to send it again. What handlers and the API publish is not
counted.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry

if TYPE_CHECKING:
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

BURST: Final = 1.0
"""Seconds' worth of messages that may come at once."""

RESERVE: Final = 0.25
"""Share of the burst that is kept for those whose token grants the channel: hosts, moderators, devices."""

MAX_CHANNELS: Final = 10_000
"""Channels remembered, at most: above it the one that was sent to longest ago begins anew."""


class RoomRates:
    """One number for each channel: when all that it has taken would be through, had it come at the rate."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._through: collections.OrderedDict[str, float] = collections.OrderedDict()

    def take(self, channel: str, rate: float, *, granted: bool) -> None:
        """Count one message. Raises Retry, with the seconds to wait, where there is no room for it."""
        now = self._clock.monotonic()
        ahead = max(self._through.get(channel, now) - now, 0.0)
        allowed = BURST if granted else BURST * (1 - RESERVE)
        wait = ahead + 1 / rate - allowed
        if ahead > 0 and wait > 1e-9:  # one alone is always let through, however low the rate
            self._metrics.access_room_refused.labels("granted" if granted else "others").inc()
            raise Retry("more is sent to this channel than it takes", after=max(round(wait, 3), 0.001))
        self._through[channel] = now + ahead + 1 / rate
        self._through.move_to_end(channel)
        if len(self._through) > MAX_CHANNELS:
            self._through.popitem(last=False)
            self._metrics.access_rooms_forgotten.inc()
