"""Draining: clients are sent away at a set rate, so that the nodes they go to are not run over (inv 10)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from holdfast.protocol.connection import Event, State

if TYPE_CHECKING:
    from .node import AccessNode

STEP: Final = 0.05
CLOSE_RESERVE: Final = 3.0
"""Seconds of the whole time that are kept for closing who did not go, and for recording it."""

ASKING: Final = 0.8
"""Share of the time in which all are asked, whatever the rate: the rest is for the last ones to go."""

_log = logging.getLogger(__name__)


async def drain_connections(node: AccessNode) -> None:
    """Ask all clients to go, wait for them, and close the rest when the time is over."""
    clock, settings = node.clock, node.settings
    total = settings.process.drain_seconds
    time = max(total - CLOSE_RESERVE, total / 2)
    end = clock.monotonic() + time
    rate = float(settings.access.drain_rate)
    needed = len(node.drivers) / (time * ASKING)
    if needed > rate:
        _log.warning("access.drain_rate is too low for process.drain_seconds: %.0f a second leave", needed)
        rate = needed
    credit = 0.0
    while (waiting := node.open_drivers()) and clock.monotonic() < end:
        credit = min(credit + rate * STEP, rate)
        # In no order that clients could have in common: those of one time do not go together.
        asked = [driver for driver in waiting if driver.machine.state is not State.DRAINING]
        for driver in node.random.sample(asked, min(int(credit), len(asked))):
            driver.machine.signal(Event.DRAIN)
            node.metrics.access_shed.labels("drain").inc()
        credit -= int(credit)
        await clock.sleep(STEP)
    if waiting:
        _log.warning("%d clients did not go in time, and are closed", len(waiting))
    for driver in waiting:
        node.turns.do(driver.machine.signal, Event.ENDED, "draining", "this node is leaving")
    last = clock.monotonic() + 1.0
    while node.drivers and clock.monotonic() < last:
        await clock.sleep(STEP)
    for driver in list(node.drivers.values()):
        node.turns.do(driver.transport.abort)
