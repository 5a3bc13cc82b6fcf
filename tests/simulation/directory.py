"""The simulated membership: each node's view of it is late, and stands still while Consul is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import Retry
from holdfast.membership.watchers import Watchers, of_role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from holdfast.membership.port import Node, Role
    from tests.simulation.loop import Process, SimLoop
    from tests.simulation.network import Links

NAME: Final = "consul"
TTL: Final = 4.0
"""Seconds without a sign of life until a node is taken out."""

BEAT: Final = 1.0


class SimConsul:
    """What all processes share."""

    def __init__(self, loop: SimLoop, links: Links, random: Random) -> None:
        self.loop = loop
        self.links = links
        self.random = random
        self.down = False
        self.nodes: dict[str, Node] = {}
        self.beats: dict[str, float] = {}
        self.views: list[SimDirectory] = []
        loop.spawn(loop.world, self._expire())

    def put(self, node: Node) -> None:
        self.beats[node.incarnation] = self.loop.now
        if self.nodes.get(node.incarnation) != node:
            self.nodes[node.incarnation] = node
            self.changed()

    def remove(self, incarnation: str) -> None:
        self.beats.pop(incarnation, None)
        if self.nodes.pop(incarnation, None) is not None:
            self.changed()

    def changed(self) -> None:
        for view in self.views:
            self.loop.call_later(self.random.uniform(0.005, 0.5), view.refresh, context=view.process.context)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(BEAT / 2)
            if self.down:
                self.beats = dict.fromkeys(self.beats, self.loop.now)
            for name in [name for name, beat in self.beats.items() if beat < self.loop.now - TTL]:
                self.remove(name)


class SimDirectory:
    """One process's handle. See `holdfast.membership.port.Directory`."""

    def __init__(self, consul: SimConsul, process: Process) -> None:
        self.process = process
        self._consul = consul
        self._known: dict[str, Node] = {}
        self._watchers = Watchers()
        self._joined: Node | None = None
        self._task: asyncio.Task[None] | None = None

    def _reaches(self) -> bool:
        return not self._consul.down and self._consul.links.reachable(self.process.name, NAME)

    async def _ask(self) -> None:
        await asyncio.sleep(self._consul.links.delay(self.process.name, NAME))
        if not self._reaches():
            raise Retry("the store of the membership is away")

    def refresh(self) -> None:
        """See what there is to be seen now."""
        if self._reaches() and self._known != self._consul.nodes:
            self._known = dict(self._consul.nodes)
            self._watchers.call()

    async def start(self) -> None:
        await self._ask()
        self._consul.views.append(self)
        self._known = dict(self._consul.nodes)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            if self._reaches():
                if self._joined is not None:
                    self._consul.put(self._joined)
                self.refresh()

    async def close(self) -> None:
        await self.leave()
        if self in self._consul.views:
            self._consul.views.remove(self)
        if self._task is not None:
            self._task.cancel()

    async def join(self, node: Node) -> None:
        await self._ask()
        if self._joined is not None and self._joined.incarnation != node.incarnation:
            self._consul.remove(self._joined.incarnation)
        self._joined = node
        self._consul.put(node)

    async def leave(self) -> None:
        joined, self._joined = self._joined, None
        if joined is not None and self._reaches():
            self._consul.remove(joined.incarnation)

    def nodes(self, role: Role) -> Sequence[Node]:
        return of_role(self._known.values(), role)

    def watch(self, call: Callable[[], Any]) -> Callable[[], None]:
        return self._watchers.add(call)

    async def healthy(self) -> bool:
        return self._reaches()
