"""A small world for dispatch: a broker, shards, a directory and access nodes in memory, time by hand."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from holdfast import records
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.channel import partition_of
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import Change, NodeUpdate, Query
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.membership.port import Node
from holdfast.network import MemoryNetwork
from holdfast.nodelink.frames import BREAK, ChangeItem, MessageItem, Push, ReplyItem
from holdfast.nodelink.server import IncomingLink, LinkServer
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts
from holdfast.settings import Dispatch, Kafka, Nodelink, Settings
from services.dispatch.node import DispatchNode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from holdfast.log.port import Applied, Batch, ShardState, View
    from holdfast.policy import Policy

PARTITIONS = 4


class FaultyLog(MemoryLog):
    """A log whose replies get lost, or which hangs, by shard."""

    def __init__(
        self, store: MemoryStore, clock: ManualClock, policies: dict[str, Policy] | None = None
    ) -> None:
        super().__init__(store, policies or {}, clock)
        self.lost_replies = 0
        self.away = False
        self.hangs: dict[int, asyncio.Future[None]] = {}
        self.refuses: Callable[[Batch], bool] = lambda _: False
        self.batches: list[Batch] = []

    async def apply(self, shard: int, batch: Batch) -> Applied:
        if self.away:
            raise Retry("away")
        if shard in self.hangs:
            await self.hangs[shard]
        self.batches.append(batch)
        if self.refuses(batch):
            from holdfast.log.port import Applied as Answer
            from holdfast.log.port import Status

            return Answer(Status.REFUSED, self._shard(shard).watermark, reason="cannot decide")
        applied = await super().apply(shard, batch)
        if self.lost_replies and batch.records:
            self.lost_replies -= 1
            raise Retry("the reply was lost")
        return applied

    async def state(self, shard: int) -> ShardState:
        if self.away:
            raise Retry("away")
        return await super().state(shard)


class AccessNode:
    """An access node's end: what it was pushed, and whether a chain was broken."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.incarnation = f"{name}-1"
        self.name = name
        self.pushes: list[Push] = []
        self.incoming: list[IncomingLink] = []
        self.updates = [0] * PARTITIONS
        self.server = LinkServer(
            world.network,
            "",
            0,
            incarnation=self.incarnation,
            secret="",
            metrics=Metrics(),
            on_push=self._on_push,
            on_lost=self.incoming_lost,
            clock=world.clock,
        )

    def _on_push(self, link: IncomingLink, push: Push) -> None:
        self.pushes.append(push)
        if link not in self.incoming:
            self.incoming.append(link)

    def incoming_lost(self, link: IncomingLink) -> None:
        if link in self.incoming:
            self.incoming.remove(link)

    async def start(self) -> None:
        await self.server.start()
        node = Node(self.name, self.incarnation, "access", f"m:{self.server.port}")
        self.world.registry.put(node)

    async def subscribe(self, channel: str) -> None:
        shard = partition_of(channel, PARTITIONS)
        self.updates[shard] += 1
        update = NodeUpdate(self.incarnation, self.updates[shard], [Change("+r", channel)])
        assert await self.world.log.update(shard, update) == self.updates[shard]

    def items(self, kind: type[Any]) -> list[Any]:
        return [item for push in self.pushes for item in push.items if isinstance(item, kind)]

    def messages(self) -> list[tuple[str, int]]:
        return [(item.channel, item.seq) for item in self.items(MessageItem)]

    def replies(self) -> list[ReplyItem]:
        return self.items(ReplyItem)

    def changes(self) -> list[tuple[str, str]]:
        return [(item.channel, item.what) for item in self.items(ChangeItem)]

    def chain(self, partition: int) -> list[tuple[int, int]]:
        return [(push.follows, push.upto) for push in self.pushes if push.partition == partition]

    def breaks(self, partition: int) -> int:
        return sum(1 for follows, _ in self.chain(partition) if follows == BREAK)


