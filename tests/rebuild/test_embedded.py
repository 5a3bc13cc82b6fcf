"""A whole cluster whose store forgets under traffic: what its clients see."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import records
from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.log.port import Query
from holdfast.policy import Policy
from holdfast.settings import Settings
from holdfast.testing import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.testing import Peer

PARTITIONS = 4
ROOM = "room:r"
SHARD = partition_of(ROOM, PARTITIONS)


class Feed:
    """What one client was shown of the room. A reset says that the client is to look by itself."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.shown: list[int] = []

    def take(self) -> list[int]:
        while self.peer.inbox:
            message = self.peer.inbox.popleft()
            if message.channel == ROOM:
                self.shown.append(message.data)
        return self.shown


async def room_of(cluster: Cluster) -> list[int]:
    """Return the log's own account of the room."""
    log = cluster.embedded.parts().log
    for _ in range(100):
        try:
            (view,) = await log.read(SHARD, [Query(ROOM, 0, limit=10_000)])
        except Retry:
            await cluster.advance(0.1)
        else:
            return [records.entry_members(entry)["data"] for _, entry in view.entries]
    raise AssertionError("the room cannot be read")


def flush(cluster: Cluster) -> None:
    cluster.embedded.store.flush()


def damage(cluster: Cluster) -> None:
    for shard in range(PARTITIONS):
        cluster.embedded.store.damage(shard)


