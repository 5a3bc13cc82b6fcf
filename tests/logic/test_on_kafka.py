"""Logic on a real Kafka: the group, the rebalance and the commit are what the memory adapter pretends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
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
from holdfast.settings import Api, Kafka, Logic, Process, Settings
from services.logic.service import Service, build

if TYPE_CHECKING:
    from collections.abc import Callable

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


async def test_poison_and_its_letters_on_a_real_kafka(kafka_server: Running, unique_prefix: str) -> None:
    """inv 11: what is no record is kept and counted, the rest goes on; a letter is handled again once."""
    kafka = Kafka(
        servers=kafka_server.address,
        prefix=unique_prefix,
        partitions=P,
        replication=1,
        buffer_bytes=4_000_000,
    )
    settings = Settings(
        kafka=kafka,
        process=Process(host="127.0.0.1"),
        api=Api(port=0),
        logic=Logic(retries=0, backoff=0.01),
    )
    app, works = App(), False

    @app.on("handled")
    async def handled(ctx: Any, message: Any) -> None:
        if not works:
            raise KeyError("broken")
        ctx.forward()

    one, bus = service(settings, app, MemoryRegistry(), "logic-1")
    await bus.start()
    await one.start()
    producer = await bus.producer(deadline=10)
    try:
        partition = partition_of("ann", P)
        poison = (b"\xc1 no record", b"", None)
        for value in (*poison, send("ann", 1), send("ann", 2)):
            await producer.produce("inbound", partition, b"ann", value)
        (passed,) = await outbound(bus, lambda found: len(found) == 1)
        assert passed.score == 2 * records.MAX_OUTPUTS

        async def command(*arguments: str) -> tuple[int, Any]:
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "holdfast.cli", "deadletter", *arguments, "--json",
                env={
                    **os.environ,
                    "HOLDFAST_KAFKA_SERVERS": kafka.servers,
                    "HOLDFAST_KAFKA_PREFIX": unique_prefix,
                    "HOLDFAST_KAFKA_PARTITIONS": str(P),
                    "HOLDFAST_KAFKA_REPLICATION": "1",
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            told, wrong = await running.communicate()
            assert told, wrong.decode()
            return running.returncode or 0, msgspec.json.decode(told)

        status, letters = await command("list")
        assert status == 0
        assert [letter["reason"] for letter in letters] == ["undecodable"] * 3 + ["failed"]
        assert {letter["partition"] for letter in letters} == {partition}
        counted = one._parts.metrics.registry.get_sample_value
        assert counted("holdfast_logic_dead_letters_total", {"reason": "undecodable"}) == 3
        works = True
        name = letters[-1]["id"]
        assert await command("retry", name) == (0, {name: "retried"})
        assert await command("retry", name) == (1, {name: "skipped: it was retried before"})
        assert await command("retry", "--force", name) == (0, {name: "retried"})
        messages = await outbound(bus, lambda found: len(found) == 3)
        assert len({message.source for message in messages[1:]}) == 1
        assert all(message.score == records.KEYED for message in messages[1:])
        status, shown = await command("show", name)
        assert (status, shown["state"], shown["original"]["data"]) == (0, "retried", 1)
    finally:
        await producer.close()
        await one.stop()
        await bus.close()


async def outbound(bus: KafkaBus, enough: Callable[[list[Any]], bool]) -> list[records.Message]:
    reader = await bus.reader("outbound")
    reader.assign(dict.fromkeys(range(P), 0))
    found: list[records.Message] = []
    deadline = time.monotonic() + 30
    while not enough(found):
        assert time.monotonic() < deadline, found
        for batch in (await reader.fetch(500, 0.2)).values():
            decoded = (records.decode_outbound(record.value or b"") for record in batch)
            found += [message for message in decoded if isinstance(message, records.Message)]
    await reader.close()
    return found
