"""What a Kafka that dies or hangs leaves behind in our process: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka
from tests.contracts.bus_world import begun

if TYPE_CHECKING:
    from deploy.local.servers import Running
    from holdfast.bus.port import Consumer, Producer

pytestmark = pytest.mark.kafka

P = 4
DEADLINE = 1.0


def sockets() -> int:
    """Return how many sockets this process holds."""
    count = 0
    for end in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one by which this folder is read
            count += str(end.readlink()).startswith("socket:")
    return count


class Service:
    """What a service does with a bus: it produces, reads as a member of a group, and commits."""

    def __init__(self, broker: Running, prefix: str) -> None:
        settings = Kafka(
            servers=broker.address,
            prefix=prefix,
            partitions=P,
            replication=1,
            deadline=DEADLINE,
            session_timeout=2.0,
        )
        self.metrics = Metrics()
        self.bus = KafkaBus(settings, self.metrics, SystemClock())
        self.acked = 0
        self.committed = 0
        self.going = True
        self._opened: list[Producer | Consumer] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await begun(self.bus)
        producers = [await self.bus.producer(deadline=DEADLINE) for _ in range(2)]
        member = await self.bus.join_group("inbound", "g", on_assigned=nothing, on_revoked=nothing)
        reader = await self.bus.reader("outbound", "d")
        reader.assign(dict.fromkeys(range(P), 0))
        self._opened = [*producers, member, reader]
        works = [*(self._write(each) for each in producers), self._read(member), self._read(reader)]
        self._tasks = [asyncio.create_task(work) for work in works]

    async def comes_through(self) -> None:
        """Wait until what is sent and committed from now on is acknowledged."""
        acked, committed = self.acked + 100, self.committed + 4
        async with asyncio.timeout(40.0):
            while self.acked < acked or self.committed < committed:
                await asyncio.sleep(0.02)

    async def fails(self) -> None:
        """Wait until both producers were replaced."""
        replaced = self.metrics.bus_producer_replaced._value
        before = replaced.get()
        async with asyncio.timeout(20.0):
            while replaced.get() < before + 2:
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        self.going = False
        await asyncio.gather(*self._tasks)
        for each in (*self._opened, self.bus):
            await each.close()

    async def _write(self, producer: Producer) -> None:
        for number in itertools.count():
            if not self.going:
                return
            for partition in range(P):
                topic: Any = ("inbound", "outbound")[number % 2]
                try:
                    producer.produce(topic, partition, None, b"x" * 100).add_done_callback(self._take)
                except Retry:
                    continue
            await asyncio.sleep(0.005)

    def _take(self, done: asyncio.Future[int]) -> None:
        self.acked += done.exception() is None

    async def _read(self, consumer: Consumer) -> None:
        while self.going:
            try:
                found = await consumer.fetch(100, 0.1)
                if found:
                    await consumer.commit({p: records[-1].offset + 1 for p, records in found.items()})
                    self.committed += 1
            except Retry:
                await asyncio.sleep(0.01)


async def nothing(_: object) -> None:
    """Take a move of partitions."""


@pytest.mark.parametrize("ending", ["well", "hung", "dead"])
async def test_nothing_is_left(
    broker: Running, unique_prefix: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """inv 7: after hangs and deaths of a broker no task, socket or error of a client remains."""
    troubles: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    if not broker.alive:
        await asyncio.to_thread(broker.restart)
    before, tasks = sockets(), asyncio.all_tasks()
    service = Service(broker, unique_prefix)
    await service.start()
    await service.comes_through()
    broker.pause()
    await service.fails()
    broker.resume()
    await service.comes_through()
    if ending == "hung":
        broker.pause()
    elif ending == "dead":
        broker.kill()
    if ending != "well":
        await service.fails()
    await service.close()
    if ending == "hung":
        broker.resume()
    async with asyncio.timeout(2.0):  # transports take a turn or two of the loop to close
        while sockets() > before or asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.02)
    gc.collect()
    await asyncio.sleep(0)
    assert troubles == []
    # What the libraries say of an outage is kept from a service's log (`kafka_security`).
    ours = [each for each in caplog.records if not each.name.startswith(("aiokafka", "librdkafka"))]
    assert [record.message for record in ours if record.levelno >= logging.ERROR] == []
