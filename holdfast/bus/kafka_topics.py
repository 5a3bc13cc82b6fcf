"""Kafka's topics: created where missing, and refused where they break a promise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code
from aiokafka.protocol.metadata import MetadataRequest

from holdfast.bus import kafka_end
from holdfast.bus.kafka_security import options
from holdfast.bus.port import TOPICS, Topic
from holdfast.errors import Retry, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.clock import Clock
    from holdfast.settings import Kafka

_EXISTS: Final = 36
_REPLICATION: Final = 38
_LEADERS_SECONDS: Final = 20.0


def names(settings: Kafka) -> dict[Topic, str]:
    """Return the names that topics have in this Kafka."""
    return {topic: f"{settings.prefix}.{topic}" for topic in TOPICS}


async def prepare(admin: AIOKafkaAdminClient, settings: Kafka, clock: Clock) -> None:
    """Create what is missing, wait until it can be used, and check it.

    Raises Stop, naming what to change, or Retry while a partition has no leader.
    """
    wanted = names(settings)
    there = await describe(admin, list(wanted.values()))
    missing = [topic for topic, name in wanted.items() if name not in there]
    if missing:
        if not settings.create_topics:
            raise Stop(
                f"topic {wanted[missing[0]]} does not exist, and kafka.create_topics is false: create it "
                f"with {settings.partitions} partitions and message.timestamp.type=LogAppendTime"
            )
        await _create(admin, settings, missing)
    until = clock.monotonic() + _LEADERS_SECONDS
    while not all(usable(there.get(name)) for name in wanted.values()):
        if clock.monotonic() > until:
            raise Retry("Kafka's topics have no leaders yet")
        await clock.sleep(0.05)
        there = await describe(admin, list(wanted.values()))
    _check_shape(there, wanted, settings)
    await _check_promises(admin, wanted, settings, there)


async def _create(admin: AIOKafkaAdminClient, settings: Kafka, missing: list[Topic]) -> None:
    wanted = names(settings)
    common = {
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if settings.replication >= 3 else "1",
        "unclean.leader.election.enable": "false",
    }
    lasting = {"retention.ms": str(settings.retention_seconds * 1000)}
    compacted = {"cleanup.policy": "compact"}
    answer = await admin.create_topics(
        [
            NewTopic(
                name=wanted[topic],
                num_partitions=settings.partitions,
                replication_factor=settings.replication,
                topic_configs=common | (compacted if topic == "state" else lasting),
            )
            for topic in missing
        ]
    )
    for name, code, *message in answer.topic_errors:
        if code == _REPLICATION:
            raise Stop(
                f"Kafka cannot keep {settings.replication} replicas of topic {name}: set kafka.replication "
                "to the number of brokers, or start more of them"
            )
        if code and code != _EXISTS:
            error = for_code(code)
            text = f"Kafka did not create topic {name}: {error.__name__} {' '.join(filter(None, message))}"
            raise Retry(text) if error.retriable else Stop(text)


async def describe(admin: AIOKafkaAdminClient, wanted: list[str]) -> dict[str, dict[str, Any]]:
    """Return those of the topics that exist, as Kafka describes them.

    Asked by aiokafka's own call, brokers as they are shipped would make those that are missing, of one
    partition.
    """
    answer = await admin._send_request(MetadataRequest(wanted, allow_auto_topic_creation=False))
    topics = answer.to_object()["topics"]
    return {topic["topic"]: topic for topic in topics if topic["error_code"] != 3}  # 3: unknown


def usable(topic: dict[str, Any] | None) -> bool:
    """Tell whether every partition has a leader."""
    return (
        topic is not None
        and topic["error_code"] == 0
        and all(part["leader"] >= 0 and part["error_code"] == 0 for part in topic["partitions"])
    )


def _check_shape(there: dict[str, dict[str, Any]], wanted: dict[Topic, str], settings: Kafka) -> None:
    counts = {name: len(there[name]["partitions"]) for name in wanted.values()}
    made = min(counts.values())
    grown = [name for name, count in counts.items() if count != made]
    if grown:
        raise Stop(
            f"topic {grown[0]} has {counts[grown[0]]} partitions, others of {settings.prefix} have {made}: "
            "some were added, and its channels would move away from what is kept of them. Kafka does not "
            "take them back; docs/upgrading.md says how to go on"
        )
    for name, count in counts.items():
        if count != settings.partitions:
            raise Stop(
                f"topic {name} has {count} partitions, kafka.partitions is {settings.partitions}: set it to "
                f"{count}, or give kafka.prefix another value for new topics (docs/upgrading.md)"
            )
        replicas = copies(there[name])
        if replicas < settings.replication:
            raise Stop(
                f"topic {name} has {replicas} replicas, kafka.replication is {settings.replication}: give it "
                f"more, or set kafka.replication to {replicas} if what is acked may be lost with a broker"
            )


def copies(topic: dict[str, Any]) -> int:
    """Return how many replicas the partition with the fewest has."""
    return min(len(part["replicas"]) for part in topic["partitions"])


ASKED: Final = (  # the settings that `violations` looks at
    "message.timestamp.type",
    "min.insync.replicas",
    "unclean.leader.election.enable",
    "cleanup.policy",
    "retention.ms",
)


async def _check_promises(
    admin: AIOKafkaAdminClient, wanted: dict[Topic, str], settings: Kafka, there: dict[str, dict[str, Any]]
) -> None:
    """Refuse topics that exist and are configured so that a promise would not hold."""
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(ASKED, "")) for name in wanted.values()
    ]
    topics = {name: topic for topic, name in wanted.items()}
    for answer in await admin.describe_configs(asked):
        for code, _message, _type, name, entries in answer.resources:
            if code:
                raise Retry(f"Kafka did not tell how topic {name} is configured: {for_code(code).__name__}")
            found = {entry[0]: entry[1] for entry in entries}
            for option, broken, why in violations(topics[name], found, settings, copies(there[name])):
                raise Stop(f"topic {name} has {option}={found.get(option)}: set it to {broken}, {why}")


def violations(
    topic: Topic, found: Mapping[str, str], settings: Kafka, replicas: int
) -> Iterator[tuple[str, str, str]]:
    """Yield (option, what it must be, why) of what breaks a promise."""
    if topic == "outbound" and found.get("message.timestamp.type") != "LogAppendTime":
        yield "message.timestamp.type", "LogAppendTime", "or a replay would number messages differently"
    if replicas >= 3 and int(found.get("min.insync.replicas", "1")) < 2:
        yield "min.insync.replicas", "2", "or what was acked may be lost with one broker"
    if found.get("unclean.leader.election.enable") == "true":
        yield "unclean.leader.election.enable", "false", "or a replica that lags drops what was acked"
    compacted = "compact" in found.get("cleanup.policy", "")
    if topic == "state" and found.get("cleanup.policy") != "compact":
        yield "cleanup.policy", "compact", "or memberships and revocations are forgotten"
    if topic != "state" and compacted:
        yield "cleanup.policy", "delete", "or messages of one sender replace each other"
    kept, wanted = int(found.get("retention.ms", "-1")), settings.retention_seconds * 1000
    if topic in ("inbound", "outbound") and not compacted and 0 <= kept < wanted:
        yield "retention.ms", f"{wanted} or more, or lower kafka.retention_seconds", "so that both agree"


async def connect(settings: Kafka, seconds: float) -> AIOKafkaAdminClient:
    """Return a started admin client. Raises Stop, and what aiokafka and the network raise."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.servers, request_timeout_ms=int(seconds * 1000), **options(settings)
    )
    kafka_end.careful(admin._client)
    try:
        async with asyncio.timeout(seconds):
            await admin.start()
    except BaseException:
        await admin.close()
        raise
    return admin
