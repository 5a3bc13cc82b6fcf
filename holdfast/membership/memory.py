"""Membership inside one process: the embedded cluster, tests and the simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.membership.watchers import Watchers, of_role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.membership.port import Node, Role


class MemoryRegistry:
    """What all directories of one cluster share."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.changed = Watchers()

    def put(self, node: Node) -> None:
        """Register a node, or update it."""
        if self.nodes.get(node.incarnation) != node:
            self.nodes[node.incarnation] = node
            self.changed.call()

    def remove(self, incarnation: str) -> None:
        """Take a node out; also what a test does when it kills one."""
        if self.nodes.pop(incarnation, None) is not None:
            self.changed.call()


class MemoryDirectory:
    """One node's view of a `MemoryRegistry`. See `holdfast.membership.port.Directory`."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self._registry = registry
        self._watchers = Watchers()
        self._joined = ""
        self._forget: Callable[[], None] | None = None

    async def start(self) -> None:
        """See `Directory`."""
        self._forget = self._registry.changed.add(self._watchers.call)

    async def close(self) -> None:
        """See `Directory`."""
        await self.leave()
        if self._forget is not None:
            self._forget()
            self._forget = None

    async def join(self, node: Node) -> None:
        """See `Directory`."""
        if self._joined != node.incarnation:
            await self.leave()
        self._joined = node.incarnation
        self._registry.put(node)

    async def leave(self) -> None:
        """See `Directory`."""
        joined, self._joined = self._joined, ""
        self._registry.remove(joined)

    def nodes(self, role: Role) -> Sequence[Node]:
        """See `Directory`."""
        return of_role(self._registry.nodes.values(), role)

    def watch(self, call: Callable[[], object]) -> Callable[[], None]:
        """See `Directory`."""
        return self._watchers.add(call)

    async def healthy(self) -> bool:
        """See `Directory`."""
        return True
