"""A node that was found dead, though it was only cut off: it closes its clients and takes a new incarnation.

What its old incarnation left in the log is swept by dispatch; nothing is written under it again (inv 6, 8).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry
from holdfast.failures import Failures
from holdfast.protocol.connection import Event

if TYPE_CHECKING:
    from .node import AccessNode

SLICE: Final = 64
"""Clients closed in one turn of the loop."""

RETRY_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


def new_incarnation(name: str) -> str:
    """Return an incarnation that nobody has had."""
    return f"{name}.{secrets.token_hex(6)}"


async def renew(node: AccessNode) -> None:
    """Close all clients with "come back", and begin again as somebody else."""
    _log.warning("%s was found dead: closing %d connections", node.incarnation, len(node.drivers))
    node.metrics.access_fenced.inc()
    # Who connects from now on is refused until this is over; who has no session yet may stay.
    there = [driver for driver in node.open_drivers() if driver.session is not None]
    for start in range(0, len(there), SLICE):
        for driver in there[start : start + SLICE]:
            driver.machine.signal(Event.ENDED, "fenced", "this node was cut off and is starting over")
        await asyncio.sleep(0)
    node.roster.disown()
    node.incarnation = node.produce.incarnation = new_incarnation(node.name)
    node.routes.renew(node.incarnation)
    node.link_server.renew(node.incarnation)
    failures = Failures("renewal", node.clock, node.metrics)
    while not node.draining:
        try:
            await node.announce()
        except Retry as error:
            _log.warning("the new incarnation is not known yet: %s", error)
            await node.clock.sleep(RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - counted; nobody finds this node before others know it
            await failures.pause()
        else:
            return
