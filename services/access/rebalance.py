"""After a scale-out: a node far above the average sends its surplus elsewhere, slowly.

At most `access.rebalance_rate` a second. Clients get a `drain` frame and come back by way of the balancer,
with nothing lost. Who was asked and stays is closed in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.protocol.connection import Event, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .driver import Driver
    from .node import AccessNode

TOLERANCE: Final = 0.1
"""Share above the average that is left alone: balancers do not count exactly."""

LEAST: Final = 20
"""Connections above the average that are left alone whatever the share: they are not worth a reconnect."""

STEADY_SECONDS: Final = 10.0
"""How long a node must be above before it sheds: after a deploy or a storm, things settle by themselves."""


class Rebalance:
    """Looks once a second. `loads` are all incarnations' connections, as the last beat brought them."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self.loads: Mapping[str, int] = {}
        self._above_since: float | None = None
        self._asked: dict[Driver, float] = {}  # until when each may stay; at most the surplus

    def tick(self) -> None:
        """Send some away, if there are too many."""
        node = self._node
        rate = node.settings.access.rebalance_rate
        if not rate or node.draining or node.is_fenced:
            self._asked.clear()
            return
        now = node.clock.monotonic()
        self._close_who_stay(now)
        surplus = self.surplus()
        if surplus <= 0:
            self._above_since = None
            return
        if self._above_since is None:
            self._above_since = now
        if now - self._above_since < STEADY_SECONDS:
            return
        for driver in self._some(min(rate, surplus)):
            driver.machine.signal(Event.DRAIN)
            self._asked[driver] = now + node.settings.process.drain_seconds
            node.metrics.access_shed.labels("rebalance").inc()

    def surplus(self) -> int:
        """Return how many more should be asked to go: 0 within the tolerance, or while others are unknown."""
        node = self._node
        weights = {
            other.incarnation: other.weight
            for other in node.parts.directory.nodes("access")
            if not other.draining and other.incarnation in self.loads
        }
        if node.incarnation not in weights or not sum(weights.values()):
            return 0
        total = sum(self.loads[incarnation] for incarnation in weights)
        share = total * weights[node.incarnation] / sum(weights.values())
        here = len(node.drivers)
        if here <= max(share * (1 + TOLERANCE), share + LEAST):
            return 0
        return int(here - share) - len(self._asked)

    def _some(self, count: int) -> list[Driver]:
        there = [driver for driver in self._node.drivers.values() if driver.machine.state is State.OPEN]
        return self._node.random.sample(there, min(count, len(there)))

    def _close_who_stay(self, now: float) -> None:
        for driver, until in list(self._asked.items()):
            if driver.ended:
                del self._asked[driver]
            elif until <= now:
                del self._asked[driver]
                driver.machine.signal(Event.ENDED, "draining", "there is more room on other nodes")
