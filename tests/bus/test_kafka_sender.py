"""What a Kafka producer writes, whatever brokers do: searched, with lists for their logs."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, RequestTimedOutError
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.bus import kafka_sender
from holdfast.bus.kafka_producer import KafkaProducer
from holdfast.bus.kafka_sender import Sender
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka
from tests.bus.brokers import BROKERS, FAULTS, GOOD, REMEMBERED, Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.bus.kafka_sender import Pending

P = 3
DEADLINE = 5.0


class Item:
    """A record on its way, `value` as no other."""

    def __init__(self, partition: int, value: bytes, future: asyncio.Future[int]) -> None:
        self.partition = partition
        self.value = value
        self.future = future


class Writing:
    """A producer, and what was to be written by it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.producer = KafkaProducer(Kafka(), DEADLINE, self.metrics, self.clock, {"inbound": "topic"})
        self.items: list[Item] = []
        self._fail = self.producer._fail
        self.producer._fail = self.failing  # type: ignore[method-assign]
        self.failures: list[list[Item]] = []

    def write(self, partition: int, size: int = 0) -> Item:
        value = b"%d " % len(self.items) + bytes(size)
        item = Item(partition, value, self.producer.produce("inbound", partition, b"key", value))
        self.items.append(item)
        return item

    def failing(self, why: str) -> None:
        pending = [item for item in self.items if not item.future.done()]
        self._fail(why)
        assert all(isinstance(item.future.exception(), Retry) for item in pending)
        self.failures.append(pending)

    async def finish(self) -> None:
        """End all faults; what is pending is in Kafka or failed at its deadline, and what comes is taken."""
        self.cluster.faults = (GOOD,)
        self.cluster.leaders = {p: p % BROKERS for p in self.cluster.leaders}
        await self.clock.advance(3 * DEADLINE)
        last = [self.write(partition) for partition in range(P)]
        await self.clock.advance(DEADLINE / 2)
        assert all(item.future.done() and not item.future.exception() for item in last)
        self.look()
        assert self.cluster.wrong == []
        producer = self.producer
        assert (producer._records, producer._bytes, producer._behind, producer._ready) == (0, 0, {}, [])
        assert not any(lane.busy or lane.batch for lane in producer._lanes.values())
        await producer.close()
        assert all(client.is_cut for client in self.cluster.clients)

    def look(self) -> None:
        """inv 1, 12: what was acked is where it was said to be; what is there is a prefix, each once."""
        for partition, log in self.cluster.logs.items():
            mine = [item for item in self.items if item.partition == partition]
            order = {item.value: index for index, item in enumerate(mine)}
            written = [order[value] for value in log]
            assert written == sorted(set(written))
            for item in mine:
                if item.future.exception() is None:
                    assert log[item.future.result()] == item.value
            for failed in self.failures:
                there = [order[item.value] in written for item in failed if item.partition == partition]
                assert there == sorted(there, reverse=True)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(P, Random(1))
    monkeypatch.setattr(kafka_sender, "AIOKafkaClient", made.client)
    return made


@pytest.fixture
async def writing(cluster: Cluster) -> AsyncIterator[Writing]:
    """Writing that has begun; at the end all is well, and no task has died unseen."""
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    made = Writing(cluster)
    await made.clock.settle()
    yield made
    await made.finish()
    gc.collect()  # a task tells what it died of when it is forgotten
    assert troubles == []


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, P - 1), st.integers(1, 5)),
        st.tuples(st.just("write"), st.integers(0, P - 1), st.just(1)),
        st.tuples(st.just("turns"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("leader"), st.integers(0, P - 1), st.sampled_from((-1, 0, 1))),
        st.tuples(st.just("faults"), st.lists(st.sampled_from((GOOD, *FAULTS)), min_size=1), st.just(0)),
        st.tuples(st.just("good"), st.just(0), st.just(0)),
        st.tuples(st.just("time"), st.sampled_from((0.01, 0.1, 1.0, 4.0)), st.just(0)),
        st.tuples(st.just("turns"), st.integers(1, 12), st.just(0)),
    ),
    min_size=25,
    max_size=80,
)


async def step(writing: Writing, what: str, first: Any, second: int) -> None:
    cluster = writing.cluster
    if what == "write":
        for _ in range(second):
            writing.write(first)
    elif what == "leader":
        cluster.leaders[first] = second
    elif what == "faults":
        cluster.faults = first
    elif what == "good":
        cluster.faults = (GOOD,)
    elif what == "time":
        await writing.clock.advance(first)
    else:
        for _ in range(first):
            await asyncio.sleep(0)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.integers(0, 2**32))
