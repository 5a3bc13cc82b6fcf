"""What only the bus in memory has: a clock moved by hand, faults on demand, a bound on what it keeps."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.bus.memory_broker import Partition
from holdfast.bus.port import OffsetLost, Record
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics


async def test_an_outage_fails_all_that_is_pending_at_the_deadline() -> None:
    """inv 12: after a failure nothing that was queued is written; what is produced later is."""
    clock, metrics = ManualClock(), Metrics()
    broker = MemoryBroker(2, clock)
    bus = MemoryBus(broker, metrics)
    producer = await bus.producer(deadline=5)
    broker.away = True
    early = producer.produce("inbound", 0, None, b"early")
    await clock.advance(3)
    late = producer.produce("inbound", 1, None, b"late")
    assert not await bus.healthy()
    await clock.advance(1.9)
    assert not early.done()
    await clock.advance(0.2)
    for future in (early, late):
        assert isinstance(future.exception(), Retry)
    broker.away = False
    assert await producer.produce("inbound", 0, None, b"again") == 0
    assert await bus.ends("inbound") == {0: (0, 1), 1: (0, 0)}
    assert metrics.bus_producer_replaced._value.get() == 1
    assert metrics.bus_produce_failed.labels("inbound")._value.get() == 2
    await producer.close()


async def test_an_outage_shorter_than_the_deadline_is_a_delay() -> None:
    """inv 1: what is pending when the broker comes back in time is written, in order."""
    clock = ManualClock()
    broker = MemoryBroker(1, clock)
    producer = await MemoryBus(broker).producer(deadline=5)
    broker.away = True
    futures = [producer.produce("inbound", 0, None, b"%d" % n) for n in range(3)]
    await clock.advance(4)
    broker.away = False
    assert await asyncio.gather(*futures) == [0, 1, 2]
    await producer.close()


async def test_a_lost_answer_leaves_the_outcome_unknown() -> None:
    """inv 1, 12: the record is in the log, its writer is told to retry, what was queued is not written."""
    clock = ManualClock()
    broker = MemoryBroker(1, clock)
    bus = MemoryBus(broker)
    producer = await bus.producer(deadline=2)
    broker.drop_acks = True
    written = producer.produce("inbound", 0, None, b"written")
    await clock.settle()
    broker.drop_acks = False
    queued = producer.produce("inbound", 0, None, b"queued")
    await clock.advance(2)
    assert isinstance(written.exception(), Retry)
    assert isinstance(queued.exception(), Retry)
    assert await bus.ends("inbound") == {0: (0, 1)}
    await producer.close()


async def test_nothing_is_read_in_an_outage() -> None:
    """A consumer waits its time and returns nothing, then goes on where it was."""
    clock = ManualClock()
    broker = MemoryBroker(1, clock)
    bus = MemoryBus(broker)
    producer = await bus.producer(deadline=2)
    await producer.produce("inbound", 0, None, b"v")
    reader = await bus.reader("inbound", "g")
    reader.assign({0: 0})
    broker.away = True
    waiting = asyncio.create_task(reader.fetch(10, 1.0))
    await clock.advance(1.0)
    assert await waiting == {}
    for call in (reader.commit({0: 0}), bus.ends("inbound"), bus.start()):
        with pytest.raises(Retry):
            await call
    broker.away = False
    assert len((await reader.fetch(10, 1.0))[0]) == 1
    await producer.close()


async def test_a_topic_made_again_is_noticed() -> None:
    """inv 9: a position of the old topic is outside the new one."""
    broker = MemoryBroker(1, ManualClock())
    bus = MemoryBus(broker)
    producer = await bus.producer(deadline=2)
    await asyncio.gather(*(producer.produce("outbound", 0, None, b"") for _ in range(3)))
    reader = await bus.reader("outbound")
    reader.assign({0: 3})
    broker.recreate("outbound")
    with pytest.raises(OffsetLost):
        await reader.fetch(10, 0)
    await producer.close()


async def test_time_stamps_never_fall() -> None:
    """`ts` is the broker's clock, and no record is older than the one before it."""
    clock = ManualClock()
    broker = MemoryBroker(1, clock)
    producer = await MemoryBus(broker).producer(deadline=2)
    await producer.produce("outbound", 0, None, b"")
    await clock.advance(1.5)
    await producer.produce("outbound", 0, None, b"")
    first, second = broker.partition("outbound", 0).read(0, 10)
    assert second.ts - first.ts == 1500
    await producer.close()


async def test_what_is_kept_is_bounded() -> None:
    """inv 7: a partition drops its oldest records above the bound, and says where it starts now."""
    broker = MemoryBroker(1, ManualClock(), keep=100)
    bus = MemoryBus(broker)
    producer = await bus.producer(deadline=2)
    for _ in range(10):
        await asyncio.gather(*(producer.produce("outbound", 0, None, b"") for _ in range(100)))
    start, end = (await bus.ends("outbound"))[0]
    assert end == 1000
    assert 100 <= end - start <= 125
    await producer.close()


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(0, 200))
def test_compaction_keeps_the_newest_of_every_key(keys: list[int], position: int) -> None:
    """inv 9: a compacted partition, read from anywhere, still has the newest of every key."""
    log = Partition(compacted=True)
    newest: dict[bytes, int] = {}
    for offset, key in enumerate(keys):
        log.records.append(Record(0, offset, 0, b"%d" % key, b""))
        log.end = offset + 1
        newest[b"%d" % key] = offset
        log.tidy(20)
    assert len(log.records) <= max(25, len(newest))
    found = {record.key: record.offset for record in log.read(position, 1000)}
    assert found == {key: offset for key, offset in newest.items() if offset >= position}
