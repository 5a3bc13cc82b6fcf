"""What decides who may see what moves along to another number of partitions."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from holdfast import records
from holdfast.bus.kafka import KafkaBus
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.carry import carry
from holdfast.channel import partition_of
from holdfast.clock import SystemClock
from holdfast.commands import carry as command
from holdfast.errors import Stop
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka, Settings
from holdfast.testing import Cluster

if TYPE_CHECKING:
    from deploy.local.servers import Running
    from holdfast.bus.port import Bus


async def told(bus: Bus, *facts: records.StateRecord) -> None:
    """Write facts to a state topic, each where its channel lives."""
    producer = await bus.producer(deadline=10.0)
    futures = [
        producer.produce(
            "state", partition_of(fact.channel, bus.partitions), fact.key.encode(), records.encode(fact)
        )
        for fact in facts
    ]
    await asyncio.gather(*futures)
    await producer.close()


FACTS = (
    records.StateRecord("member", "group:a", "ann", 3),
    records.StateRecord("member", "group:a", "ben", 4),
    records.StateRecord("member", "group:b", "ann", 5),
    records.StateRecord("member", "group:a", "ben", 9, present=False),
    records.StateRecord("revoke", "user:ann", "", 77, seq=77),
    records.StateRecord("group", "user:ann", "group:a", 3),
    records.StateRecord("cursor", "user:ann", "ann\0web", 3, "g.0", 2),
    records.StateRecord("generation", "user:ann", "", 3, "g"),
)


async def test_members_and_revocations_are_said_again_where_they_belong() -> None:
    """The newest of each fact, in its channel's new partition; what belongs to the old logs stays behind."""
    clock = SystemClock()
    old, new = MemoryBus(MemoryBroker(3, clock)), MemoryBus(broker := MemoryBroker(8, clock))
    await told(old, *FACTS)
    producer = await old.producer(deadline=1.0)
    await producer.produce("state", 0, b"nonsense", b"\xc1")
    taken_out = FACTS[2]
    await producer.produce("state", partition_of(taken_out.channel, 3), taken_out.key.encode(), None)
    await producer.close()
    carried = await carry(old, new, clock)
    assert msgspec.structs.astuple(carried)[2:] == (3, 1)
    found = set()
    for partition in range(8):
        for record in broker.partition("outbound", partition).records:
            said = records.decode_outbound(record.value or b"")
            assert partition_of(said.channel, 8) == partition
            assert record.key == said.channel.encode()
            found.add(said)
    assert found == {
        records.Member("group:a", "ann", joined=True),
        records.Member("group:a", "ben", joined=False),
        records.Revoke("user:ann", 77),
    }


async def test_who_was_carried_along_is_a_member() -> None:
    """A cluster of another number of partitions delivers to those who were members in the old one."""
    async with Cluster(partitions=3) as cluster:
        before = cluster.embedded.broker
        producer = await cluster.embedded.parts().bus.producer(deadline=5.0)
        member = records.Member("group:a", "ann", joined=True)
        await cluster._produce(member.channel, member)  # type: ignore[arg-type]
        await producer.close()
        await cluster.advance(5)
    async with Cluster(partitions=5) as cluster:
        old, new = MemoryBus(before), cluster.embedded.parts().bus
        moving = asyncio.ensure_future(carry(old, new, cluster.clock))
        while not moving.done():
            await cluster.advance(0.5)
        assert moving.result().members == 1
        await cluster.advance(2)
        ann = await cluster.connect("ann")
        await cluster.publish("group:a", "t", "hello")
        assert (await ann.receive(channel="group:a")).data == "hello"


def options(prefix: str, partitions: int) -> argparse.Namespace:
    return argparse.Namespace(from_prefix=prefix, from_partitions=partitions, json=True, config=None)


@pytest.mark.kafka
async def test_a_topic_with_added_partitions_can_be_left(
    kafka_server: Running, unique_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command reads topics that no service would start with, and writes those that the settings name."""
    was = Kafka(servers=kafka_server.address, prefix=f"{unique_prefix}a", partitions=2, replication=1)
    clock = SystemClock()
    old = KafkaBus(was, Metrics(), clock)
    await old.start()
    await told(old, *FACTS)
    await old.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.address)
    await admin.start()
    await admin.create_partitions({f"{unique_prefix}a.state": NewPartitions(4)})
    await admin.close()
    settings = Settings(kafka=msgspec.structs.replace(was, prefix=f"{unique_prefix}b", partitions=3))
    for _ in range(2):  # again, for what changed meanwhile
        assert await command.carry_over(settings, options(f"{unique_prefix}a", 2)) == 0
        carried = msgspec.json.decode(capsys.readouterr().out)
        assert carried == {"members": 3, "revocations": 1, "left": 3, "unreadable": 0}
    new = KafkaBus(settings.kafka, Metrics(), clock)
    await new.start()
    assert sum(end for _, end in (await new.ends("outbound")).values()) == 8
    await new.close()


async def test_a_prefix_that_did_not_change_is_refused() -> None:
    """inv 11: whoever forgot to name new topics is told so, before anything is written."""
    settings = Settings(kafka=Kafka(prefix="same"))
    with pytest.raises(Stop, match=r"kafka\.prefix"):
        await command.carry_over(settings, options("same", 2))
    with pytest.raises(Stop, match="--from-partitions"):
        await command.carry_over(settings, options("other", 0))