class Suffix:
    """Puts shards back to what they were a moment ago."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def keep(self, cluster: Cluster) -> None:
        self.kept = {shard: cluster.embedded.store.snapshot(shard) for shard in range(PARTITIONS)}

    def __call__(self, cluster: Cluster) -> None:
        for shard, snapshot in self.kept.items():
            cluster.embedded.store.restore(shard, snapshot)


@pytest.mark.parametrize("lose", [flush, damage, Suffix()], ids=["flush", "damage", "suffix"])
async def test_a_store_that_forgets_under_traffic(lose: Callable[[Cluster], None]) -> None:
    """inv 3, 4, 9: every acked message is in the log once, and is shown once; there is no reset either."""
    async with Cluster(access=2, dispatch=2, partitions=PARTITIONS) as cluster:
        alice = await cluster.connect("alice", node=0)
        feeds = [Feed(await cluster.connect(f"u{number}", node=number % 2)) for number in range(4)]
        for feed in feeds:
            await feed.peer.subscribe(ROOM)
        number = 0
        for turn in range(6):
            for _ in range(20):
                await alice.send(ROOM, "n", number)
                number += 1
            if turn == 2 and isinstance(lose, Suffix):
                lose.keep(cluster)
            if turn == 3:
                lose(cluster)
            await cluster.advance(0.3)
        await cluster.advance(6)
        assert await room_of(cluster) == list(range(number))
        for feed in feeds:
            assert feed.take() == list(range(number))
            assert feed.peer.resets == []


async def test_who_comes_while_the_shard_is_rebuilt_waits() -> None:
    """inv 4, 9: new subscribes wait for the rebuild; past their deadline they are told to come again."""
    async with Cluster(partitions=PARTITIONS) as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        for number in range(3):
            await alice.send(ROOM, "n", number)
        await cluster.advance(1)
        (dispatcher,) = cluster.embedded.dispatch
        real = dispatcher._partitions[SHARD]._shards.begin
        held = asyncio.Event()

        async def begin(shard: int, *args: Any, **more: Any) -> Any:
            if shard == SHARD:
                await held.wait()
            return await real(shard, *args, **more)

        dispatcher._partitions[SHARD]._shards.begin = begin
        flush(cluster)
        subscribing = asyncio.ensure_future(bob.client.subscribe(ROOM))
        await cluster.advance(cluster.settings.redis.timeout + 1)
        refused = cluster.embedded.access[0].metrics.access_errors.labels("unavailable")._value.get()
        assert (refused, subscribing.done()) == (1, False)  # the client comes again by itself
        held.set()
        await cluster.advance(4)
        state = await subscribing
        assert (state.seq, bob.inbox) == (3, type(bob.inbox)())
        await alice.send(ROOM, "n", 3)
        assert (await bob.receive()).data == 3


async def test_topic_recreated_under_clients() -> None:
    """inv 4, 9: in a new generation every channel gets a reset, and what comes then is shown."""
    async with Cluster(partitions=PARTITIONS) as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        await bob.subscribe(ROOM)
        for number in range(3):
            await alice.send(ROOM, "n", number)
        assert [(await bob.receive()).data for _ in range(3)] == [0, 1, 2]
        cluster.embedded.broker.recreate("outbound")
        cluster.embedded.broker.wake()
        await cluster.advance(6)
        assert [reset.channel for reset in bob.resets] == [ROOM]
        for number in range(3, 6):
            await alice.send(ROOM, "n", number)
        assert [(await bob.receive()).data for _ in range(3)] == [3, 4, 5]
        await cluster.advance(3)
        assert [reset.channel for reset in bob.resets] == [ROOM]
        assert not bob.inbox


async def test_one_who_is_ahead_is_not_reset() -> None:
    """inv 4, 9: a client that resumes while the store is behind it waits, and goes on where it was."""
    async with Cluster(access=2, partitions=PARTITIONS) as cluster:
        alice, bob = await cluster.connect("alice", node=0), await cluster.connect("bob", node=1)
        suffix = Suffix()
        suffix.keep(cluster)
        await bob.subscribe(ROOM)
        for number in range(5):
            await alice.send(ROOM, "n", number)
        assert [(await bob.receive()).data for _ in range(5)] == list(range(5))
        suffix(cluster)  # nobody knows yet: the room is not even in the log
        connection = bob.client._driver._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()
        await cluster.advance(4)
        await alice.send(ROOM, "n", 5)
        assert (await bob.receive()).data == 5
        assert bob.resets == []
        assert not bob.inbox


async def test_a_new_subscriber_sees_no_replay() -> None:
    """inv 4, 9: one who comes before the loss is noticed begins at the head that was, not at what is left."""
    async with Cluster(partitions=PARTITIONS) as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        await bob.subscribe(ROOM)
        suffix = Suffix()
        for number in range(5):
            await alice.send(ROOM, "n", number)
            if number == 1:
                await cluster.advance(0.5)
                suffix.keep(cluster)
        assert [(await bob.receive()).data for _ in range(5)] == list(range(5))
        carl = await cluster.connect("carl")
        suffix(cluster)
        subscribing = asyncio.ensure_future(carl.client.subscribe(ROOM))
        await cluster.advance(3)
        subscribed = await subscribing
        assert subscribed.seq == 5
        assert not carl.inbox
        assert bob.resets == []


async def test_a_node_that_was_forgotten_compares_heads() -> None:
    """inv 4, 9: what was appended while a node was in no route is found when its routes are written again."""
    async with Cluster(access=2, partitions=PARTITIONS) as cluster:
        bob = await cluster.connect("bob", node=1)
        await bob.subscribe(ROOM)
        await cluster.publish(ROOM, "n", 0)
        assert (await bob.receive()).data == 0
        log = cluster.embedded.access[1].parts.log
        real, held = log.update, asyncio.Event()

        async def update(shard: int, change: Any) -> int:
            await held.wait()
            return int(await real(shard, change))

        log.update = update
        flush(cluster)
        await cluster.advance(3)
        await cluster.publish(ROOM, "n", 1)
        await cluster.advance(3)
        assert not bob.inbox  # it is in the log; nobody knows that bob's node wants it
        held.set()
        await cluster.advance(2)
        assert [message.data for message in bob.inbox] == [1]


async def test_routes_and_sessions_are_back_within_two_seconds() -> None:
    """inv 6, 9: after a flush each node's next beats find that it is forgotten, and write all of it again."""
    async with Cluster(access=2, partitions=PARTITIONS) as cluster:
        users = [f"u{number}" for number in range(12)]
        for number, user in enumerate(users):
            peer = await cluster.connect(user, node=number % 2)
            await peer.subscribe(ROOM)
        await cluster.advance(1)
        log, store = cluster.embedded.parts().log, cluster.embedded.store

        async def found() -> tuple[set[tuple[str, str]], set[str]]:
            homes = [(f"user:{user}", partition_of(f"user:{user}", PARTITIONS)) for user in users]
            routes = {(name, node) for name, home in homes for node in store.shards[home].nodes.route(name)}
            routes |= {(ROOM, node) for node in store.shards[SHARD].nodes.route(ROOM)}
            sessions = set()
            for name, home in homes:
                (one,) = await log.sessions(home, [name.partition(":")[2]])
                sessions |= {info.session for info in one}
            return routes, sessions

        before = await found()
        assert (len(before[0]), len(before[1])) == (14, 12)
        flush(cluster)
        await cluster.advance(2)
        assert await found() == before


