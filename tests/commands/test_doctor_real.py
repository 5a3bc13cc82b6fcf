"""`holdfast doctor` on real servers: in order, set wrongly, away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.servers import free_port
from holdfast import cli
from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.commands import doctor
from holdfast.doctor import kafka, membership, redis
from holdfast.log.redis_scripts import Caller
from holdfast.membership.consul import ConsulDirectory
from holdfast.network import TcpNetwork
from holdfast.observe.metrics import Metrics
from holdfast.process import make_parts
from holdfast.settings import Consul, Kafka, Membership, Redis, Settings
from tests.log.servers import Servers, client, start_cluster, start_sentinel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from deploy.local.servers import Running
    from holdfast.doctor.finding import Finding

P = 3
CLOCK = SystemClock()


def said(findings: Sequence[Finding], level: str) -> dict[str, str]:
    """Return what was found on a level, by subject (the last, where one has several)."""
    return {one.subject: one.found for one in findings if one.level == level}


# Kafka


async def at_kafka(settings: Kafka) -> Sequence[Finding]:
    return await kafka.look(settings, KafkaBus(settings, Metrics(), CLOCK), CLOCK)


@pytest.mark.kafka
async def test_kafka_as_services_make_it(kafka_server: Running, unique_prefix: str) -> None:
    """Topics that services created are in order; one broker is worth a word, and nothing waits."""
    settings = Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=P, replication=1)
    bus = KafkaBus(settings, Metrics(), CLOCK)
    await bus.start()
    await bus.close()
    found = await at_kafka(msgspec.structs.replace(settings, create_topics=False))
    assert said(found, "wrong") == {}
    assert set(said(found, "advice")) == {"brokers"}
    good = said(found, "good")
    assert good[f"{unique_prefix}.outbound"] == "3 partitions, 1 replicas, all in sync"
    assert good["outbound"].startswith("0 records wait for dispatch")


@pytest.mark.kafka
async def test_kafka_set_wrongly(kafka_server: Running, unique_prefix: str) -> None:
    """inv 1, 9: each topic and option that breaks a promise is named, all at once; nothing is made."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.address)
    await admin.start()
    wrong = {
        "inbound": {"retention.bytes": "1000", "message.timestamp.type": "CreateTime"},
        "outbound": {"message.timestamp.type": "CreateTime", "max.message.bytes": "1000"},
        "state": {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"},
    }
    topics = [NewTopic(f"{unique_prefix}.{name}", P, 1, topic_configs=more) for name, more in wrong.items()]
    await admin.create_topics(topics)
    settings = Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=4, replication=1)
    found = await at_kafka(settings)
    bad = {(one.subject.rpartition(".")[2], one.found) for one in found if one.level == "wrong"}
    assert bad >= {
        ("dead", "there is no such topic"),
        ("inbound", "3 partitions, 1 replicas"),
        ("inbound", "retention.bytes=1000"),
        ("outbound", "message.timestamp.type=CreateTime"),
        ("outbound", "max.message.bytes=1000"),
        ("state", "cleanup.policy=delete"),
    }
    assert all(one.change for one in found if one.level != "good")
    assert f"{unique_prefix}.inbound" in said(found, "advice")
    assert f"{unique_prefix}.dead" not in await admin.list_topics()
    await admin.close()


@pytest.mark.kafka
async def test_what_nobody_reads(kafka_server: Running, unique_prefix: str, monkeypatch: Any) -> None:
    """Records that wait, and a group that does not get on, are a fault of that service."""
    monkeypatch.setattr(kafka, "MANY", 10)
    monkeypatch.setattr(kafka, "LOOK_SECONDS", 0.1)
    settings = Kafka(servers=kafka_server.address, prefix=unique_prefix, partitions=P, replication=1)
    bus = KafkaBus(settings, Metrics(), CLOCK)
    await bus.start()
    producer = await bus.producer(deadline=5.0)
    await asyncio.gather(*(producer.produce("inbound", 1, b"k", b"v") for _ in range(20)))
    await producer.close()
    await bus.close()
    assert said(await at_kafka(settings), "wrong") == {
        "inbound": "20 records wait for logic, 20 of them in one partition; "
        "in partitions [1] it does not get on"
    }


# Redis


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Redis servers of this test's own."""
    made = Servers(tmp_path)
    yield made
    made.stop()


async def at_redis(url: str) -> Sequence[Finding]:
    settings = Redis(url=url)
    caller = Caller(settings, Metrics(), CLOCK, TcpNetwork())
    try:
        return await redis.look(settings, caller, 6, CLOCK)
    finally:
        await caller.close()


@pytest.mark.redis
async def test_redis_in_order(servers: Servers) -> None:
    """With a bound, an append-only file and no eviction there is nothing to change."""
    server = servers.start("--maxmemory", "100mb", "--appendonly", "yes")
    found = await at_redis(f"redis://{server.address}/0")
    assert {one.level for one in found} == {"good"}
    assert any("round trip" in one.found for one in found)


