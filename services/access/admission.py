"""Who may open a connection here: the bounds of the node and of one client address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.protocol.codes import CODES

if TYPE_CHECKING:
    from holdfast.protocol.codec import Ended

    from .driver import Driver
    from .node import AccessNode

REFUSED_SHARE: Final = 64
"""Connections above the bound that are open at once so that they can be told why."""

_NAME_OF_CLOSE: Final = {code.close: code.name for code in CODES.values() if code.close is not None}


class Admission:
    """Counts connections in and out."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self._numbers = 0
        self._by_address: dict[str, int] = {}

    def opened(self, driver: Driver) -> bool:
        """Take a new connection; False: cut it, there are too many even to say so."""
        node, carrier = self._node, driver.carrier
        metrics = node.metrics
        metrics.access_accepts.labels(carrier).inc()
        if len(node.drivers) >= node.settings.access.connections + REFUSED_SHARE:
            metrics.access_refused.labels("connections").inc()
            return False
        self._numbers += 1
        driver.number = self._numbers
        node.drivers[driver.number] = driver
        metrics.access_connections.labels(carrier).inc()
        return True

    def located(self, driver: Driver, address: str) -> str:
        """Take a connection's address; return why it is refused, or ""."""
        node = self._node
        access = node.settings.access
        if len(node.drivers) > access.connections:
            return "connections"
        if access.per_address:
            count = self._by_address.get(address, 0)
            if count >= access.per_address:
                return "per_address"
            self._by_address[address] = count + 1
            driver.address = address
        return ""

    def closed(self, driver: Driver) -> None:
        """Forget a connection whose socket is gone."""
        if self._node.drivers.pop(driver.number, None) is None:
            return
        self._node.metrics.access_connections.labels(driver.carrier).dec()
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
