"""Logic on a real Kafka: the group, the rebalance and the commit are what the memory adapter pretends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import records
from holdfast.app import App
from holdfast.bus.kafka import KafkaBus
from holdfast.channel import partition_of
from holdfast.clock import SystemClock
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.network import TcpNetwork
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts
from holdfast.settings import Api, Kafka, Process, Settings
from services.logic.service import Service, build

if TYPE_CHECKING:
    from deploy.local.servers import Running

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(90)]

P = 3
USERS = 30
EACH = 20


def service(settings: Settings, app: App, registry: MemoryRegistry, name: str) -> tuple[Service, KafkaBus]:
    metrics = Metrics()
    bus = KafkaBus(settings.kafka, metrics, SystemClock())
    parts = Parts(
        settings=settings,
        clock=SystemClock(),
        network=TcpNetwork(),
        bus=bus,
        log=MemoryLog(MemoryStore(P), settings.policies()),
        directory=MemoryDirectory(registry),
        metrics=metrics,
    )
    return build(parts, name, 0, app), bus


def send(user: str, n: int) -> bytes:
    return records.encode(
        records.Send(
            user=user,
            client="c",
            n=n,
            message=records.message_id(user, "c", n),
            to="room:all",
            type="handled" if n % 2 else "plain",
            data=b"%d" % n,
            ts=1,
            session="s",
            device="web",
            node="access-1",
            connection=1,
            frame=n,
        )
    )


async def test_workers_come_and_go_on_a_real_kafka(kafka_server: Running, unique_prefix: str) -> None:
    """inv 2, 12: over two rebalances every send comes out, and in order once repeats are out."""
    settings = Settings(
        kafka=Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=P, replication=1),
        process=Process(host="127.0.0.1"),
        api=Api(port=0),
    )
    app = App()

    @app.on("handled")
    async def handled(ctx: Any, message: Any) -> None:
        await asyncio.sleep(0)
        ctx.forward()

    registry = MemoryRegistry()
    first, bus = service(settings, app, registry, "logic-1")
    second, other = service(settings, app, registry, "logic-2")
    await bus.start()
    await other.start()
    await first.start()
    producer = await bus.producer(deadline=10)
    for n in range(1, EACH + 1):
        futures = [
            producer.produce("inbound", partition_of(user, P), user.encode(), send(user, n))
            for user in (f"u{number}" for number in range(USERS))
        ]
        await asyncio.gather(*futures)
        if n == 5:
            await second.start()
        if n == 12:
            await first.stop()

    reader = await bus.reader("outbound")
    reader.assign(dict.fromkeys(range(P), 0))
    scores: dict[str, list[int]] = {}
    deadline = time.monotonic() + 40
    while len(scores) < USERS or any(len(numbers) < EACH for numbers in scores.values()):
        assert time.monotonic() < deadline, {u: len(numbers) for u, numbers in scores.items()}
        for found in (await reader.fetch(500, 0.5)).values():
            for record in found:
                message = records.decode_outbound(record.value or b"")
                assert isinstance(message, records.Message)
                numbers = scores.setdefault(message.source, [])
                if not numbers or message.score > numbers[-1]:  # what the shard does
                    numbers.append(message.score)
    expected = [n * records.MAX_OUTPUTS for n in range(1, EACH + 1)]
    assert all(numbers == expected for numbers in scores.values())
    await reader.close()
    await producer.close()
    await second.stop()
    await other.close()
    await bus.close()
