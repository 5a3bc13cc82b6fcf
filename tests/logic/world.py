"""A small world for logic: a broker and shards in memory, time by hand, producers that fail on demand."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast import records
from holdfast.app import App
from holdfast.bus.backlog import of_outbound
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.channel import partition_of
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import Batch, LogRecord, Op, Query, Watermark
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka, Logic, Settings
from services.logic.gate import Gate
from services.logic.outbox import Outbox
from services.logic.reading import StoreReader
from services.logic.runner import Runner
from services.logic.worker import Worker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from holdfast.bus.port import Record, Topic

PARTITIONS = 4
NODE = "access-1"


class FaultyProducer:
    """A producer as the port describes it, which answers late and fails by chance or when told to.

    When it fails, some of what is pending was written (from the first on, without gaps), and none of it is
    acknowledged: the outcome is unknown.
    """

    def __init__(self, broker: MemoryBroker, random: Random, chance: float) -> None:
        self.broker = broker
        self.random = random
        self.chance = chance
        self.fail_next = 0
        self.full_next = 0
        self.holds = False
        self.most = 1_000_000
        self.failures = 0
        self.pending: list[tuple[Any, ...]] = []

    def produce(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[int]:
        import asyncio

        if self.full_next:
            self.full_next -= 1
            raise Retry("full")
        if len(self.pending) >= self.most:
            raise Retry("full")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.pending.append((topic, partition, key, value, headers, future))
        if len(self.pending) == 1:
            self.broker.clock.call_later(self.random.uniform(0, 0.02) if self.chance else 0.0, self.flush)
        return future

    @property
    def crowded(self) -> bool:
        return 2 * len(self.pending) > self.most

    def flush(self) -> None:
        if self.holds or not self.pending:
            return
        pending, self.pending = self.pending, []
        fails = self.fail_next > 0 or self.random.random() < self.chance
        if not fails:
            for *record, future in pending:
                future.set_result(self.broker.append(*record))
        else:
            self.fail_next = max(self.fail_next - 1, 0)
            self.failures += 1
            written = self.random.randint(0, len(pending))
            for index, (*record, future) in enumerate(pending):
                if index < written:
                    self.broker.append(*record)
                future.set_exception(Retry("unknown"))
                future.exception()
        self.broker.wake()

    async def close(self) -> None:
        self.holds = False
        self.flush()


class World:
    """Everything of one test."""

    def __init__(
        self,
        app: App | None = None,
        *,
        logic: Logic | None = None,
        seed: int = 0,
        chance: float = 0.0,
        log: type[MemoryLog] = MemoryLog,
    ) -> None:
        self.app = app or App()
        self.random = Random(seed)
        self.chance = chance
        self.clock = ManualClock(settle=30)
        self.broker = MemoryBroker(PARTITIONS, self.clock)
        self.settings = Settings(
            kafka=Kafka(partitions=PARTITIONS, deadline=1.0),
            logic=logic or Logic(backoff=0.1, retries=2, time_limit=5.0),
        )
        self.policies = self.settings.policies()
        self.store = MemoryStore(PARTITIONS)
        self.log = log(self.store, self.policies, self.clock)
        for shard in range(PARTITIONS):
            held = self.log._shard(shard)
            held.claim("me", held.state(), "g", PARTITIONS)
        self.metrics = Metrics()
        self.dead: set[str] = set()
        self.reader = StoreReader(
            self.log,
            MemoryDirectory(MemoryRegistry()),
            lambda incarnation: incarnation not in self.dead,
            self.gate(),
            self.metrics,
        )
        self.backlog = of_outbound(MemoryBus(self.broker), self.settings.kafka, self.clock, self.metrics)
        self.producers: list[FaultyProducer] = []
        self.workers: list[Worker] = []
        self.marks = [Watermark()] * PARTITIONS
        self.applied = [0] * PARTITIONS

    def gate(self) -> Gate:
        return Gate(self.policies, self.log, MemoryBus(self.broker), self.clock)

    async def start(self) -> Worker:
        """Start one more worker."""
        producer = FaultyProducer(self.broker, self.random, self.chance)
        outbox = Outbox(producer, PARTITIONS)
        shared: dict[str, Any] = {
            "clock": self.clock,
            "settings": self.settings,
            "metrics": self.metrics,
        }
        runner = Runner(self.app, outbox, self.gate(), self.reader, **shared)
        worker = Worker(MemoryBus(self.broker), outbox, runner, self.backlog, **shared)
        self.producers.append(producer)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def stop(self) -> None:
        """Stop all workers."""
        import asyncio

        stopping = asyncio.gather(*(worker.stop() for worker in self.workers))
        while not stopping.done():
            await self.clock.advance(0.2)
        await stopping

    # what access writes

    def inbound(self, record: records.Inbound) -> int:
        """Write an inbound record; return its offset."""
        return self.raw(record.user, records.encode(record))

    def raw(self, user: str, value: bytes) -> int:
        """Write what may be no record at all."""
        offset = self.broker.append("inbound", partition_of(user, PARTITIONS), user.encode(), value, ())
        self.broker.wake()
        return offset

    def send(
        self,
        user: str,
        n: int,
        to: str,
        type: str = "text",
        data: Any = None,
        *,
        client: str = "c",
        granted: bool = False,
    ) -> records.Send:
        """Write a send."""
        send = records.Send(
            user=user,
            client=client,
            n=n,
            message=records.message_id(user, client, n),
            to=to,
            type=type,
            data=msgspec.json.encode(data),
            ts=self.clock.now_ms(),
            session=f"s-{user}",
            device="web",
            node=NODE,
            connection=7,
            frame=n,
            granted=granted,
        )
        self.inbound(send)
        return send

    def request(self, user: str, type: str, data: Any = None, *, key: str = "k1", wait: float = 10) -> None:
        """Write a request."""
        self.inbound(
            records.Request(
                user=user,
                client="c",
                key=key,
                type=type,
                data=msgspec.json.encode(data),
                ts=self.clock.now_ms(),
                session=f"s-{user}",
                device="web",
                node=NODE,
                connection=7,
                frame="f1",
                deadline=self.clock.now_ms() + int(wait * 1000),
            )
        )

    def event(self, user: str, kind: str, session: str, reason: str = "") -> None:
        """Write a session's event."""
        self.inbound(records.SessionEvent(kind, user, session, "web", "c", NODE, self.clock.now_ms(), reason))

    # what came out

    def records(self, topic: Topic) -> list[Record]:
        """Return all records of a topic."""
        return [
            record for p in range(PARTITIONS) for record in self.broker.partition(topic, p).read(0, 100_000)
        ]

    def outbound(self, kind: type[Any] | None = None) -> list[Any]:
        """Return all outbound records of a kind."""
        decoded = [records.decode_outbound(record.value or b"") for record in self.records("outbound")]
        return [record for record in decoded if kind is None or isinstance(record, kind)]

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages in outbound, by partition: what the frame would say, with channel and score."""
        return [
            {**records.entry_members(m.body), "channel": m.channel, "score": m.score, "source": m.source}
            for m in self.outbound(records.Message)
        ]

    def replies(self) -> list[dict[str, Any]]:
        """Return the frames that go to single connections."""
        return [msgspec.json.decode(reply.frame) for reply in self.outbound(records.Reply)]

    def letters(self) -> list[dict[str, str]]:
        """Return the headers of the dead letters."""
        return [{name: value.decode() for name, value in r.headers} for r in self.records("dead")]

    def count(self, name: str, **labels: str) -> float:
        """Return a metric."""
        return self.metrics.registry.get_sample_value(f"holdfast_{name}", labels) or 0.0

    @property
    def committed(self) -> dict[int, int]:
        """What the group has committed."""
        return self.broker.group(self.settings.kafka.group, "inbound").committed

    # dispatch, in short

    async def apply(self) -> None:
        """Take outbound into the shards, as dispatch does."""
        for shard in range(PARTITIONS):
            await self.apply_one(shard)

    async def apply_one(self, shard: int) -> None:
        """Take in what one shard's partition holds."""
        await self.own(shard)
        while found := self.broker.partition("outbound", shard).read(self.applied[shard], 50):
            taken = [taken_in(record) for record in found]
            last = Watermark(found[-1].offset, found[-1].ts, 0)
            done = await self.log.apply(
                shard, Batch("me", self.marks[shard], last, taken, last.offset, now_ms=self.clock.now_ms())
            )
            assert done.placed, done
            self.marks[shard], self.applied[shard] = last, last.offset + 1
            for record, placed in zip(taken, done.placed, strict=True):
                if record.op in (Op.JOIN, Op.LEAVE):
                    self.tell_user(record, placed.version, placed.epoch, placed.seq)

    async def own(self, shard: int) -> None:
        """Hold a shard's token."""
        state = await self.log.state(shard)
        if state.owner != "me":
            await self.log.claim(shard, "me", expected=state, generation="g")

    def tell_user(self, record: LogRecord, version: int, epoch: str, seq: int) -> None:
        """Write what dispatch tells the user's partition of a membership."""
        inbox = f"user:{record.source}"
        told = records.UserGroup(inbox, record.channel, version, epoch, seq, record.op == Op.JOIN)
        self.broker.append(
            "outbound", partition_of(inbox, PARTITIONS), inbox.encode(), records.encode(told), ()
        )

    async def channel(self, channel: str) -> list[dict[str, Any]]:
        """Return a channel's messages from its log."""
        shard = partition_of(channel, PARTITIONS)
        (view,) = await self.log.read(shard, [Query(channel, after=0, limit=100_000)])
        assert [seq for seq, _ in view.entries] == list(range(1, len(view.entries) + 1))
        return [records.entry_members(entry) for _, entry in view.entries]


def taken_in(record: Record) -> LogRecord:
    """Return what the shard gets of an outbound record."""
    what = records.decode_outbound(record.value or b"")
    at, ts = record.offset, record.ts
    if isinstance(what, records.Message):
        entry = records.log_entry(ts, what.body)
        return LogRecord(at, ts, Op.APPEND, what.channel, what.source, what.score, what.content, body=entry)
    if isinstance(what, records.Member):
        return LogRecord(at, ts, Op.JOIN if what.joined else Op.LEAVE, what.channel, what.user)
    if isinstance(what, records.UserGroup):
        return LogRecord(
            at,
            ts,
            Op.GROUP,
            what.channel,
            what.group,
            what.version,
            int(what.joined),
            epoch=what.epoch,
            seq=what.seq,
        )
    if isinstance(what, records.Revoke):
        return LogRecord(at, ts, Op.REVOKE, what.channel, score=what.before)
    return LogRecord(at, ts, Op.PASS, what.channel)
