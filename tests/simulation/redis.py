"""The simulated Redis: the memory log behind delays, outages, lost replies and stalls.

A call that was given up may still be carried out, later: what a stalled server finds in its sockets.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import Retry
from holdfast.log.memory import MemoryLog, MemoryStore

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from random import Random

    from holdfast.log.port import Batch, NodeUpdate
    from holdfast.log.shard import Shard
    from holdfast.policy import Policy
    from tests.simulation.loop import Process, SimClock, SimLoop
    from tests.simulation.network import Links

NAME: Final = "redis"

SURPRISE: Final = "what nobody expects"
"""The text of an exception that no port names, and that a background loop must survive."""

Snapshot = dict[int, "Shard | None"]


class SimRedis:
    """What all processes share. `on_applied` sees each apply that took effect, before anybody else.

    `on_updated` sees each update of a node: the shard, its process, what it was answered, and whether its
    incarnation was dead.
    """

    def __init__(
        self,
        loop: SimLoop,
        links: Links,
        clock: SimClock,
        partitions: int,
        policies: Mapping[str, Policy],
        random: Random,
    ) -> None:
        self.loop = loop
        self.links = links
        self.store = MemoryStore(partitions)
        self.log = MemoryLog(self.store, policies, clock)
        self.random = random
        self.down = False
        self.lost_requests = 0.0
        self.lost_replies = 0.0
        self.on_applied: Callable[[int, Batch, Any, str], None] = lambda *_: None
        self.on_updated: Callable[[int, Process, NodeUpdate, int, bool], None] = lambda *_: None
        self.surprises: dict[Process, float] = {}  # whose calls fail so, and how often
        self.begun: dict[int, float] = {}  # by shard: when its last tenure began
        self._stalled: list[Callable[[], None]] | None = None

    def stall(self) -> None:
        self._stalled = []

    def resume(self) -> None:
        stalled, self._stalled = self._stalled, None
        for call in stalled or ():
            call()

    def snapshot(self) -> Snapshot:
        return {shard: self.store.snapshot(shard) for shard in range(self.store.partitions)}

    def restore(self, snapshot: Snapshot) -> None:
        for shard, held in snapshot.items():
            self.store.restore(shard, held)

    def request(self, process: Process, future: asyncio.Future[Any], name: str, args: Any) -> None:
        """Carry a call out, some time, and answer it."""
        loop = self.loop
        delay = self.links.delay(process.name, NAME)
        if self.random.random() < self.lost_requests or not self.links.reachable(process.name, NAME):
            self._unless_cut(process, future, delay)
            return
        arrive = functools.partial(self._arrive, process, future, name, args)
        loop.call_later(delay, arrive, context=loop.world.context)

    def _unless_cut(self, process: Process, future: asyncio.Future[Any], delay: float) -> None:
        # A cut link says nothing: the caller's own time limit ends it. A broken one says so.
        if self.links.reachable(process.name, NAME):
            self.loop.call_later(delay, _fail, future, context=self.loop.world.context)

    def _arrive(self, process: Process, future: asyncio.Future[Any], name: str, args: Any) -> None:
        if self._stalled is not None:
            self._stalled.append(functools.partial(self._arrive, process, future, name, args))
            return
        delay = self.links.delay(process.name, NAME)
        if self.down:
            self.loop.call_later(delay, _fail, future, context=self.loop.world.context)
            return
        error: Exception | None = None
        result: Any = None
        dead = name == "update" and self._is_dead(*args[0])
        coroutine = getattr(self.log, name)(*args[0], **args[1])
        try:
            coroutine.send(None)
        except StopIteration as done:
            result = done.value
        except Exception as failed:  # noqa: BLE001 - the caller gets it
            error = failed
        if name == "apply" and error is None:
            shard, batch = args[0]
            self.on_applied(shard, batch, result, self.store.shards[shard].owner)
        if name == "begin" and error is None:
            self.begun[args[0][0]] = self.loop.now
        if name == "update" and error is None:
            self.on_updated(args[0][0], process, args[0][1], result, dead)
        if self.random.random() < self.lost_replies or not self.links.reachable(process.name, NAME):
            self._unless_cut(process, future, delay)
            return
        self.loop.call_later(delay, _answer, future, result, error, context=self.loop.world.context)

    def _is_dead(self, shard: int, update: NodeUpdate) -> bool:
        held = self.store.shards.get(shard)
        return held is not None and update.incarnation in held.nodes.dead


def _fail(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(Retry("the connection to the store was lost"))


def _late(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(Retry("the store does not answer"))


def _answer(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class SimLog:
    """One process's handle: whatever `holdfast.log.port.Log` offers, by way of the network."""

    def __init__(self, redis: SimRedis, process: Process, timeout: float) -> None:
        self.partitions = redis.store.partitions
        self._redis = redis
        self._process = process
        self._timeout = timeout

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._call, name)

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        often = self._redis.surprises.get(self._process, 0.0)
        surprise = often > 0.0 and self._redis.random.random() < often
        if surprise and self._redis.random.random() < 0.5:
            raise RuntimeError(SURPRISE)  # it was not even sent
        loop = self._redis.loop
        future = loop.create_future()
        timer = loop.call_later(self._timeout, _late, future)
        self._redis.request(self._process, future, name, (args, kwargs))
        try:
            answer = await future
        finally:
            timer.cancel()
        if surprise:
            raise RuntimeError(SURPRISE)
        return answer

    async def start(self) -> None:
        """See `Log`."""

    async def close(self) -> None:
        """See `Log`."""

    async def healthy(self) -> bool:
        """See `Log`."""
        return not self._redis.down
