"""Who may come in: the bounds of the node and of one client address, and the rate at which a crowd is let in.

What is above the rate is turned away before it has cost more than its accept, and told when to come back:
each of a crowd gets the next place in a queue that moves at the rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from holdfast.protocol.codes import CODES

if TYPE_CHECKING:
    from holdfast.protocol.codec import Ended

    from .driver import Driver
    from .node import AccessNode

REFUSED_SHARE: Final = 64
"""Connections above the bound that are open at once so that they can be told why."""

TOLD_SECONDS: Final = 1.0
"""Seconds in which who is refused must say something: what it is told before that may never reach it."""

LONGEST_WAIT: Final = 60.0
"""Seconds after which a crowd is told to come back, at most; above it is spread over their second half."""

FULL_WAIT: Final = 5.0
"""Seconds after which, about, who found the node full may look again."""

FULL: Final = "this node has all the channels that it can serve"

_NAME_OF_CLOSE: Final = {code.close: code.name for code in CODES.values() if code.close is not None}


class Admission:
    """Counts connections in and out."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self._numbers = 0
        self._carriers: dict[str, tuple[Any, Any]] = {}
        self._by_address: dict[str, int] = {}
        self._refused: dict[Driver, str] = {}
        self._allowance = 0.0  # when the bucket is full again, as in `protocol.allowance`
        self._promised = 0.0  # the last place in the queue of those who were turned away

    def opened(self, driver: Driver) -> bool:
        """Take a new connection; False: cut it, there are too many even to say so."""
        node = self._node
        accepts, connections = self._counted(driver.carrier)
        accepts.inc()
        if len(node.drivers) >= node.settings.access.connections + REFUSED_SHARE:
            node.metrics.access_refused.labels("connections").inc()
            return False
        self._numbers += 1
        driver.number = self._numbers
        node.drivers[driver.number] = driver
        connections.inc()
        return True

    def _counted(self, carrier: str) -> tuple[Any, Any]:
        """Return a carrier's metrics, looked up once: `labels` costs as much as a token's check."""
        known = self._carriers.get(carrier)
        if known is None:
            metrics = self._node.metrics
            known = metrics.access_accepts.labels(carrier), metrics.access_connections.labels(carrier)
            self._carriers[carrier] = known
        return known

    def located(self, driver: Driver, address: str) -> None:
        """Take a connection's address; one too many is turned away at its first bytes, or now."""
        why = self._too_many(driver, address)
        if not why:
            return
        if len(self._refused) >= REFUSED_SHARE:
            self._turn_away(driver, why)
            return
        self._refused[driver] = why
        wheel = self._node.wheel
        driver.limit = wheel.tick + wheel.ticks(TOLD_SECONDS)
        wheel.put(driver, driver.limit)

    def _too_many(self, driver: Driver, address: str) -> str:
        access = self._node.settings.access
        if len(self._node.drivers) > access.connections:
            return "connections"
        if access.per_address:
            count = self._by_address.get(address, 0)
            if count >= access.per_address:
                return "per_address"
            self._by_address[address] = count + 1
            driver.address = address
        return ""

    def _turn_away(self, driver: Driver, why: str) -> None:
        driver.turn_away(why, self._node.random.uniform(0.5, 1.5) * FULL_WAIT)

    def first(self, driver: Driver) -> bool:
        """Take the first bytes of a connection; False: it was turned away."""
        if why := self._refused.pop(driver, ""):
            self._turn_away(driver, why)
            return False
        node = self._node
        access = node.settings.access
        now = node.clock.monotonic()
        full = max(self._allowance, now)
        if full - now <= (access.connect_burst - 1) / access.connect_rate + 1e-9:
            self._allowance = full + 1 / access.connect_rate
            return True
        self._promised = max(self._promised, now) + 1 / access.connect_rate
        wait = self._promised - now
        if wait > LONGEST_WAIT:
            self._promised = now + LONGEST_WAIT
            wait = node.random.uniform(LONGEST_WAIT / 2, LONGEST_WAIT)
        driver.turn_away("rate", wait)
        return False

    def full(self, channel: str) -> bool:
        """Tell whether a channel would be one too many here."""
        node = self._node
        if len(node.registry) < node.settings.access.channels or node.registry.get(channel) is not None:
            return False
        node.metrics.access_channels_refused.inc()
        return True

    def closed(self, driver: Driver) -> None:
        """Forget a connection whose socket is gone."""
        if self._node.drivers.pop(driver.number, None) is None:
            return
        self._refused.pop(driver, None)
        self._counted(driver.carrier)[1].dec()
        address = driver.address
        if address is not None:
            left = self._by_address[address] - 1
            if left:
                self._by_address[address] = left
            else:
                del self._by_address[address]


def name_of_close(ended: Ended) -> str:
    """Return the name of a close, as metrics and handlers see it."""
    if ended.code in _NAME_OF_CLOSE:
        return _NAME_OF_CLOSE[ended.code]
    if ended.code < 1000:
        return "handshake"
    return "closed" if ended.by_peer else "violation"
