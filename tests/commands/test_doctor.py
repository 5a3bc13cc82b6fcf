"""`holdfast doctor`: each judgement, without servers."""

from __future__ import annotations

import contextlib
import email.utils
import resource
import time
from typing import Any

import pytest
from aiohttp import web

from holdfast import tls
from holdfast.bus import kafka_topics
from holdfast.clock import SystemClock
from holdfast.commands.findings import report
from holdfast.commands.nodes import Seen
from holdfast.commands.show import _room
from holdfast.doctor import kafka, machine, members, redis, shards
from holdfast.doctor.finding import Findings
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka


def levels(findings, subject=""):
    return {one.level for one in findings if subject in one.subject}


# this machine


def proc(tmp_path, **values):
    for name, value in values.items():
        file = tmp_path.joinpath(*name.split("__"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)
    return tmp_path


def test_kernel_settings(tmp_path):
    """What is too low for the connections is told with the command that changes it."""
    place = proc(tmp_path, net__core__somaxconn="128\n", fs__nr_open="1048576\n", vm__overcommit_memory="1\n")
    found = {one.subject: one for one in machine.look(10_000, place)}
    assert found["net.core.somaxconn"].level == "advice"
    assert "sysctl -w net.core.somaxconn=4096" in found["net.core.somaxconn"].change
    assert found["fs.nr_open"].level == "good"
    assert "vm.overcommit_memory" not in found
    assert "fs.file-max" not in found  # a kernel, or a container, without it


def test_file_descriptors(tmp_path, monkeypatch):
    """A hard limit below connections and what else is open; unlimited is enough."""
    for limit, level in (((1024, 4096), "advice"), ((1024, 20_000), "good"), ((-1, -1), "good")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: limit)
        assert levels(machine.look(18_000, tmp_path), "-Hn") == {level}


# processes


class Process:
    """What one process serves to operators, with a clock of its own."""

    def __init__(self):
        self.problems: list[str] = []
        self.seen = Seen("", "access", "alive", "")
        self.ahead = 0.0
        self.metrics = Metrics()
        self.metrics.build_info.labels("1.0").set(1)
        self.metrics.bus_partitions.set(4)
        self.metrics.files_limit.set(20_000)
        self.metrics.access_connections_limit.set(18_000)

    async def answer(self, request):
        date = email.utils.formatdate(time.time() + self.ahead, usegmt=True)
        if request.path == "/readyz":
            return web.json_response({"problems": self.problems}, headers={"Date": date})
        return web.Response(body=self.metrics.text())


@contextlib.asynccontextmanager
async def serving():
    process = Process()
    app = web.Application()
    app.router.add_get("/{path}", process.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    process.seen = Seen("access-1", "access", "alive", "access-1.x", metrics=address)
    yield process
    await runner.cleanup()


@pytest.fixture
async def process():
    """One process that answers on loopback."""
    async with serving() as process:
        yield process


async def judge(*seen, missing=()):
    return await members.look(seen, missing, 4, SystemClock(), tls.client("process", tls.Files()))


async def test_a_process_in_order(process):
    """It is ready, has room, its clock is ours, and it has the same settings."""
    (found,) = await judge(process.seen)
    assert (found.level, found.found) == ("good", "access, alive, version 1.0, room for 20000 files")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.problems.append("waiting for Kafka"), "not ready: waiting for Kafka"),
        (lambda p: setattr(p, "ahead", 3.0), "its clock is at least +"),
        (lambda p: setattr(p, "ahead", -3.0), "its clock is at least -"),
        (lambda p: p.metrics.files_limit.set(1024), "it may open 1024 files, access.connections is 18000"),
        (lambda p: p.metrics.bus_partitions.set(5), "its kafka.partitions is 5, here it is 4"),
        (lambda p: setattr(p.seen, "state", "silent"), "access, silent"),
    ],
)
async def test_a_process_out_of_order(process, change, says):
    """Each is wrong, in words, with what to change."""
    change(process)
    (found,) = await judge(process.seen)
    assert found.level == "wrong"
    assert says in found.found
    assert found.change


@pytest.mark.parametrize(
    ("days", "level", "says"),
    [
        (90, "good", "version 1.0"),
        (10.2, "advice", "its certificate of nodelink ends in 10 days"),
        (1.2, "wrong", "its certificate of nodelink ends in 1 days"),
        (-1, "wrong", "its certificate of nodelink has ended"),
    ],
)
async def test_a_certificate_that_ends(process, days, level, says):
    """Told three weeks ahead, and urgent three days before the end."""
    process.metrics.tls_expires_seconds.labels("nodelink").set(time.time() + days * 86_400)
    (found,) = await judge(process.seen)
    assert (found.level, says in found.found) == (level, True)


async def test_who_cannot_be_asked(process):
    """A process that lives and is out of reach is no fault; a role without anybody is."""
    gone = Seen("logic-1", "logic", "alive", "l", metrics="127.0.0.1:1")
    quiet = Seen("logic-2", "logic", "alive", "l")
    drained = Seen("access-0", "access", "drained", "a")
    found = await judge(process.seen, gone, quiet, drained, missing=["dispatch"])
    assert levels(found, "logic") == {"advice"}
    (advice,) = [one for one in found if one.level == "advice"]
    assert advice.subject == "logic-1, logic-2"
    assert "127.0.0.1:1 does not answer" in advice.found
    assert levels(found, "access-0") == {"good"}
    assert levels(found, "dispatch") == {"wrong"}


