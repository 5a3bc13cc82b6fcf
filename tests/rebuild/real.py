"""Dispatch, Kafka and Redis as they are: numbered traffic, and what became of it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from holdfast import records
from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.log.port import Change, NodeUpdate, Query
from holdfast.membership.memory import MemoryRegistry
from holdfast.membership.port import Node
from holdfast.network import TcpNetwork
from holdfast.nodelink.frames import BREAK, MessageItem, Push
from holdfast.nodelink.server import LinkServer
from holdfast.observe.metrics import Metrics
from holdfast.settings import Dispatch, Kafka, Redis, Settings
from tests.dispatch.process import Process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.bus.port import Producer
    from holdfast.log.port import Log, View

P = 6
CHANNELS = [f"room:{number}" for number in range(18)]
_ID = re.compile(rb'"id":"(\d+)"')


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait until something is true; what raises Retry is asked again."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if await holds():
                    return
            except Retry:
                pass
            await asyncio.sleep(0.05)


class Real:
    """One dispatcher, one node that takes pushes, and a writer whose every message is sent twice."""

    def __init__(self, kafka: str, redis: str, prefix: str) -> None:
        self.settings = Settings(
            kafka=Kafka(servers=kafka, prefix=prefix, partitions=P, replication=1, deadline=5.0),
            redis=Redis(url=redis, prefix=prefix, timeout=1.0),
            dispatch=Dispatch(takeover=1.0, idle=0.3),
        )
        self.registry = MemoryRegistry()
        self.process = Process(self.settings, self.registry, "d1")
        self.pushes: list[Push] = []
        self.sent = 0
        self._server = LinkServer(
            TcpNetwork(),
            "127.0.0.1",
            0,
            incarnation="a-1",
            secret="",
            metrics=Metrics(),
            on_push=lambda _, push: self.pushes.append(push),
            on_lost=lambda _: None,
        )
        self._producer: Producer | None = None

    @property
    def log(self) -> Log:
        return self.process.parts.log

    async def start(self) -> None:
        await self._server.start()
        self.registry.put(Node("a", "a-1", "access", f"127.0.0.1:{self._server.port}"))
        await self.process.start()
        for shard in range(P):
            changes = [Change("+r", channel) for channel in CHANNELS if partition_of(channel, P) == shard]
            await self.log.update(shard, NodeUpdate("a-1", 1, changes))
        self._producer = await self.process.parts.bus.producer(deadline=5.0)
        await until(self._serving, 20)

    async def _serving(self) -> bool:
        return len(self.process.partitions()) == P

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.close()
        await self.process.stop()
        self._server.close()

    async def write(self, rounds: int, pause: float = 0.01) -> None:
        """Write the next messages to every channel, each one twice, as a client that got no ack does."""
        assert self._producer is not None
        for _ in range(rounds):
            self.sent += 1
            body = b'"id":"%d"' % self.sent
            futures = [
                self._producer.produce("outbound", partition_of(channel, P), channel.encode(), record)
                for channel in CHANNELS
                for record in [records.encode(records.Message(channel, body, "u\0c", self.sent * 1024))] * 2
            ]
            await asyncio.gather(*futures)
            await asyncio.sleep(pause)

    async def views(self) -> dict[str, View]:
        """Return every channel with all its entries. Raises Retry."""
        found = {}
        for channel in CHANNELS:
            (found[channel],) = await self.log.read(
                partition_of(channel, P), [Query(channel, after=0, limit=10_000)]
            )
        return found

    async def heads(self) -> set[int]:
        """Return the heads of all channels. Raises Retry."""
        return {view.head for view in (await self.views()).values()}

    async def settled(self, seconds: float = 30) -> dict[str, View]:
        """Wait until every channel holds what was sent, and return them: each number once, in order."""

        async def there() -> bool:
            return await self.heads() == {self.sent}

        await until(there, seconds)
        views = await self.views()
        for channel, view in views.items():
            numbers = self.numbers(view)
            assert numbers == list(range(1, self.sent + 1)), channel
            assert [seq for seq, _ in view.entries] == numbers
        return views

    @staticmethod
    def numbers(view: View) -> list[int]:
        """Return the messages that a channel holds."""
        return [int(found[1]) for _, entry in view.entries if (found := _ID.search(entry))]

    def check_pushes(self) -> None:
        """Each push follows the one before, or comes after a break; none says again what was said."""
        for channel in CHANNELS:
            seen, broken = 0, True
            for push in self.pushes:
                if push.partition != partition_of(channel, P):
                    continue
                broken = broken or push.follows == BREAK
                for item in push.items:
                    if isinstance(item, MessageItem) and item.channel == channel:
                        assert item.seq > seen, f"{channel}: {item.seq} was pushed after {seen}"
                        assert item.seq == seen + 1 or broken, f"{channel}: a gap without a break"
                        seen, broken = item.seq, False
