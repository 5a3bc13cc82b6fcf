"""A small world for access: one node on memory adapters, time by hand, and clients that speak frames."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

from holdfast import records
from holdfast.auth import issue
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.channel import partition_of
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import Batch, LogRecord, Op, Status, Watermark
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.network import MemoryNetwork, MemoryTransport
from holdfast.nodelink.frames import ChangeItem, MessageItem, Push, ReplyItem
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts
from holdfast.policy import DEFAULT_POLICIES, Policy
from holdfast.protocol.codes import CODES
from holdfast.protocol.websocket import WebSocketClient
from holdfast.settings import Access, Auth, Kafka, Nodelink, Process, Settings
from services.access import series
from services.access.node import AccessNode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.log.port import BeatAnswer, NodeUpdate, Placed, Query, View
    from holdfast.nodelink.frames import Item

PARTITIONS = 4
AUTH = Auth(secrets=("s" * 32,))


class FaultyLog(MemoryLog):
    """A log that can be away, slow, or counted."""

    away = False

    def __init__(
        self, store: MemoryStore, clock: ManualClock, policies: Mapping[str, Policy] = DEFAULT_POLICIES
    ) -> None:
        super().__init__(store, policies, clock)
        self.updates: list[NodeUpdate] = []
        self.reads: list[Sequence[Query]] = []
        self.gate: asyncio.Event | None = None
        self.hold_reads: asyncio.Event | None = None

    async def update(self, shard: int, update: NodeUpdate) -> int:
        if self.away:
            raise Retry("away")
        self.updates.append(update)
        if self.gate is not None:
            await self.gate.wait()
        return await super().update(shard, update)

    async def beat(self, shard: int, incarnation: str, *, told: int = 0, load: int = -1) -> BeatAnswer:
        if self.away:
            raise Retry("away")
        return await super().beat(shard, incarnation, told=told, load=load)

    async def read(self, shard: int, queries: Sequence[Query]) -> Sequence[View]:
        if self.away:
            raise Retry("away")
        self.reads.append(queries)
        views = await super().read(shard, queries)
        if self.hold_reads is not None:
            await self.hold_reads.wait()
        return views


class World:
    """One node, the log behind it, and a dispatcher made by hand."""

    def __init__(
        self,
        *,
        sends_a_slice: int | None = None,
        settle: int = 50,
        policies: Any = DEFAULT_POLICIES,
        **access: Any,
    ) -> None:
        self.clock = ManualClock(settle=settle)
        self.network = MemoryNetwork()
        self.broker = MemoryBroker(PARTITIONS, self.clock)
        self.store = MemoryStore(PARTITIONS)
        self.log = FaultyLog(self.store, self.clock, policies)
        self.registry = MemoryRegistry()
        self.metrics = Metrics()
        self.settings = Settings(
            auth=AUTH,
            process=Process(drain_seconds=10.0),
            access=Access(**({"websocket_port": 0, "tcp_port": 0} | access)),
            kafka=Kafka(partitions=PARTITIONS),
            nodelink=Nodelink(port=0),
        )
        self.parts = Parts(
            settings=self.settings,
            clock=self.clock,
            network=self.network,
            bus=MemoryBus(self.broker),
            log=self.log,
            directory=MemoryDirectory(self.registry),
            metrics=self.metrics,
        )
        self.node = AccessNode(self.parts, "a")
        if sends_a_slice is not None:
            self.node.delivery.fanout.slice_sends = sends_a_slice
        self.offsets = [0] * PARTITIONS
        self.upto = [-1] * PARTITIONS
        self.claimed: set[int] = set()
        self.watermarks = [Watermark()] * PARTITIONS

    async def __aenter__(self) -> Self:
        await self.parts.bus.start()
        await self.parts.directory.start()
        for shard in range(PARTITIONS):
            await self.claim(shard)
        await self.node.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        del exc
        self.log.away = False
        self.broker.away = False
        stopping = asyncio.ensure_future(self.node.stop())
        for _ in range(400):
            if stopping.done():
                break
            await self.clock.advance(0.1)
        await stopping
        # What is counted by a label has had its series from the start.
        for name, known in (("closes", series.ENDS), ("errors", CODES), ("refused", series.REFUSALS)):
            counted = {value for (value,) in getattr(self.metrics, f"access_{name}")._metrics}
            assert counted == set(known), name

    # clients

    def token(self, user: str, **claims: Any) -> str:
        return issue(AUTH, user, self.clock.now_ms(), **claims)[0]

    async def open(self, *, tcp: bool = False, msgpack: bool = False, prefix: bytes = b"") -> Client:
        client = Client(self, tcp=tcp, msgpack=msgpack, prefix=prefix)
        port = self.node.details()["tcp" if tcp else "websocket"]
        await self.network.connect(lambda: client, "m", port)
        await self.clock.settle()
        return client

    async def join(self, user: str, *, resume: Any = None, tcp: bool = True, **more: Any) -> Client:
        """Open a connection and connect."""
        msgpack = more.pop("msgpack", False)
        client = await self.open(tcp=tcp and not msgpack, msgpack=msgpack)
        extra = {"resume": resume} if resume else {}
        client.send(t="connect", token=more.pop("token", None) or self.token(user), **extra, **more)
        await client.got("connected")
        return client

    # dispatch, by hand

    async def claim(self, shard: int) -> None:
        state = await self.log.state(shard)
        taken = await self.log.claim(shard, "d", expected=state, generation=f"g{shard}")
        assert taken.owner == "d"

    async def apply(self, channel: str, op: Op, **fields: Any) -> Placed:
        """Apply one record; push nothing."""
        shard = partition_of(channel, PARTITIONS)
        offset = self.offsets[shard]
        self.offsets[shard] += 1
        record = LogRecord(offset=offset, ts=self.clock.now_ms(), op=op, channel=channel, **fields)
        last = Watermark(offset, record.ts, 0)
        batch = Batch("d", self.watermarks[shard], last, [record], now_ms=self.clock.now_ms())
        applied = await MemoryLog.apply(self.log, shard, batch)
        assert applied.status is Status.APPLIED
        self.watermarks[shard] = last
        return applied.placed[0]

    async def append(self, channel: str, text: str = "x") -> MessageItem:
        """Append a message; return what dispatch would push."""
        return (await self.append_routed(channel, text))[0]

    async def append_routed(self, channel: str, text: str = "x") -> tuple[MessageItem, bool]:
        """Append a message; return it, and whether the route named the node at that moment."""
        body = records.message_body(id=text, sender=None, type="t", data=json.dumps(text).encode())
        entry = records.log_entry(self.clock.now_ms(), body)
        placed = await self.apply(channel, Op.APPEND, body=entry)
        item = MessageItem(channel, placed.epoch, placed.seq, entry)
        return item, self.node.incarnation in placed.nodes

    def push(self, channel: str, *items: Item, follows: int | None = None, upto: int | None = None) -> None:
        """Push items, as following what was pushed before."""
        shard = partition_of(channel, PARTITIONS)
        before = self.upto[shard]
        self.upto[shard] = self.offsets[shard] - 1 if upto is None else upto
        push = Push(shard, f"g{shard}", before if follows is None else follows, self.upto[shard], list(items))
        self.node.links.push(None, push)

    async def publish(self, channel: str, *texts: str, lose: bool = False) -> None:
        """Append messages and push them, unless the push gets lost."""
        items = [await self.append(channel, text) for text in texts]
        if not lose:
            self.push(channel, *items)
        await self.clock.settle()

    async def change(self, channel: str, what: str, *, lose: bool = False) -> None:
        if not lose:
            self.push(channel, ChangeItem(channel, what))
        await self.clock.settle()

    def reply(self, connection: int, frame: dict[str, Any], deadline: int | None = None) -> None:
        at = self.clock.now_ms() + 10_000 if deadline is None else deadline
        self.push("user:x", ReplyItem(connection, at, json.dumps(frame).encode()))

    # what was produced

    def inbound(self) -> list[Any]:
        found = [
            record
            for partition in range(PARTITIONS)
            for record in self.broker.partition("inbound", partition).records
        ]
        return [records.decode_inbound(record.value) for record in found if record.value is not None]

    def sends(self) -> list[tuple[str, int]]:
        return [(record.user, record.n) for record in self.inbound() if isinstance(record, records.Send)]

    def events(self) -> list[tuple[str, str, str]]:
        return [
            (record.user, record.kind, record.reason)
            for record in self.inbound()
            if isinstance(record, records.SessionEvent)
        ]

    def cursors(self) -> list[records.Cursor]:
        found = [
            records.decode_outbound(record.value)
            for partition in range(PARTITIONS)
            for record in self.broker.partition("outbound", partition).records
            if record.value is not None
        ]
        return [record for record in found if isinstance(record, records.Cursor)]

    def value(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        for suffix in ("", "_total"):
            found = self.metrics.registry.get_sample_value(f"holdfast_{name}{suffix}", labels)
            if found is not None:
                return found
        return 0.0


class Client(asyncio.Protocol):
    """A client that keeps what it gets."""

    def __init__(self, world: World, *, tcp: bool, msgpack: bool, prefix: bytes) -> None:
        self.world = world
        self.tcp = tcp
        self.msgpack = msgpack
        self.frames: list[dict[str, Any]] = []
        self.closed: int | None = None
        self.lost = False
        self.reads = 0
        self._prefix = prefix
        self._buffer = b""
        self._codec = WebSocketClient()
        self.transport: MemoryTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport
        transport.write(self._prefix)
        if not self.tcp:
            offered = ("holdfast.v1.msgpack",) if self.msgpack else ()
            transport.write(self._codec.request("m", "/ws", offered))

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        if self.tcp:
            self._buffer += data
            while len(self._buffer) >= 4:
                size = int.from_bytes(self._buffer[:4], "big")
                if len(self._buffer) < 4 + size:
                    return
                self.frames.append(json.loads(self._buffer[4 : 4 + size]))
                self._buffer = self._buffer[4 + size :]
            return
        for payload in self._codec.receive(data):
            if self.msgpack:
                import msgspec

                self.frames.append(msgspec.msgpack.decode(payload))
            else:
                self.frames += [json.loads(line) for line in payload.split(b"\n")]
        if self._codec.outgoing:
            self.transport.write(self._codec.take())
        if self._codec.ended is not None:
            self.closed = self._codec.ended.code
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def send(self, **frame: Any) -> None:
        """Send one frame."""
        payload = json.dumps(frame).encode()
        if self.msgpack:
            import msgspec

            payload = msgspec.msgpack.encode(frame)
        self.raw(payload)

    def raw(self, payload: bytes) -> None:
        if self.tcp:
            self.transport.write(len(payload).to_bytes(4, "big") + payload)
        else:
            self.transport.write(self._codec.wrap(payload))

    def stop_reading(self) -> None:
        self.transport.pause_reading()

    def read_again(self) -> None:
        self.transport.resume_reading()

    async def until(self, condition: Callable[[], Any], turns: int = 2000) -> None:
        for _ in range(turns):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"not in time; got {self.frames}")

    async def gone(self) -> None:
        """Wait until the connection is gone."""
        await self.until(lambda: self.lost)

    async def count(self, channel: str, count: int) -> None:
        """Wait for so many messages of a channel."""
        await self.until(lambda: len(self.seqs(channel)) >= count, turns=100_000)

    async def got(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the first frame of a kind with these fields; wait for it."""

        def find() -> dict[str, Any] | None:
            for frame in self.frames:
                if frame["t"] == kind and all(frame.get(name) == value for name, value in fields.items()):
                    return frame
            return None

        await self.until(find)
        found = find()
        assert found is not None
        return found

    def take(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["t"] == kind]

    def seqs(self, channel: str) -> list[int]:
        return [frame["seq"] for frame in self.take("message") if frame["channel"] == channel]

    @property
    def number(self) -> int:
        """Its number at the node: the connections are numbered in the order of their opening."""
        return max(self.world.node.drivers)