@pytest.mark.redis
async def test_redis_set_wrongly(servers: Servers) -> None:
    """inv 7, 9: eviction, a full memory, no append-only file, a replica in place of its master."""
    master = servers.start()
    host, _, port = master.address.rpartition(":")
    server = servers.start("--replicaof", f"{host} {port}")
    options = ("--maxmemory-policy", "allkeys-lru", "--maxmemory", "1mb", "--appendonly", "yes")
    full = servers.start(*options, "--appendfsync", "always")
    wrong = [one.found for one in await at_redis(f"redis://{server.address}/0") if one.level == "wrong"]
    assert wrong == ["it is a replica, which takes no writes"]
    found = await at_redis(f"redis://{full.address}/0")
    wrong = [one.found for one in found if one.level == "wrong"]
    assert "maxmemory-policy allkeys-lru" in wrong
    assert any("of 1 MiB of memory used" in one for one in wrong)
    assert "appendfsync always" in said(found, "advice").values()


@pytest.mark.redis
async def test_a_redis_that_tells_little(servers: Servers) -> None:
    """A managed server, which refuses CONFIG, is looked at as far as it lets; no password is shown."""
    server = servers.start("--rename-command", "CONFIG", "", "--requirepass", "hunter2")
    found = await at_redis(f"redis://:hunter2@{server.address}/0")
    assert said(found, "wrong") == {}
    for url in (f"redis://:hunter3@{server.address}/0", f"redis://{server.address}/0"):
        (one,) = await at_redis(url)
        assert one.level == "wrong"
        assert "hunter" not in one.found + one.change


@pytest.mark.redis
@pytest.mark.timeout(60)
async def test_every_server_of_a_cluster(servers: Servers) -> None:
    """All masters are looked at, and the Cluster as a whole."""
    masters, _ = await asyncio.to_thread(start_cluster, servers)
    found = await at_redis(f"redis+cluster://{masters[0].address}")
    ports = {f"port {master.address.rpartition(':')[2]}" for master in masters}
    assert ports <= {one.subject for one in found}
    assert said(found, "good")["cluster"] == "cluster_state ok, 16384 slots ok"
    with client(masters[1]) as admin:
        admin.execute_command("CLUSTER", "DELSLOTS", 10)
    masters[2].kill()
    found = await at_redis(f"redis+cluster://{masters[1].address}")
    assert said(found, "wrong")


@pytest.mark.redis
@pytest.mark.timeout(60)
async def test_the_master_that_sentinels_name(servers: Servers) -> None:
    """It is looked at with its replica."""
    master, replica, sentinel = await asyncio.to_thread(start_sentinel, servers)
    found = await at_redis(f"redis+sentinel://{sentinel.address}/main")
    assert "1 replicas, in sync" in [one.found for one in found]
    assert said(found, "wrong") == {}
    assert f"port {master.address.rpartition(':')[2]}" in said(found, "good")
    del replica


# Consul


@pytest.mark.consul
async def test_consul(consul_server: Running, unique_prefix: str) -> None:
    """Its leader and its servers; a single one is worth a word."""
    settings = Settings(consul=Consul(address=consul_server.address, service=unique_prefix))
    directory = ConsulDirectory(settings.consul, settings.membership, Metrics(), CLOCK)
    (found,) = await membership.look(settings, directory)
    await directory.close()
    assert found.level == "advice"
    assert "leader 127.0.0.1" in found.found
    assert "version 1." in found.found


# all of it


async def test_nothing_is_there(capsys: Any) -> None:
    """Every server away: each is named with its setting, and one does not hide another."""
    gone = f"127.0.0.1:{free_port()}"
    settings = Settings(
        kafka=Kafka(servers=gone, deadline=1.0),
        redis=Redis(url=f"redis://user:hunter2@{gone}/0", timeout=1.0),
        consul=Consul(address=gone),
        membership=Membership(kind="consul"),
    )
    ports = make_parts(settings, Metrics())
    found = await doctor.look(ports)
    wrong = {one.area: one for one in found if one.level == "wrong"}
    assert set(wrong) == {"Kafka", "Redis", "Consul"}
    assert all(gone in one.found for one in wrong.values())
    assert {one.area for one in found if one.level == "unknown"} == {"shards", "processes"}
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "command",
    [
        ("nodes",),
        ("drain", "access-1"),
        ("presence", "ann"),
        ("tail", "room:lobby"),
        ("inspect", "abcdef"),
        ("deadletter", "list"),
    ],
    ids=lambda command: command[0],
)
def test_a_server_that_is_away_is_named(command: tuple[str, ...], capsys: Any, monkeypatch: Any) -> None:
    """inv 11: one line with the server and its setting, status 75, no traceback, no password."""
    gone = f"127.0.0.1:{free_port()}"
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.setenv("HOLDFAST_KAFKA_SERVERS", gone)
    monkeypatch.setenv("HOLDFAST_KAFKA_DEADLINE", "1")
    monkeypatch.setenv("HOLDFAST_REDIS_URL", f"redis://user:hunter2@{gone}/0")
    monkeypatch.setenv("HOLDFAST_CONSUL_ADDRESS", gone)
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (75, "")
    (line,) = told.err.splitlines()
    assert line.startswith("holdfast: ")
    assert gone in line
    assert "kafka.servers" in line or "redis.url" in line
    assert "hunter2" not in line
