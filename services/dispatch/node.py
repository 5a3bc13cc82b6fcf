"""The dispatcher of one process: which partitions it serves, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from holdfast.errors import Retry
from holdfast.failures import forever
from holdfast.membership.port import Node

from .feed import Feed
from .links import Links
from .ownership import owned
from .partition import Partition
from .sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from holdfast.bus.port import Consumer, Producer
    from holdfast.parts import Parts

COMMIT_SECONDS: Final = 1.0
STOPPED: Final = 2.0
"""Seconds by which a commit may be late. Who was stopped for longer may have been superseded, and learns it
in a moment; until then its offsets would look like a backlog, and publishers be refused."""

RETRY_SECONDS: Final = 0.5

T = TypeVar("T")

_log = logging.getLogger(__name__)


class DispatchNode:
    """One dispatcher. `name` decides, by rendezvous hash, which partitions are its own."""

    def __init__(self, parts: Parts, name: str, *, random: Random | None = None) -> None:
        self._parts = parts
        self._random = random or Random()  # noqa: S311 - jitter and ids that need to differ, not to be secret
        self.name = name
        self.incarnation = f"{name}-{self._random.getrandbits(48):012x}"
        self._node = Node(
            name,
            self.incarnation,
            "dispatch",
            metrics=parts.metrics_address,
            region=parts.settings.process.region,
        )
        self._links = Links(parts, self.incarnation, self._random, self._positions)
        self._partitions: dict[int, Partition] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._unwatch: Callable[[], None] | None = None
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._feed: Feed | None = None
        self._sweeper: Sweeper | None = None
        self._serving = False

    async def start(self) -> None:
        """Join the cluster and begin to serve."""
        parts = self._parts
        settings = parts.settings
        self._consumer = await self._until_done(
            lambda: parts.bus.reader("outbound", f"{settings.kafka.group}-dispatch")
        )
        self._producer = await self._until_done(lambda: parts.bus.producer(deadline=settings.kafka.deadline))
        self._feed = Feed(self._consumer, parts.clock, parts.metrics, bound=settings.dispatch.pending)
        self._feed.start(parts.bus.partitions)
        parts.metrics.dispatch_queued_limit.set(settings.dispatch.pending)
        parts.metrics.dispatch_link_bytes_limit.set(settings.nodelink.buffer)
        self._unwatch = parts.directory.watch(self._changed.set)
        await self._until_done(lambda: parts.directory.join(self._node))
        self._serving = True
        self._changed.set()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(forever(name, step, parts.clock, parts.metrics))
            for name, step in (("ownership", self._follow), ("lag", self._commit))
        ]
        self._sweeper = Sweeper(parts, self.incarnation, self._producer, self._served)
        await self._sweeper.start()

    async def stop(self) -> None:
        """Hand all partitions over and leave."""
        self._serving = False
        parts = self._parts
        with contextlib.suppress(Retry):
            # Those who take over begin to wait for the tokens while these are still being released.
            await parts.directory.join(msgspec.structs.replace(self._node, draining=True))
        if self._unwatch is not None:
            self._unwatch()
        if self._sweeper is not None:
            await self._sweeper.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number in tuple(self._partitions):
            self._give_up(number)
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        self._links.close()
        if self._feed is not None:
            await self._feed.stop()
        for client in (self._consumer, self._producer):
            if client is not None:
                with contextlib.suppress(Retry):
                    await client.close()
        with contextlib.suppress(Retry):
            await parts.directory.leave()

    def problems(self) -> list[str]:
        """Return what keeps this dispatcher from serving. A Redis or Kafka that all share is none of it."""
        if not self._serving:
            return ["not serving: starting or stopping"]
        return sorted({p.refusal for p in self._partitions.values() if p.refusal})

    def details(self) -> dict[str, Any]:
        """Return names and what is served now."""
        return {
            "incarnation": self.incarnation,
            "partitions": self._served(),
            "links": len(self._links),
            "alarms": [p.alarm for p in self._partitions.values() if p.alarm],
        }

    def _served(self) -> list[int]:
        return sorted(p.number for p in self._partitions.values() if p.serving)

    def _positions(self) -> Iterator[tuple[int, str, int]]:
        for partition in self._partitions.values():
            if partition.position is not None:
                yield partition.position

    # ownership

    async def _follow(self) -> None:
        await self._changed.wait()
        self._changed.clear()
        try:
            self._links.follow()
            names = {node.name for node in self._parts.directory.nodes("dispatch") if not node.draining}
            wanted = owned(self.name, names | {self.name}, self._parts.bus.partitions)
            for number in self._partitions.keys() - wanted:
                self._give_up(number)
            for number in sorted(wanted - self._partitions.keys() - self._leaving.keys()):
                self._take_up(number)
        except BaseException:
            self._changed.set()  # whatever came of it, it is to be looked at again
            raise

    def _take_up(self, number: int) -> None:
        assert self._feed is not None
        assert self._producer is not None
        self._partitions[number] = partition = Partition(
            number,
            self._parts,
            owner=self.incarnation,
            feed=self._feed,
            links=self._links,
            producer=self._producer,
            random=self._random,
        )
        partition.start()

    def _give_up(self, number: int) -> None:
        partition = self._partitions.pop(number)
        self._leaving[number] = task = asyncio.get_running_loop().create_task(partition.stop())
        task.add_done_callback(lambda _: self._gone(number))

    def _gone(self, number: int) -> None:
        self._leaving.pop(number, None)
        # It may have become this process's own again meanwhile.
        self._changed.set()

    # lag, for those who watch, and for those who refuse what would only be more of it

    async def _commit(self) -> None:
        assert self._feed is not None
        lag = self._parts.metrics.dispatch_lag
        clock = self._parts.clock
        due = clock.monotonic() + COMMIT_SECONDS
        await clock.sleep(COMMIT_SECONDS)
        if clock.monotonic() - due > STOPPED:
            return
        metrics = self._parts.metrics
        metrics.dispatch_link_bytes.set(self._links.waiting())
        metrics.dispatch_queued.set(self._feed.queued())
        offsets = {p.number: p.carried.offset + 1 for p in self._partitions.values() if p.serving}
        if not offsets:
            lag.clear()
            return
        try:
            await self._feed.commit(offsets)
            ends = await self._parts.bus.ends("outbound")
        except Retry as error:
            _log.warning("offsets are not committed: %s", error)
            return
        lag.clear()  # of what others own by now, too
        for number, offset in offsets.items():
            lag.labels(str(number)).set(max(0, ends[number][1] - max(offset, ends[number][0])))

    async def _until_done(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Retry as error:
                _log.warning("starting waits: %s", error)
            await self._parts.clock.sleep(RETRY_SECONDS)
