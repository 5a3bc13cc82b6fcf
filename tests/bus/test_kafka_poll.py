"""Which records a Kafka consumer shows, whatever its thread does when: searched, with lists for a Kafka."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.local.certificate import Authority
from holdfast import tls
from holdfast.bus import kafka_poll
from holdfast.bus.kafka_consumer import KafkaConsumer
from holdfast.bus.kafka_security import Librdkafka
from holdfast.bus.port import OffsetLost
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka
from tests.bus.rdkafka import Log
from tests.contracts.bus_world import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

P = 3
SECONDS = 10.0


class Reading:
    """A reader, and what it has to show next of each partition."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.consumer = KafkaConsumer(Kafka(deadline=5.0), "topic", "group", self.ends)
        self.next: dict[int, int] = {}
        self.paused: set[int] = set()

    async def ends(self) -> Mapping[int, tuple[int, int]]:
        log = self.log
        return {p: (log.starts[p], each[-1] + 1 if each else 0) for p, each in log.partitions.items()}

    def seek(self, partition: int, offset: int) -> None:
        self.next[partition] = offset
        self.consumer.seek(partition, offset)

    async def fetch(self, most: int, timeout: float = 0.0) -> int:
        """Fetch once, and look whether what came is what comes next; return how many that were."""
        found = await self.consumer.fetch(most, timeout)
        for partition, records in found.items():
            assert partition not in self.paused
            assert len(records) <= most
            due = [n for n in self.log.partitions[partition] if n >= self.next[partition]][: len(records)]
            assert [record.offset for record in records] == due
            self.next[partition] = due[-1] + 1
        return sum(map(len, found.values()))

    async def finish(self) -> None:
        """Fetch all that there is to fetch."""
        for partition in list(self.paused):
            self.paused.discard(partition)
            self.consumer.resume(partition)
        async with asyncio.timeout(SECONDS):
            while any(n >= self.next[p] for p in self.next for n in self.log.partitions[p]):
                await self.fetch(7, 0.05)
        assert await self.fetch(7, 0.002) == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, P - 1), st.integers(1, 30)),
        st.tuples(st.just("seek"), st.integers(0, P - 1), st.integers(0, 40)),
        st.tuples(st.just("pause"), st.integers(0, P - 1), st.booleans()),
        st.tuples(st.just("fetch"), st.integers(1, 40), st.sampled_from((0.0, 0.0, 0.003))),
        st.tuples(st.just("assign"), st.sets(st.integers(0, P - 1)), st.integers(0, 3)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
        st.tuples(st.just("turn"), st.just(0), st.just(0)),
    ),
    min_size=5,
    max_size=60,
)


async def step(reading: Reading, random: Random, what: str, first: Any, second: Any) -> None:
    log, consumer = reading.log, reading.consumer
    if what == "append":
        offsets = log.partitions[first]
        for _ in range(second):
            offsets.append((offsets[-1] + 1 if offsets else 0) + random.choice((0, 0, 0, 2)))
    elif what == "seek" and first in reading.next:
        offsets = log.partitions[first]
        reading.seek(first, min(second, offsets[-1] + 1 if offsets else 0))
    elif what == "pause" and first in reading.next:
        (consumer.pause if second else consumer.resume)(first)
        (reading.paused.add if second else reading.paused.discard)(first)
    elif what == "fetch":
        await reading.fetch(first, second)
    elif what == "assign":
        ends = await reading.ends()
        reading.next = {p: min(second, ends[p][1]) for p in first}
        reading.paused &= set(first)
        consumer.assign(reading.next)
    elif what == "reopen":
        renew(consumer)
    else:
        await asyncio.sleep(0.001)


class Renewed(Librdkafka):
    """Whose certificates are new whenever the test says so."""

    renewed = False

    @property
    def stale(self) -> bool:
        return self.renewed

    def options(self) -> dict[str, Any]:
        self.renewed = False
        return super().options()


