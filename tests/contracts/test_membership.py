"""What every membership adapter does: one suite for memory, Redis and Consul."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from deploy.local.servers import free_port, start_consul, start_redis
from holdfast.clock import SystemClock
from holdfast.errors import Retry
from holdfast.membership.consul import ConsulDirectory
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.membership.port import Node
from holdfast.membership.redis import RedisDirectory
from holdfast.observe.metrics import Metrics
from holdfast.settings import Consul, Membership, Redis
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from deploy.local.servers import Running
    from holdfast.membership.port import Directory, Role

TTL = 1.0


class Store:
    """One membership store, and directories on it."""

    def __init__(self, kind: str, address: str, prefix: str) -> None:
        self.kind = kind
        self._address = address
        self._prefix = prefix
        self._registry = MemoryRegistry()
        self.opened: list[Directory] = []

    def make(self) -> Any:
        membership = Membership(ttl=TTL)
        made: Any
        if self.kind == "consul":
            settings = Consul(address=self._address, service=self._prefix)
            made = ConsulDirectory(settings, membership, Metrics(), SystemClock())
        elif self.kind == "redis":
            redis = Redis(url=f"redis://{self._address}", prefix=self._prefix, timeout=1.0)
            made = RedisDirectory(redis, membership, Metrics(), SystemClock())
        else:
            made = MemoryDirectory(self._registry)
        self.opened.append(made)
        return made

    async def open(self, node: Node | None = None) -> Any:
        directory = self.make()
        await directory.start()
        if node is not None:
            await directory.join(node)
        return directory

    async def close(self) -> None:
        for directory in self.opened:
            await directory.close()


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("consul", marks=pytest.mark.consul),
    ]
)
async def store(request: pytest.FixtureRequest, unique_prefix: str) -> AsyncIterator[Store]:
    kind = request.param
    address = "" if kind == "memory" else request.getfixturevalue(f"{kind}_server").address
    made = Store(kind, address, unique_prefix)
    yield made
    await made.close()


def access(name: str, **more: Any) -> Node:
    return Node(name, f"{name}-1", "access", f"127.0.0.1:{len(name) + 8700}", **more)


async def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def names(directory: Directory, role: Role = "access") -> list[str]:
    return [node.name for node in directory.nodes(role)]


async def test_whole_nodes_by_role(store: Store) -> None:
    """Everything that a node says of itself reaches the others, listed by role and sorted by name."""
    full = access(
        "b", endpoints={"websocket": "ws://h/ws", "tcp": "h:1"}, metrics="h:9", region="eu", weight=7
    )
    await store.open(full)
    await store.open(access("a"))
    await store.open(Node("l", "l-1", "logic"))
    seen = await store.open()
    await until(lambda: names(seen) == ["a", "b"])
    assert seen.nodes("access")[1] == full
    await until(lambda: [node.incarnation for node in seen.nodes("logic")] == ["l-1"])
    assert seen.nodes("dispatch") == []


async def test_own_node_is_seen(store: Store) -> None:
    """A node sees itself, as everybody does."""
    directory = await store.open(access("a"))
    await until(lambda: names(directory) == ["a"])


async def test_leave_is_seen_at_once(store: Store) -> None:
    """Who leaves is gone without waiting for a ttl of silence."""
    leaving = await store.open(access("a"))
    seen = await store.open(access("b"))
    await until(lambda: names(seen) == ["a", "b"])
    await leaving.leave()
    await until(lambda: names(seen) == ["b"], TTL)


async def test_joining_again_updates(store: Store) -> None:
    """inv 10: a node that drains says so by joining again; a new incarnation takes the place of the old."""
    directory = await store.open(access("a"))
    seen = await store.open()
    await directory.join(access("a", draining=True))
    await until(lambda: [node.draining for node in seen.nodes("access")] == [True])
    await directory.join(msgspec.structs.replace(access("a"), incarnation="a-2"))
    await until(lambda: [node.incarnation for node in seen.nodes("access")] == ["a-2"])


async def test_watch(store: Store) -> None:
    """Watchers are called when the membership has changed, and no more once they ended it."""
    seen = await store.open()
    calls: list[list[str]] = []
    ended: list[int] = []

    def fails() -> None:
        raise ValueError("a bad watcher")

    seen.watch(fails)
    seen.watch(lambda: calls.append(names(seen)))
    end = seen.watch(lambda: ended.append(1))
    first = await store.open(access("a"))
    await until(lambda: ["a"] in calls)
    end()
    before = len(ended)
    await first.leave()
    await until(lambda: calls[-1] == [])
    assert len(ended) == before >= 1


async def test_death_without_leaving(store: Store) -> None:
    """Who dies is gone after about a ttl, and nobody else is."""
    if store.kind == "memory":
        pytest.skip("in memory nobody dies unseen")
    dying = await store.open(access("a"))
    seen = await store.open(access("b"))
    await until(lambda: names(seen) == ["a", "b"])
    dying._node = None  # nothing left to deregister
    await dying.close()
    began = time.monotonic()
    await until(lambda: names(seen) == ["b"], 4 * TTL)
    assert time.monotonic() - began > TTL / 4
    await asyncio.sleep(TTL)
    assert names(seen) == ["b"]


async def test_stays_registered(store: Store) -> None:
    """A living node is there for much longer than a ttl."""
    await store.open(access("a"))
    seen = await store.open()
    await until(lambda: names(seen) == ["a"])
    gone: list[int] = []
    seen.watch(lambda: gone.append(1))
    await asyncio.sleep(2.5 * TTL)
    assert names(seen) == ["a"]
    assert gone == []


async def test_healthy(store: Store) -> None:
    """A store that answers is healthy."""
    assert await (await store.open()).healthy()


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("consul", marks=pytest.mark.consul),
    ]
)
async def own_store(
    request: pytest.FixtureRequest, tmp_path: Path, unique_prefix: str
) -> AsyncIterator[tuple[Store, Running]]:
    """A store of this test alone, which it may end."""
    request.getfixturevalue(f"{request.param}_server")  # skips where there is none
    start = start_consul if request.param == "consul" else start_redis
    with available():
        server = await asyncio.to_thread(start, tmp_path, free_port())
    if not server.ours:
        pytest.skip("the server is somebody else's")
    store = Store(request.param, server.address, unique_prefix)
    yield store, server
    with contextlib.suppress(Retry):
        await store.close()
    await asyncio.to_thread(server.stop)


async def test_outage_and_amnesia(own_store: tuple[Store, Running]) -> None:
    """inv 6: while the store is away, and when it comes back empty, the last known membership holds."""
    store, server = own_store
    seen = await store.open(access("a"))
    other = await store.open(access("b"))
    third = await store.open(access("c"))
    await until(lambda: names(seen) == names(other) == ["a", "b", "c"])
    shrunk: list[list[str]] = []
    seen.watch(lambda: shrunk.append(names(seen)))
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(1.5 * TTL)
    assert not await seen.healthy()
    assert names(seen) == ["a", "b", "c"]
    # A node that changes while the store is away is seen when it is back.
    await third.join(access("c", draining=True))
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.wait_ready)
    await until(lambda: [node.draining for node in seen.nodes("access")] == [False, False, True])
    await asyncio.sleep(2 * TTL)
    assert names(seen) == ["a", "b", "c"]
    assert all(len(state) == 3 for state in shrunk)
    late = await store.open()
    await until(lambda: names(late) == ["a", "b", "c"])
    # And who does not come back after that is gone.
    other._node = None
    await other.close()
    await until(lambda: names(seen) == ["a", "c"], 5 * TTL)


async def test_start_without_the_store(own_store: tuple[Store, Running]) -> None:
    """A store that is away at the start is a Retry; the same directory starts once it is there."""
    store, server = own_store
    await asyncio.to_thread(server.stop)
    directory = store.make()
    with pytest.raises(Retry):
        await directory.start()
    assert not await directory.healthy()
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.wait_ready)
    await directory.start()
    await directory.join(access("a"))
    await until(lambda: names(directory) == ["a"])
