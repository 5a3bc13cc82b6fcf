"""Real processes, a real Kafka, and a Redis under traffic that is killed, flushed, or full."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from holdfast.client import Closed
from tests.rebuild.people import ROOM, Reader, eventually

if TYPE_CHECKING:
    from deploy.local.cluster import LocalCluster
    from tests.rebuild.people import People

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.consul]

SENDERS = 4
READERS = 4


async def hurt(cluster: LocalCluster, fault: str) -> None:
    """Do to Redis what `fault` says, and undo what can be undone."""
    dump = cluster.dir / "redis" / "dump.rdb"
    host, _, port = cluster.redis.address.rpartition(":")
    with Redis(host=host, port=int(port)) as admin:
        if fault == "flushed":
            admin.flushall()
            return
        if fault == "full":
            admin.config_set("maxmemory", "1mb")
            await asyncio.sleep(3.0)
            admin.config_set("maxmemory", 0)
            return
        dump.unlink(missing_ok=True)
        if fault == "killed, its last second lost":
            admin.save()
            await asyncio.sleep(1.0)
    await asyncio.to_thread(cluster.redis.kill)
    assert dump.exists() is (fault != "killed")
    await asyncio.sleep(0.5)
    await asyncio.to_thread(cluster.redis.start)
    await asyncio.to_thread(cluster.redis.wait_ready)


@pytest.mark.parametrize("fault", ["killed", "killed, its last second lost", "flushed", "full"])
async def test_redis_hurt_under_traffic(cluster: LocalCluster, people: People, fault: str) -> None:
    """inv 1, 3, 4, 9: no acked message is lost, doubled or moved; members and revocations stay."""
    assert (await people.api("PUT", "/v1/groups/g/members/ann"))[0] == 200
    eve = await people.token("eve")
    assert (await people.api("POST", "/v1/tokens/revoke", {"user": "eve"}))[0] == 200
    senders = [await people.join(f"s{number}", number % 2) for number in range(SENDERS)]
    clients = [await people.join(f"r{number}", number % 2) for number in range(READERS)]
    readers = [Reader(client) for client in clients]
    for client in clients:
        await client.subscribe(ROOM)
    acked: list[list[tuple[int, int]]] = [[] for _ in senders]
    running = True

    async def traffic(number: int) -> None:
        count = 0
        while running:
            await senders[number].send(ROOM, "n", [number, count])
            acked[number].append((number, count))
            count += 1
            await asyncio.sleep(0.01)

    tasks = [asyncio.ensure_future(traffic(number)) for number in range(SENDERS)]
    await asyncio.sleep(1.0)
    await hurt(cluster, fault)
    seen = [len(reader.shown) for reader in readers]
    await eventually(lambda: all(len(r.shown) > n + 50 for r, n in zip(readers, seen, strict=True)), 20)
    await asyncio.sleep(1.0)
    running = False
    await asyncio.gather(*tasks)
    sent = {each for sender in acked for each in sender}

    def lacking() -> list[str]:
        return [
            f"reader {number} lacks {len(sent - set(reader.shown))} of {len(sent)}, the first of them "
            f"{min(sent - set(reader.shown))}; resets {reader.resets}"
            for number, reader in enumerate(readers)
            if not sent <= set(reader.shown)
        ]

    await eventually(lambda: not lacking(), 20, lacking)
    await asyncio.sleep(0.5)
    for reader in readers:
        for number in range(SENDERS):
            assert [data for data in reader.shown if data[0] == number] == acked[number]
        assert reader.resets == []
    with pytest.raises(Closed, match="unauthorized"):
        await people.join("eve", 0, eve)
    assert (await people.api("GET", "/v1/groups/g/members"))[1]["members"] == ["ann"]