async def test_what_is_written_is_a_prefix(plan: list[tuple[str, Any, int]], seed: int) -> None:
    """inv 1, 12: whatever brokers do, acked records are there, once and in order, and no later one alone."""
    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(P, Random(seed))
        patch.setattr(kafka_sender, "AIOKafkaClient", cluster.client)
        tasks = asyncio.all_tasks()
        writing = Writing(cluster)
        for each in plan:
            await step(writing, *each)
        await writing.finish()
        assert asyncio.all_tasks() == tasks


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, P - 1), st.integers(0, 3)), max_size=40), st.integers(0, 2**32))
async def test_without_faults_nothing_is_left_behind(plan: list[tuple[int, int]], seed: int) -> None:
    """inv 1: what comes while a broker has a request is sent after it, without a clock or another record."""
    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(P, Random(seed))
        patch.setattr(kafka_sender, "AIOKafkaClient", cluster.client)
        writing = Writing(cluster)
        for partition, turns in plan:
            writing.write(partition)
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(10):
            await writing.clock.settle()
        assert all(item.future.done() and not item.future.exception() for item in writing.items)
        await writing.finish()


async def test_a_partition_without_a_leader_delays_no_other(cluster: Cluster, writing: Writing) -> None:
    """inv 7: nor does one whose batch has to be sent again; both come through once they can."""
    cluster.leaders = {0: 1, 1: 1, 2: 0}  # unknown yet to who writes
    moved, other = writing.write(0), writing.write(2)
    await writing.clock.settle()
    assert other.future.done()
    assert not moved.future.done()
    cluster.leaders[0] = -1
    await writing.clock.advance(1.0)
    behind, other = writing.write(0), writing.write(1)
    await writing.clock.settle()
    assert other.future.done()
    assert not moved.future.done()
    cluster.leaders[0] = 0
    await writing.clock.advance(0.3)
    assert (moved.future.result(), behind.future.result()) == (0, 1)
    assert writing.failures == []


class Held:
    """Answers of brokers that the test gives by hand."""

    def __init__(self, writing: Writing) -> None:
        self.answers: dict[int, asyncio.Future[Any]] = {}
        client: Any = writing.cluster.clients[-1]
        client.send = self.send

    async def send(self, broker: int, _: Any) -> Any:
        self.answers[broker] = asyncio.get_running_loop().create_future()
        return await self.answers[broker]


@pytest.mark.parametrize("second", ["fails", "answers"])
async def test_two_answers_in_one_turn(writing: Writing, second: str) -> None:
    """inv 12: what fails with one broker's request fails with the other's, whatever that says."""
    held = Held(writing)
    items = [writing.write(0), writing.write(1)]
    await writing.clock.settle()
    held.answers[0].set_exception(KafkaError("no"))
    if second == "fails":
        held.answers[1].set_exception(KafkaError("no"))
    else:
        held.answers[1].set_result(SimpleNamespace(outcomes={("topic", 1): (0, 0)}))
    await writing.clock.settle()
    assert [len(failed) for failed in writing.failures] == [2]
    assert all(isinstance(item.future.exception(), Retry) for item in items)


async def test_a_request_that_was_not_begun_in_time(writing: Writing) -> None:
    """inv 12: what fails in the turn in which a request is made is not sent by it."""
    held = Held(writing)
    writing.write(0)
    await writing.clock.settle()
    writing.write(1)
    held.answers[0].set_exception(KafkaError("no"))
    await writing.clock.settle()
    assert [len(failed) for failed in writing.failures] == [2]
    assert set(held.answers) == {0}


async def test_what_came_before_kafka_was_there(cluster: Cluster) -> None:
    """inv 1: it is sent when the producer has begun, and after a failure when it has begun again."""
    writing = Writing(cluster)
    early = writing.write(0)
    await writing.clock.settle()
    assert early.future.result() == 0
    writing.producer._fail("a failure")
    early = writing.write(1)
    await writing.clock.settle()
    assert early.future.result() == 0
    await writing.finish()


async def test_a_refusal_is_told_at_once(cluster: Cluster, writing: Writing) -> None:
    """inv 1: what no broker would ever take does not wait for its deadline."""
    cluster.faults = ("refuses",)
    item = writing.write(0)
    await writing.clock.settle()
    assert "TopicAuthorizationFailed" in str(item.future.exception())


@pytest.mark.parametrize("outcomes", [{}, {("topic", 0): (0, -1)}])
async def test_an_answer_that_says_too_little(writing: Writing, outcomes: dict[tuple[str, int], Any]) -> None:
    """inv 1: is no ack."""
    held = Held(writing)
    item = writing.write(0)
    await writing.clock.settle()
    held.answers[0].set_result(SimpleNamespace(outcomes=outcomes))
    await writing.clock.settle()
    assert isinstance(item.future.exception(), Retry)


async def test_who_leads_is_asked_when_a_broker_is_gone(cluster: Cluster, writing: Writing) -> None:
    """inv 7: the next attempt goes to who leads then."""
    cluster.faults, cluster.leaders[0] = ("cut",), 1
    item = writing.write(0)
    await writing.clock.settle()
    cluster.faults = (GOOD,)
    await writing.clock.advance(0.15)
    assert item.future.result() == 0


