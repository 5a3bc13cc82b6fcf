"""What only a real Kafka can show: outages, and what aiokafka leaves behind."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.local.servers import Running, free_port
from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka
from tests.contracts.bus_world import begun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.bus.port import Producer

pytestmark = pytest.mark.kafka

P = 3
DEADLINE = 2.0


def kafka(address: str, prefix: str, **more: object) -> Kafka:
    return Kafka(servers=address, prefix=prefix, partitions=P, replication=1, deadline=DEADLINE, **more)  # type: ignore[arg-type]


@pytest.fixture
async def bus(broker: Running, unique_prefix: str) -> AsyncIterator[KafkaBus]:
    made = KafkaBus(kafka(broker.address, unique_prefix), Metrics(), SystemClock())
    await begun(made)
    yield made
    await made.close()
    gc.collect()


class Writer:
    """Numbers its records; after a failure it begins again with the lowest that was not acknowledged."""

    def __init__(self, producer: Producer, partition: int) -> None:
        self.producer = producer
        self.partition = partition
        self.acked: dict[int, int] = {}
        self.failures = 0
        self.longest = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            first = len(self.acked)
            began = clock()
            futures = []
            for n in range(first, first + 200):
                futures.append(self.producer.produce("inbound", self.partition, b"w", b"%d" % n))
                if n % 20 == 19:
                    await asyncio.sleep(0.001)
            done = await asyncio.gather(*futures, return_exceptions=True)
            self.longest = max(self.longest, clock() - began)
            for n, result in enumerate(done, first):
                if isinstance(result, int):
                    # A success after a failure would be a gap: the prefix rule of invariant 12.
                    assert n == len(self.acked), f"{n} was written after {len(self.acked)} failed"
                    self.acked[n] = result
                else:
                    assert isinstance(result, Retry)
            self.failures += any(not isinstance(result, int) for result in done)


async def read_all(bus: KafkaBus, partition: int) -> list[int]:
    start, end = (await bus.ends("inbound"))[partition]
    reader = await bus.reader("inbound")
    reader.assign({partition: start})
    found: list[int] = []
    async with asyncio.timeout(20):
        while len(found) < end - start:
            for records in (await reader.fetch(10_000, 0.5)).values():
                found += [int(record.value or b"") for record in records]
    await reader.close()
    return found


async def check(bus: KafkaBus, writer: Writer) -> None:
    found = await read_all(bus, writer.partition)
    for n, offset in writer.acked.items():
        assert found[offset] == n, "an acknowledged record is not where it was said to be"
    highest = -1
    for n in found:
        assert n <= highest + 1, f"{n} was written after {highest}: a gap"
        highest = max(highest, n)
    assert highest >= len(writer.acked) - 1


@pytest.mark.parametrize("how", ["freeze", "kill"])
async def test_an_outage_under_load(bus: KafkaBus, broker: Running, how: str) -> None:
    """inv 1, 12: over an outage beyond the deadline acks hold, prefixes have no gaps, errors come in time."""
    producer = await bus.producer(deadline=DEADLINE)
    writers = [Writer(producer, partition) for partition in range(P)]
    stop = asyncio.Event()
    tasks = [asyncio.create_task(writer.run(stop)) for writer in writers]
    await until(lambda: all(len(writer.acked) >= 400 for writer in writers))
    if how == "freeze":
        broker.pause()
    else:
        broker.kill()
    await until(lambda: all(writer.failures >= 2 for writer in writers))
    assert not await bus.healthy()
    if how == "freeze":
        broker.resume()
    else:
        await asyncio.to_thread(broker.restart)
    before = [len(writer.acked) for writer in writers]
    await until(lambda: all(len(w.acked) >= n + 400 for w, n in zip(writers, before, strict=True)))
    stop.set()
    await asyncio.gather(*tasks)
    await producer.close()
    assert await bus.healthy()
    for writer in writers:
        assert writer.longest < DEADLINE + 1.5
        await check(bus, writer)
    assert bus._metrics.bus_producer_replaced._value.get() >= 1


async def until(true: object) -> None:
    async with asyncio.timeout(40):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_a_short_outage_is_a_delay(bus: KafkaBus, broker: Running) -> None:
    """inv 1: an outage shorter than the deadline costs time, not records, and is no failure."""
    producer = await bus.producer(deadline=10)
    await producer.produce("inbound", 0, None, b"0")
    broker.pause()
    futures = [producer.produce("inbound", 0, None, b"%d" % n) for n in range(1, 100)]
    await asyncio.sleep(0.5)
    assert not any(future.done() for future in futures)
    broker.resume()
    assert await asyncio.gather(*futures) == list(range(1, 100))
    assert bus._metrics.bus_producer_replaced._value.get() == 0
    await producer.close()


async def test_a_reader_goes_on_after_a_restart(bus: KafkaBus, broker: Running) -> None:
    """inv 2: a consumer outlives its broker's death and misses nothing."""
    producer = await bus.producer(deadline=20)
    reader = await bus.reader("inbound")
    reader.assign({0: 0})
    await producer.produce("inbound", 0, None, b"0")
    broker.kill()
    found = [record.value for records in (await reader.fetch(10, 0.2)).values() for record in records]
    await asyncio.to_thread(broker.restart)
    await producer.produce("inbound", 0, None, b"1")
    async with asyncio.timeout(30):
        while len(found) < 2:
            for records in (await reader.fetch(10, 0.5)).values():
                found += [record.value for record in records]
    assert found == [b"0", b"1"]
    await reader.close()
    await producer.close()


async def test_a_dead_member_gives_way(kafka_server: Running, unique_prefix: str) -> None:
    """inv 2: what a member that vanished had not committed is read again by the next."""
    settings = kafka(kafka_server.address, unique_prefix, session_timeout=1.0)
    bus = KafkaBus(settings, Metrics(), SystemClock())
    await begun(bus)
    producer = await bus.producer(deadline=5)
    await asyncio.gather(*(producer.produce("inbound", 0, None, b"%d" % n) for n in range(4)))

    async def moved(_: object) -> None:
        pass

    # The first is a process of its own, so that it can vanish.
    command = [sys.executable, "-m", "tests.contracts.vanishing", kafka_server.address, unique_prefix]
    first = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert first.stdout is not None
    assert await first.stdout.readline() == b"committed\n"
    first.kill()
    await first.wait()
    second = await bus.join_group("inbound", "g", on_assigned=moved, on_revoked=moved)
    found: list[bytes | None] = []
    async with asyncio.timeout(20):
        while len(found) < 3:
            for records in (await second.fetch(10, 0.5)).values():
                found += [record.value for record in records]
    assert found == [b"1", b"2", b"3"]
    await second.close()
    await producer.close()
    await bus.close()


async def test_no_kafka_there_is_a_retry(unique_prefix: str) -> None:
    """A Kafka that is away is worth another try, and the message says where it was looked for."""
    address = f"127.0.0.1:{free_port()}"
    bus = KafkaBus(kafka(address, unique_prefix), Metrics(), SystemClock())
    with pytest.raises(Retry, match=address):
        await bus.start()
    assert not await bus.healthy()
    producer = await bus.producer(deadline=0.3)
    with pytest.raises(Retry):
        await producer.produce("inbound", 0, None, b"v")
    await producer.close()
    await bus.close()
    gc.collect()