class World:
    """Everything of one test."""

    def __init__(
        self,
        *,
        dispatch: Dispatch | None = None,
        buffer: int = 100_000,
        policies: dict[str, Policy] | None = None,
    ) -> None:
        self.policies = policies or {}
        self.clock = ManualClock(settle=80)
        self.broker = MemoryBroker(PARTITIONS, self.clock)
        self.store = MemoryStore(PARTITIONS)
        self.log = MemoryLog(self.store, self.policies, self.clock)
        self.network = MemoryNetwork()
        self.registry = MemoryRegistry()
        self.settings = Settings(
            kafka=Kafka(partitions=PARTITIONS, deadline=1.0),
            nodelink=Nodelink(buffer=buffer),
            dispatch=dispatch or Dispatch(),
        )
        self.nodes: list[DispatchNode] = []
        self.logs: dict[str, FaultyLog] = {}
        self.metrics: dict[str, Metrics] = {}
        self.directories: dict[str, MemoryDirectory] = {}

    async def dispatcher(self, name: str = "d1") -> DispatchNode:
        metrics = Metrics()
        log = FaultyLog(self.store, self.clock, self.policies)
        directory = MemoryDirectory(self.registry)
        await directory.start()
        parts = Parts(
            self.settings,
            self.clock,
            self.network,
            MemoryBus(self.broker, metrics),
            log,
            directory,
            metrics,
        )
        node = DispatchNode(parts, name, random=Random(name))
        self.nodes.append(node)
        self.logs[name], self.metrics[name], self.directories[name] = log, metrics, directory
        await node.start()
        await self.clock.advance(0.2)
        return node

    async def access(self, name: str = "a", *channels: str) -> AccessNode:
        node = AccessNode(self, name)
        await node.start()
        for channel in channels:
            await node.subscribe(channel)
        await self.clock.advance(0.2)
        return node

    def send(self, record: records.Outbound, partition: int | None = None) -> int:
        where = partition_of(record.channel, PARTITIONS) if partition is None else partition
        return self.raw(where, records.encode(record), record.channel.encode())

    def raw(self, partition: int, value: bytes | None, key: bytes = b"k") -> int:
        offset = self.broker.append("outbound", partition, key, value, ())
        self.broker.wake()
        return offset

    def message(self, channel: str, text: str = "hi", **more: Any) -> int:
        body = records.message_body(id=text, sender="u", type="t", data=b'"%b"' % text.encode())
        return self.send(records.Message(channel, body, **more))

    def written(self, topic: Any) -> list[Any]:
        return [record for p in range(PARTITIONS) for record in self.broker.partition(topic, p).records]

    def states(self) -> list[records.StateRecord]:
        return [records.decode_state(record.value) for record in self.written("state")]

    def dead(self) -> list[tuple[str, bytes | None]]:
        return [(dict(record.headers)["reason"].decode(), record.value) for record in self.written("dead")]

    async def view(self, channel: str, **more: Any) -> View:
        query = Query(channel, after=0, limit=1000, **more)
        return (await self.log.read(partition_of(channel, PARTITIONS), [query]))[0]

    def count(self, name: str, metric: str, **labels: str) -> float:
        return self.metrics[name].registry.get_sample_value(f"holdfast_dispatch_{metric}", labels) or 0.0

    async def stop(self) -> None:
        """Stop all that runs, in whatever state it is."""
        import asyncio

        for log in self.logs.values():
            for hang in log.hangs.values():
                if not hang.done():
                    hang.set_result(None)
            log.hangs.clear()
        stopping = asyncio.ensure_future(
            asyncio.gather(*(node.stop() for node in self.nodes), return_exceptions=True)
        )
        for _ in range(50):
            if stopping.done():
                return
            await self.clock.advance(0.5)
        raise AssertionError("a dispatcher does not stop")


def channel_of(partition: int, kind: str = "room") -> str:
    """Return a channel that lives in the partition."""
    number = 0
    while partition_of(f"{kind}:{number}", PARTITIONS) != partition:
        number += 1
    return f"{kind}:{number}"


async def settled(world: World, seconds: float = 3.0) -> None:
    """Wait until no shard is being rebuilt."""
    for _ in range(int(seconds * 10)):
        await world.clock.advance(0.1)
        if not any([(await world.log.state(shard)).rebuilding for shard in range(PARTITIONS)]):
            return
    raise AssertionError("a shard is still being rebuilt")
