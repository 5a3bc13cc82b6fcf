"""Kafka: its brokers, the topics and their settings, and how far readers are behind."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from holdfast.bus import kafka_topics
from holdfast.bus.port import MAX_RECORD, TOPICS
from holdfast.doctor.finding import Findings
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from holdfast.bus.port import Bus, Progress, Topic
    from holdfast.clock import Clock
    from holdfast.doctor.finding import Finding
    from holdfast.settings import Kafka

LOOK_SECONDS: Final = 3.0
"""Seconds between two looks at how far a group has come: commits come about once a second."""

MANY: Final = 1000
"""Records behind which a group that does not move is a matter for the doctor."""

FRAMING: Final = 12_288
"""Bytes that a broker may need around a record of `MAX_RECORD`."""

_AWAY: Final = (KafkaError, OSError, TimeoutError)


async def look(settings: Kafka, bus: Bus, clock: Clock) -> Sequence[Finding]:
    """Look at Kafka. `bus` need not be started."""
    findings = Findings("Kafka")
    seconds = max(settings.deadline, 1.0)
    with _listening() as said:
        try:
            admin = await kafka_topics.connect(settings, seconds)
        except _AWAY as error:
            findings.wrong(
                "servers",
                f"{settings.servers}: {said[-1] if said else repr(error)}",
                "start Kafka, or correct kafka.servers, or what Kafka or we refuse: kafka.user and password, "
                "kafka.tls_authority and tls_certificate",
            )
            return findings.all
    try:
        whole = await _look_at_topics(findings, admin, settings)
    except (*_AWAY, Retry) as error:
        findings.unknown("topics", f"Kafka did not tell: {error!r}")
        whole = False
    finally:
        await admin.close()
    if whole:
        await _look_at_groups(findings, settings, bus, clock)
    return findings.all


@contextlib.contextmanager
def _listening() -> Iterator[deque[str]]:
    """Keep the last thing that aiokafka says: why it cannot connect is in its log only."""
    said: deque[str] = deque(maxlen=1)

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, keep = logging.getLogger("aiokafka"), Keep(logging.WARNING)
    logger.addHandler(keep)
    try:
        yield said
    finally:
        logger.removeHandler(keep)


async def _look_at_topics(findings: Findings, admin: AIOKafkaAdminClient, settings: Kafka) -> bool:
    """Tell whether all topics are there and can be used."""
    brokers = (await admin.describe_cluster())["brokers"]
    found = f"{len(brokers)} at " + ", ".join(f"{one['host']}:{one['port']}" for one in brokers)
    if len(brokers) < settings.replication:
        findings.wrong(
            "brokers",
            f"{found}, kafka.replication is {settings.replication}",
            "start those that are away: the next one that goes may stop writes",
        )
    elif len(brokers) >= 3:
        findings.good("brokers", found)
    else:
        findings.advice(
            "brokers", found, "have three, or what is acked is lost with the disk of one (not so for a try)"
        )
    wanted = kafka_topics.names(settings)
    there = await kafka_topics.describe(admin, list(wanted.values()))
    for name in wanted.values():
        if name not in there:
            findings.wrong(
                name,
                "there is no such topic",
                "start a service with kafka.create_topics, or correct kafka.prefix",
            )
        else:
            _look_at_shape(findings, settings, name, there[name])
    asked = {topic: name for topic, name in wanted.items() if name in there}
    for topic, entries in (await _configured(admin, asked)).items():
        name = wanted[topic]
        broken = kafka_topics.violations(topic, entries, settings, kafka_topics.copies(there[name]))
        synced, needed = _in_sync(there[name]), int(entries.get("min.insync.replicas", "1"))
        if synced < needed:
            findings.wrong(
                name,
                f"{synced} replicas in sync, min.insync.replicas={needed}",
                "start the brokers that are away: nothing is acked meanwhile",
            )
        for option, right, why in broken:
            findings.wrong(name, f"{option}={entries.get(option)}", f"set it to {right}, {why}")
        _look_at_settings(findings, topic, name, entries)
    return len(asked) == len(TOPICS) and all(kafka_topics.usable(topic) for topic in there.values())


def _look_at_shape(findings: Findings, settings: Kafka, name: str, topic: dict[str, Any]) -> None:
    parts = topic["partitions"]
    replicas = kafka_topics.copies(topic)
    found = f"{len(parts)} partitions, {replicas} replicas"
    headless = [part["partition"] for part in parts if part["leader"] < 0]
    lagging = sorted({broker for part in parts for broker in set(part["replicas"]) - set(part["isr"])})
    if len(parts) != settings.partitions:
        findings.wrong(
            name,
            found,
            f"set kafka.partitions to {len(parts)}, or give kafka.prefix another value for new topics",
        )
    elif headless:
        findings.wrong(name, f"partitions {headless} have no leader", "look at the brokers and their logs")
    elif replicas < settings.replication:
        findings.wrong(
            name,
            f"{found}, kafka.replication is {settings.replication}",
            f"reassign the topic to {settings.replication} replicas",
        )
    elif lagging:
        findings.advice(
            name,
            f"{found}; brokers {lagging} are not in sync",
            "look at these brokers: another loss may stop writes",
        )
    else:
        findings.good(name, f"{found}, all in sync")


def _in_sync(topic: dict[str, Any]) -> int:
    """Return how many replicas are in sync of the partition with the fewest."""
    return min(len(part["isr"]) for part in topic["partitions"])


def _look_at_settings(findings: Findings, topic: Topic, name: str, entries: Mapping[str, str]) -> None:
    """Look at what services do not refuse by themselves at their start."""
    if topic != "state" and int(entries.get("retention.bytes", "-1")) >= 0:
        findings.wrong(
            name,
            f"retention.bytes={entries['retention.bytes']}",
            "set it to -1, or what was acked may go before it is as old as kafka.retention_seconds says",
        )
    if int(entries.get("max.message.bytes", "0")) < MAX_RECORD + FRAMING:
        findings.wrong(
            name,
            f"max.message.bytes={entries.get('max.message.bytes')}",
            f"set it to {MAX_RECORD + FRAMING} or more, or large messages are refused",
        )
    if topic != "outbound" and entries.get("message.timestamp.type") != "LogAppendTime":
        findings.advice(
            name,
            f"message.timestamp.type={entries.get('message.timestamp.type')}",
            "set it to LogAppendTime, so that times are the brokers' and not the senders'",
        )


_ASKED: Final = (*kafka_topics.ASKED, "retention.bytes", "max.message.bytes")


async def _configured(
    admin: AIOKafkaAdminClient, wanted: Mapping[Topic, str]
) -> Mapping[Topic, Mapping[str, str]]:
    """Return the settings of topics. Raises Retry."""
    topics = {name: topic for topic, name in wanted.items()}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_ASKED, "")) for name in topics]
    found: dict[Topic, Mapping[str, str]] = {}
    for answer in await admin.describe_configs(asked) if asked else ():
        for code, _message, _type, name, entries in answer.resources:
            if code:
                raise Retry(f"the settings of topic {name}: {for_code(code).__name__}")
            found[topics[name]] = {entry[0]: entry[1] for entry in entries}
    return found


async def _look_at_groups(findings: Findings, settings: Kafka, bus: Bus, clock: Clock) -> None:
    """Look twice at what waits: whether somebody reads it, and by Kafka's clock or one of another time."""
    groups: dict[Topic, tuple[str, str]] = {
        "inbound": (settings.group, "logic"),
        "outbound": (f"{settings.group}-dispatch", "dispatch"),
    }
    try:
        await bus.start()
        first = {topic: await _progress(bus, topic, group, clock) for topic, (group, _) in groups.items()}
        await clock.sleep(LOOK_SECONDS)
        for topic, (group, role) in groups.items():
            _compare(findings, topic, role, first[topic], await bus.progress(topic, group))
        await _look_at_clock(findings, bus, clock)
    except Retry as error:
        findings.unknown("what waits", str(error))
    finally:
        await bus.close()


