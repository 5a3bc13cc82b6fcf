"""A real Kafka whose outbound topic is made anew, or cut by retention before dispatch had read it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from holdfast.channel import partition_of
from holdfast.errors import Retry
from tests.log.servers import client
from tests.rebuild.real import CHANNELS, P, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deploy.local.servers import Running
    from tests.log.servers import Servers
    from tests.rebuild.conftest import Making
    from tests.rebuild.real import Real

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
async def admin(kafka_server: Running) -> AsyncIterator[AIOKafkaAdminClient]:
    made = AIOKafkaAdminClient(bootstrap_servers=kafka_server.address)
    await made.start()
    yield made
    await made.close()


async def again(real: Real, rounds: int) -> None:
    """Write again and again what Kafka does not take, as after any failure."""
    for _ in range(rounds):
        while True:
            try:
                await real.write(1)
                break
            except Retry:
                real.sent -= 1
                await asyncio.sleep(0.1)


def alarms(real: Real) -> list[str]:
    found: list[str] = real.process.node.details()["alarms"]
    return found


async def test_topic_recreated(
    servers: Servers, making: Making, unique_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    """inv 3, 9: every shard begins one new generation, with an alarm; what comes then is there in order."""
    redis = servers.start()
    real = await making(f"redis://{redis.address}")
    await real.write(20)
    before = await real.settled()
    name = f"{unique_prefix}.outbound"
    await admin.delete_topics([name])
    while name in await admin.list_topics():
        await asyncio.sleep(0.1)
    configs = {"message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(name, P, 1, topic_configs=configs)])
    real.sent = 0
    await again(real, 20)

    async def all_new() -> bool:
        return {view.epoch for view in (await real.views()).values()}.isdisjoint(
            view.epoch for view in before.values()
        )

    await until(all_new, 60)
    await again(real, 20)

    async def all_there() -> bool:
        return await real.heads() == {real.sent}

    await until(all_there, 30)
    after = await real.views()
    for channel in CHANNELS:
        assert after[channel].generation != before[channel].generation
    assert len(alarms(real)) == P
    unjoined = real.process.count("unjoined_total")
    assert P <= unjoined <= 2 * P
    for _ in range(4):  # no livelock: nothing begins again while nothing happens
        await asyncio.sleep(0.5)
        assert real.process.count("unjoined_total") == unjoined


async def test_retention_past_the_watermark(
    servers: Servers, making: Making, unique_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    """inv 3, 9: what Kafka no longer has before Redis took it in is a new generation, once, with an alarm."""
    redis = servers.start()
    real = await making(f"redis://{redis.address}")
    await real.write(20)
    before = await real.settled()
    with client(redis) as full:
        full.config_set("maxmemory", "1mb")
        await real.write(400, pause=0.0)  # more than a dispatcher queues
        ends = await real.process.parts.bus.ends("outbound")
        records = {
            TopicPartition(f"{unique_prefix}.outbound", partition): RecordsToDelete(before_offset=end - 20)
            for partition, (_, end) in ends.items()
        }
        await admin.delete_records(records)
        full.config_set("maxmemory", 0)

    rounds = 20
    await real.write(rounds)

    async def all_there() -> bool:
        return all(real.numbers(view)[-1:] == [real.sent] for view in (await real.views()).values())

    await until(all_there, 60)
    alarmed = len(alarms(real))  # a shard whose records were all fetched before goes on as it was
    assert alarmed
    assert real.process.count("unjoined_total") == alarmed
    new = set()
    for channel, view in (await real.views()).items():
        assert [seq for seq, _ in view.entries] == list(range(view.first, view.head + 1))
        assert real.numbers(view)[-rounds:] == list(range(real.sent - rounds + 1, real.sent + 1))
        if view.generation == before[channel].generation:
            assert (view.epoch, view.head) == (before[channel].epoch, real.sent)
        else:
            new.add(partition_of(channel, P))
    assert len(new) == alarmed
