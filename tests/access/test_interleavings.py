"""A search for an order of events in which a subscriber misses, doubles or swaps a message (inv 4, inv 5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.channel import partition_of
from holdfast.nodelink.frames import BREAK, MessageItem, Push
from services.access import fanout
from tests.access.world import PARTITIONS, Client, World

if TYPE_CHECKING:
    from random import Random

ROOM = "room:1"
CLIENTS = 4
SHARD = partition_of(ROOM, PARTITIONS)


class Follower:
    """A client, and what it is to get next, told from its own frames."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.read = 0
        self.next: int | None = None
        self.waits = False

    def check(self) -> None:
        """Look at what came since: each seq once and in order, from where `subscribed` said."""
        frames = self.client.frames[self.read :]
        self.read = len(self.client.frames)
        for frame in frames:
            if frame["t"] == "subscribed":
                self.waits = False
                self.next = frame["seq"] + 1
            elif frame["t"] == "unsubscribed":
                self.next = None
                self.waits = False
            elif frame["t"] == "message":
                assert frame["seq"] == self.next
                self.next = frame["seq"] + 1
            else:
                assert frame["t"] == "connected", frame


class Search:
    """The world, its clients, and what dispatch has pushed or holds back."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.followers: list[Follower] = []
        self.items: list[MessageItem] = []
        self.link: list[Push] = []
        self.lost = False
        self.follows = BREAK

    async def append(self) -> None:
        """Append a message, and put its push on the link, as dispatch does: with the message only where the
        route named the node just then."""  # noqa: D209, D205
        item, routed = await self.world.append_routed(ROOM, "x" * 40)
        self.items.append(item)
        upto = self.world.offsets[SHARD] - 1
        self.link.append(Push(SHARD, f"g{SHARD}", self.follows, upto, [item] if routed else []))
        self.follows = upto

    def deliver(self) -> None:
        """Let the link bring what is on it."""
        for push in self.link:
            self.world.node.links.push(None, push)
        self.link.clear()

    def one(self, *, subscribed: bool) -> Follower | None:
        free = [one for one in self.followers if not one.waits and (one.next is not None) == subscribed]
        return self.random.choice(free) if free else None

    async def step(self, step: str) -> None:
        world, random = self.world, self.random
        if step in ("push", "late"):
            await self.append()
            if step == "push":
                self.deliver()
        elif step == "lose":
            await self.append()
            self.link.pop()
            self.lost = True
        elif step == "again" and self.items:
            again = Push(SHARD, f"g{SHARD}", -1, 0, [random.choice(self.items)])
            world.node.links.push(None, again)
        elif step in ("join", "resume"):
            if follower := self.one(subscribed=False):
                since = {}
                if step == "resume" and self.items:
                    item = random.choice(self.items)
                    since = {"since": {"epoch": item.epoch, "seq": item.seq}}
                follower.waits = True
                follower.client.send(t="subscribe", id=1, channel=ROOM, **since)
        elif step == "leave":
            if follower := self.one(subscribed=True):
                follower.waits = True
                follower.client.send(t="unsubscribe", id=2, channel=ROOM)
        elif step == "slow":
            random.choice(self.followers).client.stop_reading()
        elif step == "fast":
            for follower in self.followers:
                follower.client.read_again()
        elif step == "hold reads":
            world.log.hold_reads = world.log.hold_reads or asyncio.Event()
        elif step == "hold writes":
            world.log.gate = world.log.gate or asyncio.Event()
        elif step == "free":
            self.free()
        elif step == "break":
            self.lost = self.lost or bool(self.link)
            self.link.clear()
            self.follows = BREAK
        for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
            await asyncio.sleep(0)
        for follower in self.followers:
            follower.check()

    def free(self) -> None:
        log = self.world.log
        for gate in (log.hold_reads, log.gate):
            if gate is not None:
                gate.set()
        log.hold_reads = log.gate = None

    async def end(self) -> None:
        """Let everything that is late happen: then all have all, at once where no push was lost."""
        self.free()
        for follower in self.followers:
            follower.client.read_again()
        if self.lost:
            self.follows = BREAK
            await self.append()
        self.deliver()
        await self.world.clock.advance(1.1)
        for follower in self.followers:
            follower.check()
            assert not follower.waits
            if follower.next is not None:
                assert follower.next == len(self.items) + 1


STEPS = [
    *(["push"] * 4),
    *("late", "late", "lose", "again", "join", "join", "resume", "leave", "slow", "fast"),
    *("hold reads", "hold writes", "free", "free", "break"),
]


@given(
    st.lists(st.sampled_from(STEPS), min_size=10, max_size=80),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_nothing_is_missed_doubled_or_swapped(todo: list[str], random: Any) -> None:
    """inv 4, inv 5: pushes lost, late and repeated, reads and routes held up, subscribers who come with and
    without a position, stop reading and leave: each gets each seq after its start once, in order."""  # noqa: D209, D205
    with (
        mock.patch.object(fanout, "SMALL", 0),
        mock.patch.object(fanout, "LOOK", 1),
        mock.patch.object(fanout, "MAX_PENDING", 600),
    ):
        asyncio.run(search(todo, random))


async def search(todo: list[str], random: Random) -> None:
    async with World(settle=12, buffer=500, sends_a_slice=1, burst=10_000, rate=10_000) as world:
        found = Search(world, random)
        for number in range(CLIENTS):
            found.followers.append(Follower(await world.join(f"u{number}")))
        for step in todo:
            await found.step(step)
        await found.end()