async def _progress(bus: Bus, topic: Topic, group: str, clock: Clock) -> Mapping[int, Progress]:
    """Ask for a group's progress, again for a while: a Kafka without groups has no coordinator yet."""
    until = clock.monotonic() + LOOK_SECONDS
    while True:
        try:
            return await bus.progress(topic, group)
        except Retry:
            if clock.monotonic() > until:
                raise
        await clock.sleep(0.5)


def _compare(
    findings: Findings,
    topic: Topic,
    role: str,
    first: Mapping[int, Progress],
    then: Mapping[int, Progress],
) -> None:
    waits = {partition: one.end - one.position for partition, one in then.items()}
    total, most = sum(waits.values()), max(waits.values())
    stuck = [p for p, count in waits.items() if count > MANY and then[p].position == first[p].position]
    found = f"{total} records wait for {role}, {most} of them in one partition"
    if stuck:
        findings.wrong(
            topic,
            f"{found}; in partitions {stuck} it does not get on",
            f"look at {role}: `holdfast nodes`, and its log",
        )
    else:
        findings.good(topic, found)


async def _look_at_clock(findings: Findings, bus: Bus, clock: Clock) -> None:
    """Look for records of the future: they say that a broker's clock is ahead."""
    now = clock.now_ms()
    ends = await bus.ends("outbound")
    ahead = [
        partition
        for partition, (first, end) in ends.items()
        if first < end and await bus.offset_at("outbound", partition, now + 1000) < end
    ]
    if ahead:
        findings.wrong(
            "clock",
            f"the newest records of outbound {ahead} are over 1 s ahead of this machine's time",
            "set the clocks of the brokers, and of this machine, by NTP",
        )
