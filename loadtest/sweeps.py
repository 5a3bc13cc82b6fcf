"""The sweeps: what a connection and a message cost at each size of one thing, all else the same.

Each is an async generator of (size, cost by name), on a cluster or a Redis of its own, smallest first. CPU is
utime + stime. A point that does not come through (`Broken`) ends its sweep: what is larger would not, either.
"""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING, Any

import aiohttp
from redis import Redis as Client

from deploy.local.cluster import LocalCluster
from deploy.local.servers import start_redis
from holdfast.log.port import Change, NodeUpdate, SessionInfo
from holdfast.log.redis import RedisLog
from holdfast.policy import DEFAULT_POLICIES
from holdfast.settings import Redis
from loadtest.generators import Generators, Members
from loadtest.log_bench import Bench
from loadtest.plane import Plane, Room
from loadtest.scenario import Crowd
from loadtest.target import SETTINGS, Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    Point = tuple[int, dict[str, float]]
    Sweep = Callable[[list[int], Path], AsyncIterator[Point]]

PER_NODE = 15_000
"""Connections of one access process: it has 20,000 descriptors here."""

BYTES = 128
TAKES = 3
SERVICES = ("access", "logic", "dispatch")


class Broken(Exception):  # noqa: N818
    """A point did not come through: connections failed, or messages were lost."""