async def test_two_versions(process):
    """A roll-out that is under way, or stands still."""
    async with serving() as other:
        other.metrics = Metrics()
        other.metrics.build_info.labels("1.1").set(1)
        found = await judge(process.seen, other.seen)
    assert next(one.found for one in found if one.subject == "versions") == "1.0, 1.1"


# shards


async def test_shards_in_order(operator):
    """Every partition has a dispatcher that gets on."""
    cluster = operator.cluster
    looking = shards.look(operator.ports().log, 1.0, cluster.clock)
    (found,) = await cluster._driving.run(looking, 20.0, "looking")
    assert (found.level, found.subject) == ("good", "0-3")


async def test_shards_out_of_order(operator):
    """One without an owner, one whose owner stands still, and one made for other settings."""
    cluster = operator.cluster
    log = operator.ports().log
    for node in cluster.embedded.dispatch:
        await cluster._driving.run(node.stop(), 60.0, "stopping")
    cluster.embedded.dispatch.clear()
    await log.claim(1, "stuck-1", expected=await log.state(1), generation="g")
    found = await cluster._driving.run(shards.look(log, 1.0, cluster.clock), 20.0, "looking")
    said = {one.subject: one.found for one in found if one.level == "wrong"}
    assert said["0, 2-3"] == "no dispatcher has them"
    assert said["1"] == "their dispatcher does not get on (stuck-1)"


# Redis's answers


@pytest.mark.parametrize(
    ("info", "level", "says"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "wrong", "maxmemory-policy allkeys-lru"),
        ({"maxmemory": "0"}, "advice", "no maxmemory"),
        ({"maxmemory": "1000", "used_memory": "950"}, "wrong", "950 B of 1000 B"),
        ({}, "good", "1 KiB of 1 GiB"),
        ({}, "good", "nothing is evicted"),
    ],
)
def test_memory(info, level, says):
    """Eviction and a full memory lose or stop messages; no bound is a risk."""
    whole = {"maxmemory_policy": "noeviction", "maxmemory": str(2**30), "used_memory": "1024"} | info
    findings = Findings("Redis")
    redis._look_at_memory(findings, "r", whole)
    assert [one.level for one in findings.all if says in one.found] == [level]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"aof_enabled": "1"}, {"good"}),
        ({"aof_enabled": "0"}, {"advice"}),
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, {"wrong", "good"}),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, {"wrong", "advice"}),
    ],
)
def test_persistence(info, expected):
    """None is slow to come back from; one that fails may stop writes."""
    findings = Findings("Redis")
    redis._look_at_persistence(findings, "r", info)
    assert levels(findings.all) == expected


# the report


def test_the_report():
    """Areas, signs, what to change, the count; quiet leaves out what is in order; no control characters."""
    findings = Findings("Kafka")
    findings.good("a", "fine")
    findings.wrong("b", "bad\x1b[0m", "change it")
    text = report(findings.all)
    assert text.splitlines() == [
        "Kafka",
        "  ok      a: fine",
        "  WRONG   b: bad\\x1b[0m",
        "          → change it",
        "",
        "1 wrong, 1 in order.",
    ]
    assert "fine" not in report(findings.all, quiet=True)
    assert report([], quiet=True) == "nothing wrong, 0 in order."
    findings.advice("c", "long " * 40, "very " * 40)
    assert all(_room(line) <= 60 for line in report(findings.all, width=60).splitlines())


# Kafka's answers


def topic(*, leader=1, isr=(1, 2, 3), replicas=(1, 2, 3), partitions=4):
    part = {"leader": leader, "isr": list(isr), "replicas": list(replicas), "error_code": 0}
    return {"error_code": 0, "partitions": [part | {"partition": number} for number in range(partitions)]}


@pytest.mark.parametrize(
    ("there", "level", "says"),
    [
        (topic(), "good", "4 partitions, 3 replicas, all in sync"),
        (topic(leader=-1), "wrong", "partitions [0, 1, 2, 3] have no leader"),
        (topic(isr=(1, 3)), "advice", "4 partitions, 3 replicas; brokers [2] are not in sync"),
        (topic(replicas=(1, 2), isr=(1, 2)), "wrong", "4 partitions, 2 replicas, kafka.replication is 3"),
        (topic(partitions=3), "wrong", "3 partitions, 3 replicas"),
    ],
)
def test_a_topic(there, level, says):
    """inv 1: partitions without a leader stop sends; replicas that are too few, or lag, are a risk."""
    findings = Findings("Kafka")
    kafka._look_at_shape(findings, Kafka(partitions=4, replication=3), "t", there)
    assert [(one.level, one.found) for one in findings.all] == [(level, says)]


async def test_too_few_brokers(monkeypatch):
    """inv 1: with two of three away nothing is acked; each topic that stands still is named."""

    class Admin:
        async def describe_cluster(self):
            return {"brokers": [{"host": "h", "port": 1}]}

    async def describe(admin, names):
        return {name: topic(isr=(1,)) for name in names}

    async def configured(admin, wanted):
        one = {"min.insync.replicas": "2", "max.message.bytes": "1048588", "cleanup.policy": "delete"}
        return dict.fromkeys(wanted, one | {"message.timestamp.type": "LogAppendTime"})

    monkeypatch.setattr(kafka_topics, "describe", describe)
    monkeypatch.setattr(kafka, "_configured", configured)
    findings = Findings("Kafka")
    admin: Any = Admin()
    await kafka._look_at_topics(findings, admin, Kafka(partitions=4, replication=3))
    wrong = [(one.subject, one.found) for one in findings.all if one.level == "wrong"]
    assert ("brokers", "1 at h:1, kafka.replication is 3") in wrong
    assert ("holdfast.inbound", "1 replicas in sync, min.insync.replicas=2") in wrong
