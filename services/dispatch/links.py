"""The links to all access nodes, kept in step with the directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.nodelink.link import Link
from holdfast.tls import nodelink_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from holdfast.nodelink.frames import Item
    from holdfast.parts import Parts


class Links:
    """One link for each incarnation of an access node that the directory knows.

    A static directory knows names and addresses only: there the link learns whose it is (`_linked`).

    `positions` yields (partition, generation, offset) of what this process serves: a node that has just been
    linked is told at once, finds every chain broken, and looks for what it missed meanwhile.
    """

    def __init__(
        self,
        parts: Parts,
        dispatcher: str,
        random: Random,
        positions: Callable[[], Iterable[tuple[int, str, int]]],
    ) -> None:
        self._parts = parts
        self._dispatcher = dispatcher
        self._random = random
        self._positions = positions
        self._trust = nodelink_client(parts.settings.nodelink)
        self._links: dict[str, Link] = {}
        self._linked: dict[str, Link] = {}  # by incarnation, those that were connected

    def __len__(self) -> int:
        return sum(1 for link in self._links.values() if link.connected)

    def follow(self) -> None:
        """Open and close links as the directory says."""
        known = self._parts.directory.nodes("access")
        nodes = {node.incarnation or f"{node.name}?": node for node in known if node.address}
        for incarnation, link in tuple(self._links.items()):
            node = nodes.get(incarnation)
            if node is None or node.address != link.node.address:
                del self._links[incarnation]
                self._forget(link)
                link.close()
        for incarnation, node in nodes.items():
            if incarnation not in self._links:
                settings = self._parts.settings.nodelink
                self._links[incarnation] = link = Link(
                    self._parts.network,
                    self._parts.clock,
                    node,
                    dispatcher=self._dispatcher,
                    secret=settings.secret,
                    buffer=settings.buffer,
                    metrics=self._parts.metrics,
                    random=self._random,
                    on_connected=self._greet,
                    trust=self._trust,
                )
                link.start()

    def push(self, partition: int, generation: str, upto: int, by_node: dict[str, list[Item]]) -> None:
        """Push each node's items. Nodes without a link are skipped: they will find a break."""
        links = self._linked
        for incarnation, items in by_node.items():
            link = links.get(incarnation)
            if link is not None:
                link.push(partition, generation, upto, items)

    def announce(self, partition: int, generation: str, upto: int) -> None:
        """Tell every node the position."""
        for link in self._links.values():
            link.push(partition, generation, upto, [])

    def break_chains(self, partition: int, why: str) -> None:
        """Make the partition's next frame to every node a break."""
        self._parts.metrics.dispatch_breaks.labels(why).inc()
        for link in self._links.values():
            link.break_chain(partition)

    def waiting(self) -> int:
        """Return the bytes that wait for the node that takes the least."""
        return max((link.waiting for link in self._links.values()), default=0)

    def close(self) -> None:
        """Close all links."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._linked.clear()

    def _forget(self, link: Link) -> None:
        for incarnation in [name for name, known in self._linked.items() if known is link]:
            del self._linked[incarnation]

    def _greet(self, link: Link) -> None:
        self._forget(link)
        self._linked[link.incarnation] = link
        for partition, generation, upto in self._positions():
            link.push(partition, generation, upto, [])