async def connections(points: list[int], folder: Path) -> AsyncIterator[Point]:
    """Accept so many over several processes, then let them write: 1,000 messages a second in all."""
    most = -(-max(points) // PER_NODE)
    with LocalCluster(folder / "cluster", access=most, logic=1, dispatch=1, settings=SETTINGS) as cluster:
        redis = Client.from_url(f"redis://{cluster.redis.address}/0")
        for count in points:
            used = [f"access-{number}" for number in range(-(-count // PER_NODE))]
            for name in used:  # memory that an earlier crowd has left would hide what this one takes
                cluster.restart(name)
            target = Target.of_cluster(cluster.dir)
            target.websockets = target.websockets[: len(used)]
            target.settle()
            memory, held = target.memory()["access"], redis.info("memory")["used_memory"]
            before = target.cpu()
            crowd = Generators(folder, target, [Members(Crowd("pairs", count, "peer"), f"c{count}")])
            try:
                await _open(crowd)
                await crowd.count("run 2")  # what follows a connect belongs to it
                after = target.cpu()
                point = {f"accept {role}": (after[role] - before[role]) / count * 1e6 for role in before}
                point["accept ours"] = sum(point[f"accept {role}"] for role in SERVICES)
                point["KiB"] = (target.memory()["access"] - memory) / count / 1024
                point["redis bytes"] = (redis.info("memory")["used_memory"] - held) / count
                yield count, point | await _messages(target, crowd, rate=1000)
            finally:
                crowd.close()
            target.settle()
        redis.close()


async def _open(crowd: Generators) -> None:
    if (opened := await crowd.open())["failed"]:
        raise Broken(f"{opened['failed']:.0f} connections failed")


async def _messages(
    target: Target, crowd: Generators, *, rate: float, seconds: float = 4.0
) -> dict[str, float]:
    """Return µs of each process for a message from client to client, and how long it took in ms."""
    await crowd.load("", rate, BYTES)
    await crowd.count("run 2")
    await crowd.each("reset")
    takes = []
    for _ in range(TAKES):
        before = target.cpu()
        await crowd.count(f"run {seconds}")
        takes.append({role: spent - before[role] for role, spent in target.cpu().items()})
    times = crowd.times("message").summary()
    await crowd.load("", 0.0, 0)
    counts = await crowd.count("run 1")
    while counts["messages"] < (counts := await crowd.count("run 1"))["messages"]:
        pass
    if wrong := [what for what in ("gaps", "doubles", "errors", "failed") if counts[what]]:
        raise Broken(", ".join(f"{counts[what]:.0f} {what}" for what in wrong))
    sent = rate * seconds
    found = {f"message {role}": statistics.median(t[role] for t in takes) / sent * 1e6 for role in takes[0]}
    found["message ours"] = statistics.median(sum(t[role] for role in SERVICES) for t in takes) / sent * 1e6
    return found | {"p50": times["p50"], "p99": times["p99"]}


TWENTY = 100_000
"""Channels up to which 20 messages each are appended, too."""

HUNDRED = 100


async def channels(points: list[int], folder: Path) -> AsyncIterator[Point]:
    """Append to so many inboxes in one shard of Redis, 100 records a call: µs a record, bytes a channel."""
    with start_redis(folder / "redis") as server:
        host, _, port = server.address.rpartition(":")
        client = Client(host=host, port=int(port))
        for count in points:
            client.flushall()
            log = RedisLog(Redis(url=f"redis://{server.address}/0"), 12, DEFAULT_POLICIES)
            bench = Bench(log, client, count)
            await log.start()
            await bench.claim()
            point: dict[str, float] = {}
            held = client.info("memory")["used_memory"]
            for name, messages in (("first", 1), ("later", 19))[: 2 if count <= TWENTY else 1]:
                ours, redis = bench.cpu()
                calls = count // HUNDRED * messages
                for _ in range(calls):
                    await bench.apply([bench.batch(HUNDRED)])
                now = bench.cpu()
                point |= {
                    f"{name} ours": (now[0] - ours) / calls / HUNDRED * 1e6,
                    f"{name} redis": (now[1] - redis) / calls / HUNDRED * 1e6,
                    "bytes 1" if name == "first" else "bytes 20": (
                        client.info("memory")["used_memory"] - held
                    )
                    / count,
                }
            await log.close()
            yield count, point
        client.close()


async def room(points: list[int], folder: Path) -> AsyncIterator[Point]:
    """Publish to a room of so many, one message at a time: CPU of access for a delivery, in µs."""
    with LocalCluster(folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS) as cluster:
        plane = Plane(folder, cluster, max(points))
        async with aiohttp.ClientSession() as http:
            for size in points:
                crowd = await asyncio.to_thread(Room, plane, size, size)
                await asyncio.to_thread(plane.target.settle)
                rounds = min(200, max(5, 40_000 // size))
                await crowd.publish(http, together=1, rounds=3)
                takes = [await crowd.publish(http, together=1, rounds=rounds) for _ in range(5)]
                crowd.close()
                yield size, {"delivery": statistics.median(takes) * 1e6}
                await asyncio.to_thread(plane.target.settle)


async def _idle(target: Target, seconds: float = 4.0) -> dict[str, float]:
    """Return what each role spends on nothing but being there, in ms of CPU a second."""
    takes = []
    for _ in range(TAKES):
        before = target.cpu()
        await asyncio.sleep(seconds)
        takes.append({role: spent - before[role] for role, spent in target.cpu().items()})
    return {f"idle {role}": statistics.median(t[role] for t in takes) / seconds * 1e3 for role in takes[0]}


async def _chat(
    folder: Path, settings: dict[str, Any], *, access: int = 1, rate: float = 2000
) -> dict[str, float]:
    """Let 2,000 clients write to each other in a cluster of its own."""
    with LocalCluster(
        folder / "cluster", access=access, logic=1, dispatch=1, settings=SETTINGS | settings
    ) as cluster:
        target = Target.of_cluster(cluster.dir)
        begun = {"MiB access": target.memory()["access"] / access / 1024**2}
        crowd = Generators(folder, target, [Members(Crowd("pairs", 2000, "peer"), "s")])
        try:
            await _open(crowd)
            await asyncio.to_thread(target.settle, 8.0)
            idle = await _idle(target)
            return begun | idle | await _messages(target, crowd, rate=rate)
        finally:
            crowd.close()


async def partitions(points: list[int], folder: Path) -> AsyncIterator[Point]:
    """2,000 messages a second over so many partitions."""
    for count in points:
        yield count, await _chat(folder / str(count), {"kafka.partitions": count})


async def nodes(points: list[int], folder: Path) -> AsyncIterator[Point]:
    """2,000 messages a second between clients of so many access nodes."""
    for count in points:
        point = await _chat(folder / str(count), {}, access=count)
        yield count, point | {"idle node": point["idle access"] / count}


async def beats(points: list[int], folder: Path) -> AsyncIterator[Point]:
    """Let so many nodes, of 100 sessions each, beat to one shard of Redis: µs a beat."""
    with start_redis(folder / "redis") as server:
        host, _, port = server.address.rpartition(":")
        client = Client(host=host, port=int(port))
        for count in points:
            client.flushall()
            log = RedisLog(Redis(url=f"redis://{server.address}/0"), 12, DEFAULT_POLICIES)
            bench = Bench(log, client, HUNDRED)
            await log.start()
            await bench.claim()
            for node in range(count):
                changes = []
                for user in range(HUNDRED):
                    info = SessionInfo(f"s{node}.{user}", f"node-{node}", "web", bench.now, "client")
                    changes += [
                        Change("+r", f"user:u{node}.{user}"),
                        Change("+s", f"u{node}.{user}", info),
                    ]
                await log.update(0, NodeUpdate(f"node-{node}", 1, changes))
            rounds = max(1, 20_000 // count)
            ours, redis = bench.cpu()
            for _ in range(rounds):
                await asyncio.gather(*(log.beat(0, f"node-{node}") for node in range(count)))
            now = bench.cpu()
            await log.close()
            yield (
                count,
                {
                    "ours": (now[0] - ours) / rounds / count * 1e6,
                    "redis": (now[1] - redis) / rounds / count * 1e6,
                },
            )
        client.close()


SWEEPS: dict[str, tuple[Sweep, list[int]]] = {
    "room": (room, [10, 100, 1000, 3000, 10_000]),
    "channels": (channels, [1000, 10_000, 100_000, 1_000_000]),
    "connections": (connections, [1000, 5000, 15_000, 30_000, 60_000]),
    "partitions": (partitions, [1, 4, 12, 32, 64]),
    "nodes": (nodes, [1, 2, 4, 8]),
    "beats": (beats, [1, 10, 100, 1000]),
}
"""In the order in which they matter: the function, and its points."""
