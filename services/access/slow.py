"""Clients that do not read: paused, put aside where a message is held back, caught up when they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.protocol.connection import State

from .timers import NEVER

if TYPE_CHECKING:
    from .driver import Driver
    from .node import AccessNode

PAUSED: Final = 1
"""The client does not read: its transport's buffer is above the bound."""

ASIDE: Final = 2
"""Besides, a message had to be held back for it."""

ENDED: Final = 4
FRESH: Final = 8
"""Nothing came from the client yet."""

LOST: Final = 16
"""Its socket is gone, and it is let go of when its turn comes; until then it counts as ENDED, too."""


def pause(node: AccessNode, driver: Driver) -> None:
    """Take notice that a client does not read: it is not read from either, and closed if that lasts."""
    if driver.blocked & ENDED:
        return
    driver.blocked |= PAUSED
    limit = node.wheel.tick + node.wheel.ticks(node.settings.access.aside)
    driver.limit = min(driver.limit or limit, limit)  # the time for connecting goes on
    node.wheel.put(driver, driver.limit)
    driver.transport.pause_reading()


def put_aside(node: AccessNode, driver: Driver) -> None:
    """Note that a message was held back for a client."""
    if not driver.blocked & ASIDE:
        driver.blocked |= ASIDE
        node.metrics.access_aside.inc()
        node.metrics.access_put_aside.inc()


def resume(node: AccessNode, driver: Driver) -> None:
    """Go on with a client that reads again: it gets what was held back from the log."""
    if driver.blocked & ENDED:
        return
    aside = driver.blocked & ASIDE
    driver.blocked = 0
    if driver.machine.state >= State.OPEN:
        driver.limit = NEVER
    driver.heard = node.wheel.tick
    node.inflow.resume(driver)
    if aside:
        node.metrics.access_aside.dec()
    for channel in driver.channels_list():
        node.delivery.reads_again(channel, driver)
