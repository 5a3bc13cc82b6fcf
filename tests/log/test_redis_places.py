"""Redis run with Sentinels and as a Cluster: a failed-over shard is followed, and rebuilt."""

from __future__ import annotations

import asyncio
import binascii
import functools
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis as Client

from deploy.local.servers import Running, Unavailable, free_port, start_redis
from holdfast import records
from holdfast.channel import hash_tags
from holdfast.errors import Retry, Stop
from holdfast.log.port import NEW, Batch, Change, LogRecord, NodeUpdate, Op, Query, Watermark
from holdfast.log.redis import RedisLog
from holdfast.log.redis_place import parse
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from holdfast.log.port import Log

PARTITIONS = 6
QUICK = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
    *("--cluster-replica-validity-factor", "0"),
)


@pytest.mark.parametrize(
    ("url", "hosts", "master", "db"),
    [
        ("redis://h:1/2", (("h", 1),), "", 2),
        ("redis+sentinel://u:p%40@a,b:7/main/3", (("a", 26379), ("b", 7)), "main", 3),
        ("redis+cluster://a:1,b", (("a", 1), ("b", 6379)), "", 0),
    ],
)
def test_urls(url: str, hosts: tuple[tuple[str, int], ...], master: str, db: int) -> None:
    """`redis.url` says how Redis is run."""
    place = parse(url)
    assert (place.hosts, place.master, place.db) == (hosts, master, db)
    assert place.cluster is url.startswith("redis+cluster")
    assert place.password == ("p@" if "p%40" in url else "")


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://a:1", "redis+cluster://a:1/0", "redis+cluster://a:b", "redis+cluster://", "x://a"],
)
def test_wrong_urls(url: str) -> None:
    """inv 11: what cannot be meant is refused by the setting's name."""
    with pytest.raises(Stop, match=r"redis\.url"):
        parse(url)


class Servers:
    """Some Redis servers of one test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.running: list[Running] = []

    def start(self, *options: str) -> Running:
        directory = self._directory / str(len(self.running))
        directory.mkdir()
        try:
            running = start_redis(directory, options=options)
        except Unavailable as error:
            pytest.skip(str(error))
        if not running.ours:
            pytest.skip("HF_LOCAL_REDIS names a server that is not ours to stop")
        self.running.append(running)
        return running

    def sentinel(self, master: Running) -> Running:
        template = self.start()
        command, address, directory = template._command, template.address, self._directory / "sentinel"
        template.stop()
        self.running.remove(template)
        directory.mkdir()
        host, _, port = master.address.rpartition(":")
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main {host} {port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )
        running = Running(
            "sentinel",
            address,
            template._ready,
            command=[command[0], str(config), "--sentinel", "--port", address.rpartition(":")[2]],
            directory=directory,
        )
        running.start()
        running.wait_ready()
        self.running.append(running)
        return running

    def stop(self) -> None:
        for running in self.running:
            running.stop()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.stop()


def client(server: Running) -> Client:
    host, _, port = server.address.rpartition(":")
    return Client(host=host, port=int(port), decode_responses=True)


async def eventually(call: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """Await `call()` until it does not raise Retry, and return something true."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := await call():
                return found
        except Retry:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def own(log: Log, shard: int, channel: str) -> None:
    """Claim a shard and write one message."""
    state = await log.claim(shard, "d", expected=await log.state(shard), generation="")
    assert state.owner == "d"
    await log.begin(shard, "d", generation="g", until=NEW)
    await log.update(shard, NodeUpdate("n", 1, [Change("+r", channel)]))
    record = LogRecord(1, 1, Op.APPEND, channel, body=records.log_entry(1, b'"id":1'))
    applied = await log.apply(shard, Batch("d", Watermark(), Watermark(1, 1, 1), [record], now_ms=1))
    assert applied.placed[0].nodes == ("n",)