async def test_state_survives_a_flush() -> None:
    """inv 9: a member stays one, one who left stays out, and a join comes before what was sent after it."""
    async with Cluster(partitions=PARTITIONS) as cluster:
        ann, ben = await cluster.connect("ann"), await cluster.connect("ben")
        await member(cluster, "ann", joined=True)
        await member(cluster, "ben", joined=True)
        await cluster.publish("group:g", "t", 1)
        assert [(await peer.receive()).data for peer in (ann, ben)] == [1, 1]
        await member(cluster, "ben", joined=False)
        await cluster.advance(2)
        flush(cluster)
        await cluster.advance(5)
        carl = await cluster.connect("carl")
        await member(cluster, "carl", joined=True)
        await cluster.publish("group:g", "t", 2)  # right after the join: the joiner sees it
        assert [(await peer.receive()).data for peer in (ann, carl)] == [2, 2]
        await ben.receive_nothing()
        assert (ann.resets, carl.resets) == ([], [])


async def member(cluster: Cluster, user: str, *, joined: bool) -> None:
    await cluster._driving.run(
        cluster._produce("group:g", records.Member("group:g", user, joined)),  # type: ignore[arg-type]
        10,
        "writing a membership",
    )


async def test_what_is_gone_is_a_reset() -> None:
    """inv 4: who asks for what is kept no longer, by count or by age, is told so; what comes is shown."""
    room = Policy(keep_count=3, keep_seconds=5)
    settings = Settings(channels={"room": room})
    async with Cluster(partitions=PARTITIONS, settings=settings) as cluster:
        alice, bob, carl = [await cluster.connect(name) for name in ("alice", "bob", "carl")]
        for peer in (bob, carl):
            await peer.subscribe(ROOM)
        await alice.send(ROOM, "n", 0)
        assert [(await peer.receive()).data for peer in (bob, carl)] == [0, 0]
        await bob.close()
        for number in range(1, 6):
            await alice.send(ROOM, "n", number)
        await bob.connect()
        await cluster.advance(1)
        assert [(reset.channel, reset.seq) for reset in bob.resets] == [(ROOM, 6)]
        await carl.close()
        await alice.send(ROOM, "n", 6)
        assert (await bob.receive()).data == 6
        await cluster.advance(20)  # by the clock alone: nothing is written, the header stays
        (view,) = await cluster.embedded.parts().log.read(SHARD, [Query(ROOM, 0)])
        assert (view.head, view.first, len(view.entries)) == (7, 8, 0)
        await carl.connect()
        await cluster.advance(1)
        assert [(reset.channel, reset.seq) for reset in carl.resets] == [(ROOM, 7)]
        await alice.send(ROOM, "n", 7)
        assert (await bob.receive()).data == 7
        assert [message.data for message in carl.inbox] == [1, 2, 3, 4, 5, 7]
        assert bob.resets[1:] == []
