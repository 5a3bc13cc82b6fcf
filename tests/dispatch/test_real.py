"""Dispatchers on a real Kafka and a real Redis, with links over TCP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from holdfast import records
from holdfast.channel import partition_of
from holdfast.log.port import Change, NodeUpdate, Query
from holdfast.membership.memory import MemoryRegistry
from holdfast.membership.port import Node
from holdfast.network import TcpNetwork
from holdfast.nodelink.frames import BREAK, MessageItem, Push
from holdfast.nodelink.server import LinkServer
from holdfast.observe.metrics import Metrics
from holdfast.settings import Dispatch, Kafka, Redis, Settings
from tests.dispatch.process import Process, until

if TYPE_CHECKING:
    from deploy.local.servers import Running

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

P = 4
CHANNELS = [f"room:{number}" for number in range(12)]


async def test_hand_over_under_traffic(
    kafka_server: Running, redis_server: Running, unique_prefix: str
) -> None:
    """inv 3, 4, 8: dispatchers come and go under traffic; each seq is there once, and a gap has its break."""
    settings = Settings(
        kafka=Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=P, replication=1),
        redis=Redis(url=f"redis://{redis_server.address}", prefix=unique_prefix),
        dispatch=Dispatch(takeover=1.0, idle=0.3),
    )
    registry = MemoryRegistry()
    pushes: list[Push] = []
    server = LinkServer(
        TcpNetwork(),
        "127.0.0.1",
        0,
        incarnation="a-1",
        secret="",
        metrics=Metrics(),
        on_push=lambda _, push: pushes.append(push),
        on_lost=lambda _: None,
    )
    await server.start()
    registry.put(Node("a", "a-1", "access", f"127.0.0.1:{server.port}"))
    first, second = (Process(settings, registry, name) for name in ("d1", "d2"))
    await first.start()
    log = first.parts.log
    for shard in range(P):
        changes = [Change("+r", channel) for channel in CHANNELS if partition_of(channel, P) == shard]
        await log.update(shard, NodeUpdate("a-1", 1, changes))
    producer = await first.parts.bus.producer(deadline=10.0)
    sent = 0

    async def traffic(seconds: float) -> None:
        nonlocal sent
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sent += 1
            futures = [
                producer.produce(
                    "outbound",
                    partition_of(channel, P),
                    channel.encode(),
                    records.encode(records.Message(channel, b'"id":"%d"' % sent, "u\0c", sent)),
                )
                for channel in CHANNELS
            ]
            await asyncio.gather(*futures)
            await asyncio.sleep(0.01)

    await until(lambda: first.partitions() == [0, 1, 2, 3])
    await traffic(0.5)
    await second.start()
    await until(lambda: bool(second.partitions()) and len(first.partitions() + second.partitions()) == P)
    await traffic(0.5)
    await second.stop()
    await until(lambda: first.partitions() == [0, 1, 2, 3])
    await traffic(0.5)

    def last() -> set[str]:
        return {
            i.channel for push in pushes for i in push.items if isinstance(i, MessageItem) and i.seq == sent
        }

    await until(lambda: last() == set(CHANNELS))
    for channel in CHANNELS:
        partition = partition_of(channel, P)
        (view,) = await log.read(partition, [Query(channel, after=0, limit=5000)])
        assert view.head == sent
        assert [entry.rpartition(b",")[2] for _, entry in view.entries] == [
            b'"id":"%d"' % number for number in range(view.first, sent + 1)
        ]
        expected, broken = 1, True
        for push in pushes:
            if push.partition != partition:
                continue
            broken = broken or push.follows == BREAK
            for item in push.items:
                if isinstance(item, MessageItem) and item.channel == channel:
                    assert item.seq >= expected
                    assert item.seq == expected or broken, "a gap without a break"
                    expected, broken = item.seq + 1, False
    await producer.close()
    await first.stop()
    server.close()