def renew(consumer: KafkaConsumer) -> None:
    client = consumer._poll._librdkafka
    assert isinstance(client, Renewed)
    client.renewed = True


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.integers(0, 2**32))
async def test_what_comes_is_what_is_next(plan: list[tuple[str, Any, Any]], seed: int) -> None:
    """inv 12: seeks, pauses, assignments, new clients in any order: nothing is left out, or shown twice."""
    random = Random(seed)
    log = Log(P, Random(seed + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_poll, "Consumer", log.consumer)
        patch.setattr(kafka_poll, "Librdkafka", Renewed)
        reading = Reading(log)
        await reading.consumer.start(SECONDS)
        try:
            for what, first, second in plan:
                await step(reading, random, what, first, second)
            await reading.finish()
        finally:
            await reading.consumer.close()
    assert all(consumer.closed for consumer in log.consumers)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log(P, Random(1))
    monkeypatch.setattr(kafka_poll, "Consumer", made.consumer)
    monkeypatch.setattr(kafka_poll, "Librdkafka", Renewed)
    return made


async def test_what_waits_is_bounded(log: Log) -> None:
    """inv 7: a reader that nobody asks takes two handfuls from its log, and no more, until it is asked."""
    log.partitions[0] = list(range(100_000))
    log.chunks = (10_000,)
    reading = Reading(log)
    await reading.consumer.start(SECONDS)
    reading.consumer.assign({0: 0})
    reading.next[0] = 0

    def fetched() -> int:
        return max(consumer.positions.get(0, 0) for consumer in log.consumers)

    bound = 2 * kafka_poll.HANDFUL
    await until(lambda: fetched() >= kafka_poll.HANDFUL)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert fetched() <= bound
    while reading.next[0] < 5 * bound:
        await reading.fetch(300, 0.01)
        assert fetched() - reading.next[0] <= bound + kafka_poll.HANDFUL
        assert reading.consumer._waiting <= bound
    await reading.consumer.close()


async def test_what_a_pause_holds_back_comes_at_once_when_it_ends(log: Log) -> None:
    """inv 7: what came of a paused partition is kept; a new client, too, fetches no more of it."""
    log.partitions[0] = list(range(10))
    log.chunks = (50,)
    reading = Reading(log)
    consumer = reading.consumer
    await consumer.start(SECONDS)
    consumer.assign({0: 0})
    reading.next[0] = 0
    await until(lambda: consumer._waiting == 10)
    consumer.pause(0)
    assert await reading.fetch(10, 0.002) == 0
    renew(consumer)
    clients = len(log.consumers)
    await until(lambda: len(log.consumers) > clients and log.consumers[-1].paused == {0})
    log.partitions[0] += range(10, 20)
    assert await reading.fetch(10, 0.01) == 0
    assert log.consumers[-1].positions == {0: 10}
    consumer.resume(0)
    assert await reading.fetch(20, SECONDS) == 10
    await reading.finish()
    await consumer.close()


async def test_a_pause_makes_room_for_others(log: Log) -> None:
    """inv 7: with all that waits paused, a fetch asks for what others have, and need not wait for it."""
    log.partitions[0] = list(range(10 * kafka_poll.HANDFUL))
    log.chunks = (10_000,)
    reading = Reading(log)
    consumer = reading.consumer
    await consumer.start(SECONDS)
    consumer.assign({0: 0, 1: 0})
    reading.next |= {0: 0, 1: 0}
    await until(lambda: consumer._waiting >= kafka_poll.HANDFUL)
    consumer.pause(0)
    reading.paused.add(0)
    log.partitions[1] = [0]
    async with asyncio.timeout(SECONDS):
        assert await reading.fetch(10, 100 * SECONDS) == 1
    await consumer.close()


async def test_failures_of_what_is_not_read(log: Log) -> None:
    """inv 9: one from before a seek is forgotten; one of a paused partition is told when it is read again."""
    reading = Reading(log)
    consumer = reading.consumer
    await consumer.start(SECONDS)
    consumer.assign({0: 0})
    reading.next[0] = 0
    lost = kafka_poll.Broken(KafkaError(KafkaError._AUTO_OFFSET_RESET), 0, 9)
    consumer.handed((), (lost,), 0)
    assert not consumer._failures
    assert await reading.fetch(10, 0.01) == 0
    consumer._next[0] = 9
    consumer.pause(0)
    consumer.handed((), (lost,), consumer._poll.orders)
    assert await reading.fetch(10, 0.01) == 0
    consumer.resume(0)
    with pytest.raises(OffsetLost):
        await reading.fetch(10, 0.01)
    await consumer.close()


async def test_a_lost_position_is_told_until_another_is_sought(log: Log) -> None:
    """inv 9: also where the log has become longer since: then the position is read after all."""
    log.partitions[0] = list(range(5))
    reading = Reading(log)
    await reading.consumer.start(SECONDS)
    reading.consumer.assign({0: 9})
    for _ in range(2):
        with pytest.raises(OffsetLost) as lost:
            await until_raised(reading.consumer)
        assert (lost.value.position, lost.value.start, lost.value.end) == (9, 0, 5)
    log.partitions[0] = list(range(12))
    reading.next[0] = 9
    async with asyncio.timeout(SECONDS):
        while reading.next[0] < 12:
            await reading.fetch(10, 0.01)
    await reading.consumer.close()


async def until_raised(consumer: KafkaConsumer) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            assert not await consumer.fetch(10, 0.01)


async def test_a_move_waits_for_its_commit(log: Log) -> None:
    """inv 8: who is told of a revocation commits within it, and the successor goes on from there.

    The revocation here is that of a client made anew.
    """
    log.partitions[0] = list(range(10))
    log.assigning = [0]
    told: list[str] = []
    consumer: KafkaConsumer

    async def assigned(partitions: Sequence[int]) -> None:
        told.append(f"assigned {list(partitions)}")

    async def revoked(partitions: Sequence[int]) -> None:
        await consumer.commit({0: 4})
        told.append(f"revoked {list(partitions)}")

    ends: Any = None
    consumer = KafkaConsumer(Kafka(deadline=5.0), "topic", "group", ends, (assigned, revoked))
    await consumer.start(SECONDS)
    assert (await consumer.fetch(100, SECONDS))[0][0].offset == 0
    renew(consumer)
    await until(lambda: len(told) == 3)
    assert told == ["assigned [0]", "revoked [0]", "assigned [0]"]
    found: list[int] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < 6:
            found += [r.offset for rs in (await consumer.fetch(100, 0.1)).values() for r in rs]
    assert found == [4, 5, 6, 7, 8, 9]
    await consumer.close()
    assert told == ["assigned [0]", "revoked [0]", "assigned [0]"]  # leaving tells nobody


async def test_a_member_goes_by_where_its_group_is(log: Log) -> None:
    """inv 9: who had read further before a revocation does not skip what the group has lost since."""
    log.partitions[0] = list(range(10))
    log.assigning = [0]
    reading = Reading(log)

    async def assigned(_: Sequence[int]) -> None:
        pass

    async def revoked(_: Sequence[int]) -> None:
        await consumer.commit({0: 4})
        log.starts[0] = 6

    consumer = KafkaConsumer(Kafka(deadline=5.0), "topic", "group", reading.ends, (assigned, revoked))
    await consumer.start(SECONDS)
    await until(lambda: consumer._waiting == 10)
    renew(consumer)
    await until(lambda: log.starts[0] == 6)
    with pytest.raises(OffsetLost) as lost:
        await until_raised(consumer)
    assert (lost.value.position, lost.value.start, lost.value.end) == (4, 6, 10)
    await consumer.close()


@pytest.mark.parametrize("member", [False, True])
async def test_a_commit_needs_nobody_who_reads(log: Log, member: bool) -> None:
    """inv 7: with as much handed over as may wait, a commit is carried out before any of it is taken."""
    log.partitions[0] = list(range(10 * kafka_poll.HANDFUL))
    log.chunks = (10_000,)
    log.assigning = [0]

    async def moved(_: Sequence[int]) -> None:
        pass

    ends: Any = None
    moves = (moved, moved) if member else None
    consumer = KafkaConsumer(Kafka(deadline=SECONDS), "topic", "group", ends, moves)
    await consumer.start(SECONDS)
    if not member:
        consumer.assign({0: 0})
    await until(lambda: consumer._waiting >= kafka_poll.HANDFUL)
    await consumer.commit({0: 7})
    assert log.committed == {0: 7}
    await consumer.close()


async def test_a_client_that_broke_is_replaced(log: Log) -> None:
    """inv 2: its successor begins where the group is, and what had come of the old one is forgotten."""
    log.partitions[0] = list(range(10))
    log.chunks = (50,)
    log.assigning = [0]
    told: list[str] = []

    async def assigned(partitions: Sequence[int]) -> None:
        told.append(f"assigned {list(partitions)}")

    async def revoked(_: Sequence[int]) -> None:
        told.append("revoked")

    ends: Any = None
    consumer = KafkaConsumer(Kafka(deadline=5.0), "topic", "group", ends, (assigned, revoked))
    await consumer.start(SECONDS)
    found = [record.offset for record in (await consumer.fetch(4, SECONDS))[0]]
    await consumer.commit({0: 4})
    log.failing = 1
    await until(lambda: len(told) == 2)
    async with asyncio.timeout(SECONDS):
        while len(found) < 10:
            found += [r.offset for rs in (await consumer.fetch(100, 0.1)).values() for r in rs]
    assert found == list(range(10))
    assert not await consumer.fetch(100, 0.01)
    assert told == ["assigned [0]"] * 2
    await consumer.close()


async def test_a_client_that_cannot_begin_says_so(log: Log) -> None:
    """Who is first refused by Kafka is not there: whoever wants to read tries again."""
    log.refusing = 2
    reading = Reading(log)
    with pytest.raises(KafkaException):
        await reading.consumer.start(SECONDS)
    assert all(consumer.closed for consumer in log.consumers)


def test_new_files_make_a_failing_client_stale(tmp_path: Path) -> None:
    """librdkafka reads certificates once: a client that fails is made anew when they are others."""
    ours = Authority(tmp_path)
    made = Kafka(security_protocol="SSL", tls_authority=str(ours.file))
    client = Librdkafka(made)
    assert client.options()["ssl.ca.location"] == str(ours.file)
    assert not stale(client)
    client.failed(KafkaError(KafkaError._SSL))
    assert not stale(client)  # nothing would be better with the same files
    (tmp_path / "other").mkdir()
    ours.file.write_bytes(Authority(tmp_path / "other").file.read_bytes())
    tls.look(Metrics())
    assert stale(client)
    client.options()
    assert not stale(client)


def stale(client: Librdkafka) -> bool:
    return client.stale