@pytest.mark.parametrize("turns", range(1, 8))
async def test_who_closes_it_while_it_begins(cluster: Cluster, turns: int) -> None:
    """inv 7: nothing is left of what had begun."""
    tasks = asyncio.all_tasks()
    writing = Writing(cluster)
    for _ in range(turns):
        await asyncio.sleep(0)
    await writing.producer.close()
    assert cluster.clients[-1].is_cut
    assert asyncio.all_tasks() == tasks


async def test_what_finds_no_broker_fails_at_its_deadline(cluster: Cluster) -> None:
    """inv 12: and all else that is on its way with it."""
    cluster.leaders = {0: -1, 1: 1, 2: 0}
    writing = Writing(cluster)
    item = writing.write(0)
    await writing.clock.advance(DEADLINE - 1)
    assert not item.future.done()
    await writing.clock.advance(2)
    assert isinstance(item.future.exception(), Retry)
    assert cluster.logs[0] == []
    await writing.finish()


async def test_what_fails_before_kafka_is_there(cluster: Cluster) -> None:
    """inv 12: it is not sent when Kafka comes."""
    cluster.away = True
    writing = Writing(cluster)
    items = [writing.write(0), writing.write(1)]
    await writing.clock.advance(DEADLINE + 1)
    assert all(isinstance(item.future.exception(), Retry) for item in items)
    cluster.away = False
    await writing.clock.advance(2)
    assert cluster.told[GOOD] == 0
    await writing.finish()


async def test_a_batch_has_an_end(cluster: Cluster, writing: Writing) -> None:
    """inv 7: what is too much for one batch goes into the next ones, in order."""
    size = kafka_sender.MAX_BATCH * 2 // 5
    items = [writing.write(0, size) for _ in range(5)]
    await writing.clock.settle()
    assert [item.future.result() for item in items] == list(range(5))
    assert cluster.told[GOOD] == 3
    assert writing.producer._bytes == writing.producer._records == 0


async def test_a_batch_that_was_written_somewhere_is_a_failure(cluster: Cluster, writing: Writing) -> None:
    """inv 1: where nobody can say any more at which offset a record is, its outcome is unknown."""
    cluster.faults = ("lost",)
    item = writing.write(0)
    await writing.clock.settle()
    known = next(iter(cluster.numbers.values()))
    known += [(known[-1][0] + 1 + n, 1, -1) for n in range(REMEMBERED)]
    cluster.faults = (GOOD,)
    await writing.clock.advance(0.3)
    assert "does not say where" in str(item.future.exception())
    assert cluster.logs[0] == [item.value]


async def test_the_numbers_begin_again(cluster: Cluster) -> None:
    """KIP-98: after 2**31 records the number of a partition's next one is 0."""
    sender = Sender(Kafka(), 1.0)
    tp, other = TopicPartition("topic", 0), TopicPartition("topic", 1)
    sender._sequences[tp] = 2**31 - 3
    assert [first_number(sender, tp, count) for count in (2, 3, 1)] == [2**31 - 3, 2**31 - 1, 2]
    assert first_number(sender, other, 1) == 0


def first_number(sender: Sender, tp: TopicPartition, count: int) -> int:
    future = asyncio.get_running_loop().create_future()
    waiting: deque[Pending] = deque([(0.0, None, b"value", [], 0, future)] * count)
    first: int = DefaultRecordBatch(bytes(sender.batch(tp, waiting, 7).data)).base_sequence
    return first


@pytest.mark.parametrize("trouble", ["silent", "refuses", "no topic", "no broker"])
async def test_an_id_from_whoever_gives_one(cluster: Cluster, trouble: str) -> None:
    """A broker that does not answer is passed over; a refusal says what was refused."""
    sender = Sender(Kafka(), 1.0)
    client = cluster.clients[-1]
    assert client.options["request_timeout_ms"] == 1000  # for each of them
    answered = iter([RequestTimedOutError(), SimpleNamespace(error_code=0, producer_id=7, producer_epoch=1)])
    if trouble == "refuses":
        answered = iter([SimpleNamespace(error_code=31, producer_id=-1, producer_epoch=-1)])
    elif trouble == "no topic":
        client.partitions_for_topic = lambda _: None  # type: ignore[method-assign,assignment,return-value]
    elif trouble == "no broker":
        answered = iter([RequestTimedOutError(), RequestTimedOutError()])

    async def send(broker: int, request: Any) -> Any:
        found = next(answered)
        if isinstance(found, Exception):
            raise found
        return found

    client.send = send  # type: ignore[method-assign]
    if trouble == "silent":
        await sender.start(["topic"])
        assert sender._producer == (7, 1)
    else:
        with pytest.raises(KafkaError) as error:
            await sender.start(["topic"])
        expected = {
            "refuses": "ClusterAuthorizationFailed",
            "no topic": "nothing of the topic topic",
            "no broker": "RequestTimedOut",
        }
        assert expected[trouble] in repr(error.value)
    await sender.end()
