"""What is due for one connection when the timer wheel comes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.protocol.connection import Event, State

from .timers import NEVER

if TYPE_CHECKING:
    from .driver import Driver
    from .node import AccessNode
    from .sessions import Session


def check(node: AccessNode, driver: Driver, tick: int) -> int:
    """Do what is due; return the tick of the next look."""
    machine, limit = driver.machine, driver.limit
    if driver.codec is None:
        return NEVER
    if driver.ended:
        driver.transport.abort()
        return NEVER
    if limit and tick >= limit:
        if machine.state < State.OPEN:
            node.metrics.access_refused.labels("timeout").inc()
            machine.signal(Event.TIMEOUT)
        else:
            machine.signal(Event.ENDED, "slow", "what was sent to this client was not read")
        return driver.due
    next_due = limit or tick + node.heartbeat_ticks
    if machine.state < State.OPEN or driver.session is None:
        return next_due
    left = lifetime(node, driver.session)
    if left <= 0:
        machine.signal(Event.EXPIRED)
        return driver.due
    next_due = min(next_due, tick + node.wheel.ticks(left))
    deadline = machine.expire_requests(node.clock.monotonic())
    if deadline is not None:
        next_due = min(next_due, tick + node.wheel.ticks(deadline - node.clock.monotonic()))
    if driver.paused:
        return next_due
    silence = tick - driver.heard
    if silence >= 2 * node.heartbeat_ticks:
        machine.signal(Event.SILENT)
        return driver.due
    if silence >= node.heartbeat_ticks:
        machine.signal(Event.QUIET)
        return min(next_due, driver.heard + 2 * node.heartbeat_ticks)
    return min(next_due, driver.heard + node.heartbeat_ticks)


def lifetime(node: AccessNode, session: Session) -> float:
    """Return the seconds for which a session's token still holds."""
    # The leeway is for whose token was taken although its time is over by our clock.
    leeway = node.settings.auth.leeway if session.exp * 1000 <= session.since else 0.0
    return session.exp + leeway - node.clock.now_ms() / 1000