@pytest.mark.redis
async def test_sentinel(servers: Servers) -> None:
    """inv 9: when the master dies the log goes on with the replica that Sentinel promotes."""
    master = servers.start()
    host, _, port = master.address.rpartition(":")
    replica = servers.start("--replicaof", f"{host} {port}")
    sentinel = servers.sentinel(master)
    with client(replica) as admin:
        for _ in range(200):
            if admin.info("replication")["master_link_status"] == "up":
                break
            await asyncio.sleep(0.05)
    with client(sentinel) as admin:
        for _ in range(300):
            if admin.execute_command("SENTINEL", "REPLICAS", "main"):
                break
            await asyncio.sleep(0.05)
    log = RedisLog(Redis(url=f"redis+sentinel://{sentinel.address}/main", timeout=1.0), PARTITIONS, {})
    await log.start()
    await own(log, 3, "room:a")
    with client(master) as admin:
        admin.wait(1, 2000)
    await asyncio.to_thread(master.kill)
    with pytest.raises(Retry):
        await log.state(3)
    (view,) = await eventually(lambda: log.read(3, [Query("room:a", 0)]))
    assert view.head == 1
    assert (await log.beat(3, "n")).number == 1
    await log.close()


@pytest.mark.redis
async def test_cluster(servers: Servers) -> None:
    """inv 7, 9: each shard is where its slot is, wherever that moves; other shards notice no failover."""
    links = [str(free_port()) for _ in range(4)]
    *masters, spare = [servers.start(*QUICK, "--cluster-port", link) for link in links]
    await asyncio.to_thread(assemble, masters, spare, links)
    log = RedisLog(Redis(url=f"redis+cluster://{masters[0].address}", timeout=1.0), PARTITIONS, {})
    await log.start()
    for shard in range(PARTITIONS):
        await own(log, shard, f"room:{shard}")
    sizes = []
    for server in masters:
        with client(server) as admin:
            sizes.append(admin.dbsize())
    assert all(sizes)
    with client(masters[2]) as admin:
        admin.wait(1, 2000)
    lost = [shard for shard in range(PARTITIONS) if home(hash_tags(PARTITIONS)[shard]) == 2]
    assert lost
    await asyncio.to_thread(masters[2].kill)
    for shard in range(PARTITIONS):
        if shard not in lost:
            assert (await log.read(shard, [Query(f"room:{shard}", 0)]))[0].head == 1
    for shard in lost:
        query = [Query(f"room:{shard}", 0)]
        (view,) = await eventually(functools.partial(log.read, shard, query))
        assert view.head == 1
        assert (await log.state(shard)).owner == "d"
    other = RedisLog(Redis(url=f"redis+cluster://{masters[1].address}"), PARTITIONS, {})
    await other.start()
    for shard in range(PARTITIONS):
        assert (await other.state(shard)).watermark.offset == 1
    await log.close()
    await other.close()


def home(tag: str) -> int:
    return min(binascii.crc_hqx(tag.encode(), 0) % 16384 * 3 // 16384, 2)


def assemble(masters: list[Running], spare: Running, links: list[str]) -> None:
    """Make one Cluster of three masters, and a replica of the third."""
    bounds = [-(-16384 * number // 3) for number in range(4)]
    for number, server in enumerate(masters):
        with client(server) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    with client(masters[0]) as admin:
        for server, link in zip((*masters[1:], spare), links[1:], strict=True):
            host, _, port = server.address.rpartition(":")
            admin.execute_command("CLUSTER", "MEET", host, port, link)
    with client(masters[2]) as admin:
        third = str(admin.execute_command("CLUSTER", "MYID"))
    end = time.monotonic() + 20
    for server in (*masters, spare):
        with client(server) as admin:
            while "cluster_known_nodes:4" not in raw(admin, "CLUSTER", "INFO"):
                assert time.monotonic() < end
                time.sleep(0.05)
    with client(spare) as admin:
        admin.execute_command("CLUSTER", "REPLICATE", third)
        while admin.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < end
            time.sleep(0.05)
    for server in (*masters, spare):
        with client(server) as admin:
            while "cluster_state:ok" not in raw(admin, "CLUSTER", "INFO"):
                assert time.monotonic() < end
                time.sleep(0.05)


def raw(admin: Client, *command: str) -> str:
    return str(admin.execute_command(*command)).replace("'", "").replace(": ", ":")
