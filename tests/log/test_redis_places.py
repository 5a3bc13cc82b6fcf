"""Redis run with Sentinels and as a Cluster: a failed-over shard is followed, and rebuilt."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import records
from holdfast.channel import hash_tags
from holdfast.errors import Retry, Stop
from holdfast.log.port import NEW, Batch, Change, LogRecord, NodeUpdate, Op, Query, Watermark
from holdfast.log.redis import RedisLog
from holdfast.log.redis_place import parse
from holdfast.settings import Redis
from tests.log.servers import Servers, client, home, start_cluster, start_sentinel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from holdfast.log.port import Log

PARTITIONS = 6


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


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.stop()


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
    master, _, sentinel = await asyncio.to_thread(start_sentinel, servers)
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
    masters, _ = await asyncio.to_thread(start_cluster, servers)
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
