"""On a real Kafka: senders that move between nodes while it freezes, dies and loses answers."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka
from tests.bus.moving import Sender
from tests.contracts.bus_world import reading

if TYPE_CHECKING:
    from deploy.local.servers import Running
    from holdfast.bus.port import Producer

pytestmark = pytest.mark.kafka

NODES = 3
SENDERS = 6


async def disturb(broker: Running, random: Random) -> None:
    """Freeze the broker for less or more than the deadline, or kill it."""
    await asyncio.sleep(random.uniform(0.2, 0.6))
    if random.random() < 0.75:
        broker.pause()
        await asyncio.sleep(random.choice((0.3, 1.2, 2.0)))
        broker.resume()
    else:
        broker.kill()
        await asyncio.to_thread(broker.restart)


@pytest.mark.parametrize("seed", [1, 2])
async def test_moving_senders_are_prefixes(broker: Running, unique_prefix: str, seed: int) -> None:
    """inv 1, 12: whatever node a sender is at, and whatever its former one still writes, there is no gap."""
    random = Random(seed)
    settings = Kafka(
        servers=broker.address,
        prefix=unique_prefix,
        partitions=1,
        replication=1,
        deadline=20.0,  # of what prepares and reads; that of the producers is what is tested
        buffer_records=120,
    )
    buses = [KafkaBus(settings, Metrics(), SystemClock()) for _ in range(NODES)]
    producers: list[Producer] = []
    for bus in buses:
        await bus.start()
        producers.append(await bus.producer(deadline=1.0))
    senders = [
        Sender(b"s%d" % number, 0, producers[number % NODES :] + producers[: number % NODES], window=80)
        for number in range(SENDERS)
    ]
    running = True

    async def send(sender: Sender) -> None:
        while running:
            sender.pump(random.randrange(1, 20))
            if random.random() < 0.02:
                sender.move()
            await asyncio.sleep(random.uniform(0.0, 0.02))

    tasks = [asyncio.create_task(send(sender)) for sender in senders]
    for _ in range(4):
        await disturb(broker, random)
    before = [len(sender.acked) for sender in senders]
    async with asyncio.timeout(30):
        while not all(len(s.acked) > n + 50 for s, n in zip(senders, before, strict=True)):
            await asyncio.sleep(0.05)
    running = False
    await asyncio.gather(*tasks)
    for producer in producers:
        await producer.close()
    found: list[tuple[int, bytes | None]] = []
    start, end = (await buses[0].ends("inbound"))[0]
    async with reading(buses[0], "inbound", {0: start}) as consumer, asyncio.timeout(30):
        while len(found) < end - start:
            for records in (await consumer.fetch(10_000, 0.5)).values():
                found += [(record.offset, record.value) for record in records]
    for bus in buses:
        await bus.close()
    for sender in senders:
        sender.check(found)
    assert sum(sender.moves for sender in senders) > SENDERS
    assert sum(sender.failures for sender in senders) > 0
