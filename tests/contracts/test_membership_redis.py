"""What an observer makes of a Redis that has lost writes, whoever comes back to it first."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis as Client

from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.membership.port import Node
from holdfast.membership.redis import RedisDirectory
from holdfast.observe.metrics import Metrics
from holdfast.settings import Membership, Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deploy.local.servers import Running

pytestmark = pytest.mark.redis

TTL = 1.0
NAMES = ("a", "b", "c", "d")


class Room:
    """Four nodes that look when they are told to, by a clock that stands still meanwhile."""

    def __init__(self, address: str, prefix: str) -> None:
        self.clock = ManualClock()
        self.client = Client.from_url(f"redis://{address}")
        self.key = f"{prefix}:nodes"
        settings = Redis(url=f"redis://{address}", prefix=prefix, timeout=5.0)
        self.nodes = {
            name: RedisDirectory(settings, Membership(ttl=TTL), Metrics(), self.clock) for name in NAMES
        }

    async def start(self) -> None:
        for name, directory in self.nodes.items():
            await directory.start()
            assert directory._task is not None
            directory._task.cancel()
            await directory.join(Node(name, f"{name}-1", "access", "127.0.0.1:1"))
        await self.look()

    async def look(self, names: Any = NAMES) -> None:
        for name in names:
            await self.nodes[name]._look()

    def seen(self, by: str) -> list[str]:
        return [node.name for node in self.nodes[by].nodes("access")]

    async def pass_by(self, seconds: float) -> None:
        await self.clock.advance(seconds)


@pytest.fixture
async def room(redis_server: Running, unique_prefix: str) -> AsyncIterator[Room]:
    made = Room(redis_server.address, unique_prefix)
    await made.start()
    yield made
    for directory in made.nodes.values():
        await directory.close()
    await made.client.aclose()


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
async def test_amnesia_ends_nobody(room: Room, order: tuple[str, ...]) -> None:
    """inv 6, 9: in whatever order nodes come back to an empty Redis, none is missing to anybody meanwhile."""
    await room.client.delete(room.key)
    for name in order:
        await room.look(name)
        assert [room.seen(by) for by in NAMES] == [list(NAMES)] * 4
    # Who does not come back within a ttl is gone.
    await room.pass_by(TTL / 2)
    await room.look("abc")
    assert room.seen("a") == list(NAMES)
    await room.pass_by(TTL)
    await room.look("abcabc")
    assert room.seen("a") == ["a", "b", "c"]


async def test_lost_writes_end_nobody(room: Room) -> None:
    """inv 6, 9: a Redis that comes back as it was before some joined ends nobody, and nobody's beat."""
    before: dict[Any, Any] = await room.client.hgetall(room.key)
    await room.look()
    del before[b"b-1"], before[b"c-1"]
    await room.client.delete(room.key)
    await room.client.hset(room.key, mapping=before)
    await room.look("a")
    assert room.seen("a") == list(NAMES)
    await room.look("bcd")
    assert [room.seen(by) for by in NAMES] == [list(NAMES)] * 4


async def test_who_leaves_is_gone_at_once(room: Room) -> None:
    """A missing entry is a leave where nothing else was lost."""
    await room.nodes["b"].leave()
    await room.look("acd")
    assert room.seen("a") == ["a", "c", "d"]


async def test_an_outage_gives_a_whole_ttl(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 6: what somebody was silent for before an outage does not count after it."""
    await room.look("a")
    await room.pass_by(0.9 * TTL)
    await room.look("a")
    assert room.seen("a") == list(NAMES)

    async def away(_: str, call: Any) -> Any:
        call.close()
        raise Retry("away")

    with monkeypatch.context() as patch:
        patch.setattr(room.nodes["a"], "_call", away)
        with pytest.raises(Retry):
            await room.look("a")
    await room.pass_by(10 * TTL)
    await room.look("a")
    await room.pass_by(0.5 * TTL)
    await room.look("a")
    assert room.seen("a") == list(NAMES)
    await room.pass_by(0.6 * TTL)
    await room.look("a")
    assert room.seen("a") == ["a"]
