"""Draining: clients are sent away at a set rate, so that the nodes they go to are not run over (inv 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.protocol.connection import Event, State

if TYPE_CHECKING:
    from .node import AccessNode

STEP: Final = 0.05
CLOSE_RESERVE: Final = 3.0
"""Seconds of the whole time that are kept for closing who did not go, and for recording it."""


async def drain_connections(node: AccessNode) -> None:
    """Ask all clients to go, wait for them, and close the rest when the time is over."""
    clock, settings = node.clock, node.settings
    total = settings.process.drain_seconds
    end = clock.monotonic() + max(total - CLOSE_RESERVE, total / 2)
    credit = 0.0
    while (waiting := node.open_drivers()) and clock.monotonic() < end:
        credit = min(credit + settings.access.drain_rate * STEP, float(settings.access.drain_rate))
        # In no order that clients could have in common: those of one time do not go together.
        asked = [driver for driver in waiting if driver.machine.state is not State.DRAINING]
        node.random.shuffle(asked)
        for driver in asked[: int(credit)]:
            driver.machine.signal(Event.DRAIN)
        credit -= int(credit)
        await clock.sleep(STEP)
    for driver in node.open_drivers():
        driver.machine.signal(Event.ENDED, "draining", "this node is leaving")
    last = clock.monotonic() + 1.0
    while node.drivers and clock.monotonic() < last:
        await clock.sleep(STEP)
    for driver in list(node.drivers.values()):
        driver.transport.abort()
