"""A real Redis that fails over to a replica that lags, is emptied, or is full: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from holdfast.channel import hash_tags
from tests.log.servers import client, cut_off, home, start_cluster, start_sentinel
from tests.rebuild.real import CHANNELS, P, until

if TYPE_CHECKING:
    from tests.log.servers import Servers
    from tests.rebuild.conftest import Making

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


async def test_sentinel_promotes_a_replica_that_lags(servers: Servers, making: Making) -> None:
    """inv 3, 4, 9: what the promoted replica never got is applied again, at its old place."""
    master, replica, sentinel = await asyncio.to_thread(start_sentinel, servers)
    real = await making(f"redis+sentinel://{sentinel.address}/main")
    await real.write(20)
    await real.settled()
    with client(master) as admin:
        admin.wait(1, 2000)
    await asyncio.to_thread(cut_off, replica, master)
    await real.write(20)
    before = await real.settled()
    writing = asyncio.create_task(real.write(60))
    await asyncio.to_thread(master.kill)
    await asyncio.to_thread(replica.resume)
    await writing
    after = await real.settled(60)
    assert real.process.count("rewinds_total") >= P
    assert real.process.count("rebuilds_total", why="empty") == P  # those of the start
    for channel in CHANNELS:
        assert after[channel].epoch == before[channel].epoch
        assert after[channel].entries[: before[channel].head] == before[channel].entries
    real.check_pushes()


async def test_a_shard_of_a_cluster_fails_over_to_a_replica_that_lags(
    servers: Servers, making: Making
) -> None:
    """inv 3, 4, 7, 9: its channels are as they were, and the shards of other servers notice nothing."""
    masters, spare = await asyncio.to_thread(start_cluster, servers)
    real = await making(f"redis+cluster://{masters[0].address}")
    await real.write(20)
    await real.settled()
    with client(masters[2]) as admin:
        admin.wait(1, 2000)
    await asyncio.to_thread(cut_off, spare, masters[2])
    await real.write(20)
    before = await real.settled()
    writing = asyncio.create_task(real.write(60))
    await asyncio.to_thread(masters[2].kill)
    await asyncio.to_thread(spare.resume)
    await writing
    after = await real.settled(60)
    moved = [tag for tag in hash_tags(P) if home(tag) == 2]
    assert len(moved) <= real.process.count("rewinds_total") < P
    for channel in CHANNELS:
        assert after[channel].epoch == before[channel].epoch
        assert after[channel].entries[: before[channel].head] == before[channel].entries
    real.check_pushes()


async def test_flushed_under_traffic(servers: Servers, making: Making) -> None:
    """inv 3, 4, 9: after FLUSHALL every message is where it was, once, and nothing old is pushed as new."""
    redis = servers.start()
    real = await making(f"redis://{redis.address}")
    await real.write(30)
    before = await real.settled()
    writing = asyncio.create_task(real.write(60))
    with client(redis) as admin:
        admin.flushall()
    await writing
    after = await real.settled()
    assert real.process.count("rebuilds_total", why="empty") == 2 * P
    assert real.process.count("unjoined_total") == 0
    assert {after[channel].epoch for channel in CHANNELS} == {before[channel].epoch for channel in CHANNELS}
    real.check_pushes()


async def test_full_under_traffic(servers: Servers, making: Making) -> None:
    """inv 7, 9: a full Redis refuses whole batches, which is counted; with memory again all goes on."""
    redis = servers.start()
    real = await making(f"redis://{redis.address}")
    await real.write(10)
    before = await real.settled()
    with client(redis) as admin:
        admin.config_set("maxmemory", "1mb")
        await real.write(30)  # Kafka takes them all the same

        async def refused() -> bool:
            return real.process.count("apply_retries_total") >= 2 * P

        await until(refused, 30)
        assert await real.heads() == {10}
        failed = real.process.metrics.log_call_failed.labels("apply")._value.get()
        assert failed >= 2 * P
        admin.config_set("maxmemory", 0)
    after = await real.settled()
    assert real.process.count("rewinds_total") == 0
    assert real.process.count("rebuilds_total", why="empty") == P
    assert {view.epoch for view in after.values()} == {view.epoch for view in before.values()}
    real.check_pushes()
