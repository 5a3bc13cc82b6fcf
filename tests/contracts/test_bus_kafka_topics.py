"""Topics that break a promise are refused when a process starts, by name and with what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from deploy.local.kafka import start_kafka
from holdfast.bus.kafka import KafkaBus
from holdfast.bus.kafka_topics import violations
from holdfast.clock import SystemClock
from holdfast.errors import Stop
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.servers import Running
    from holdfast.bus.port import Topic

P = 3


def kafka(address: str, prefix: str, **more: object) -> Kafka:
    return Kafka(servers=address, prefix=prefix, partitions=P, replication=1, **more)  # type: ignore[arg-type]


@pytest.mark.kafka
async def test_another_partition_count_is_refused(kafka_server: Running, unique_prefix: str) -> None:
    """inv 11: start-up names the topic, the setting, and what to set it to."""
    bus = KafkaBus(kafka(kafka_server.address, unique_prefix), Metrics(), SystemClock())
    await bus.start()
    await bus.close()
    other = Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=5, replication=1)
    bus = KafkaBus(other, Metrics(), SystemClock())
    with pytest.raises(Stop, match=rf"{unique_prefix}\.inbound has 3 partitions.*kafka\.partitions is 5"):
        await bus.start()
    await bus.close()


@pytest.mark.kafka
async def test_brokers_that_make_topics_when_asked_do_not_make_ours(
    kafka_server: Running, unique_prefix: str, tmp_path: Path
) -> None:
    """inv 11: on brokers as they are shipped, too, topics have the partitions that are set."""
    assert kafka_server.ours or pytest.skip("needs a broker of its own")
    with start_kafka(tmp_path, settings={"auto.create.topics.enable": "true"}) as shipped:
        bus = KafkaBus(kafka(shipped.address, unique_prefix), Metrics(), SystemClock())
        await bus.start()
        assert set(await bus.ends("outbound")) == set(range(P))
        await bus.close()


@pytest.mark.kafka
async def test_partitions_that_were_added_are_refused(kafka_server: Running, unique_prefix: str) -> None:
    """inv 11: what runs goes on with the partitions it knows; what starts names the topic that has grown."""
    running = KafkaBus(kafka(kafka_server.address, unique_prefix), Metrics(), SystemClock())
    await running.start()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.address)
    await admin.start()
    await admin.create_partitions({f"{unique_prefix}.outbound": NewPartitions(P + 2)})
    await admin.close()
    producer = await running.producer(deadline=10.0)
    for partition in range(P):
        assert await producer.produce("outbound", partition, b"k", b"v") == 0
    assert {p: end for p, (_, end) in (await running.ends("outbound")).items()} == dict.fromkeys(range(P), 1)
    await producer.close()
    await running.close()
    for count in (P, P + 2):
        settings = msgspec.structs.replace(kafka(kafka_server.address, unique_prefix), partitions=count)
        again = KafkaBus(settings, Metrics(), SystemClock())
        with pytest.raises(Stop, match=rf"{unique_prefix}\.outbound has 5 partitions, others .* have 3"):
            await again.start()
        await again.close()


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("topic", "option", "value", "change"),
    [
        ("outbound", "message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("inbound", "unclean.leader.election.enable", "true", "false"),
        ("state", "cleanup.policy", "delete", "compact"),
        ("state", "cleanup.policy", "compact,delete", "compact"),
        ("outbound", "cleanup.policy", "compact", "delete"),
        ("inbound", "retention.ms", "1000", "86400000 or more"),
    ],
)
async def test_a_topic_that_breaks_a_promise_is_refused(
    kafka_server: Running, unique_prefix: str, topic: str, option: str, value: str, change: str
) -> None:
    """inv 1, 9, 11: what would lose messages or facts, or number them otherwise, is refused by name."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.address)
    await admin.start()
    configs = {"message.timestamp.type": "LogAppendTime", option: value}
    await admin.create_topics([NewTopic(f"{unique_prefix}.{topic}", P, 1, topic_configs=configs)])
    await admin.close()
    bus = KafkaBus(
        kafka(kafka_server.address, unique_prefix, retention_seconds=86_400), Metrics(), SystemClock()
    )
    with pytest.raises(
        Stop, match=rf"topic {unique_prefix}\.{topic} has {option}={value}: set it to {change}"
    ):
        await bus.start()
    await bus.close()


@pytest.mark.parametrize("topic", ["inbound", "outbound", "state", "dead"])
def test_one_replica_in_sync_is_not_enough(topic: Topic) -> None:
    """inv 1: three replicas with min.insync.replicas=1 are refused; two, or a single broker, are not."""
    found = {
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
        "cleanup.policy": "compact" if topic == "state" else "delete",
    }
    one, two = found | {"min.insync.replicas": "1"}, found | {"min.insync.replicas": "2"}
    assert [option for option, *_ in violations(topic, one, Kafka(), 3)] == ["min.insync.replicas"]
    assert not list(violations(topic, two, Kafka(), 3))
    assert not list(violations(topic, one, Kafka(), 1))


@pytest.mark.kafka
async def test_fewer_replicas_than_set_are_refused(kafka_server: Running, unique_prefix: str) -> None:
    """inv 1, 11: topics that were made with fewer replicas than kafka.replication says are refused."""
    bus = KafkaBus(kafka(kafka_server.address, unique_prefix), Metrics(), SystemClock())
    await bus.start()
    await bus.close()
    more = Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=P, replication=3)
    bus = KafkaBus(more, Metrics(), SystemClock())
    with pytest.raises(Stop, match=r"has 1 replicas, kafka\.replication is 3"):
        await bus.start()
    await bus.close()


@pytest.mark.kafka
async def test_missing_topics_are_refused_where_not_to_be_created(
    kafka_server: Running, unique_prefix: str
) -> None:
    """inv 11: with kafka.create_topics off, a missing topic is named."""
    settings = kafka(kafka_server.address, unique_prefix, create_topics=False)
    bus = KafkaBus(settings, Metrics(), SystemClock())
    with pytest.raises(Stop, match=rf"{unique_prefix}\.inbound does not exist"):
        await bus.start()
    await bus.close()


@pytest.mark.kafka
async def test_more_replicas_than_brokers_are_refused(kafka_server: Running, unique_prefix: str) -> None:
    """inv 11: a replication that this Kafka cannot have is refused, naming the setting."""
    settings = Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=P, replication=3)
    bus = KafkaBus(settings, Metrics(), SystemClock())
    with pytest.raises(Stop, match=r"kafka\.replication"):
        await bus.start()
    await bus.close()
