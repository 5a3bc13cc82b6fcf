"""Messages without a handler: the policy of the channel's kind decides."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import records
from holdfast.app import App
from holdfast.errors import Retry
from holdfast.log.memory import MemoryLog
from holdfast.policy import Policy
from tests.logic.world import NODE, PARTITIONS, World


class AwayLog(MemoryLog):
    """A log that can be away, and counts its reads."""

    away = False
    reads = 0

    async def read(self, shard, queries):
        if self.away:
            raise Retry("away")
        self.reads += 1
        return await super().read(shard, queries)


@pytest.fixture
async def world():
    world = World(log=AwayLog)
    world.policies["inbox"] = Policy(send="owner")
    world.policies["news"] = Policy(send="nobody")
    await world.start()
    yield world
    await world.stop()


async def test_a_message_without_a_handler_goes_to_its_channel_as_it_is(world):
    """The record carries what dispatch needs: source, number, content, origin."""
    send = world.send("alice", 5, "user:bob", "text", {"text": "hi"})
    await world.clock.advance(1)
    (message,) = world.outbound(records.Message)
    assert message.channel == "user:bob"
    assert message.source == "alice\0c"
    assert message.score == 5 * records.MAX_OUTPUTS
    assert message.content != 0
    assert message.origin == (NODE, 7, 5)
    assert records.entry_members(message.body) == {
        "id": f"{send.message}-0",
        "from": "alice",
        "type": "text",
        "data": {"text": "hi"},
        "cause": send.message,
    }
    assert world.count("logic_published_total", by="pass") == 1


@pytest.mark.parametrize(
    ("to", "granted", "code"),
    [
        ("user:bob", False, ""),
        ("room:x", False, ""),
        ("inbox:alice", False, ""),
        ("inbox:bob", False, "forbidden"),
        ("inbox:bob", True, ""),
        ("news:all", False, "forbidden"),
        ("news:all", True, ""),
        ("group:g", False, "forbidden"),
        ("group:g", True, ""),
        ("planet:mars", True, "bad_channel"),
        ("nonsense", True, "bad_channel"),
    ],
)
async def test_policies(world, to, granted, code):
    """inv 11: what the policy and the token's grant do not allow is refused to its connection."""
    world.send("alice", 1, to, granted=granted)
    await world.clock.advance(3)
    if not code:
        assert [m["channel"] for m in world.messages()] == [to]
        assert world.replies() == []
        return
    assert world.messages() == []
    (reply,) = world.outbound(records.Reply)
    assert (reply.channel, reply.node, reply.connection) == ("user:alice", NODE, 7)
    assert reply.deadline > world.clock.now_ms()
    (frame,) = world.replies()
    assert (frame["t"], frame["id"], frame["code"], frame["retry"]) == ("error", 1, code, False)


async def test_members_may_send_to_their_group(world):
    """Membership is looked up in the log, once for a fetched batch and shard."""
    shard = records_shard("group:g")
    world.broker.append("outbound", shard, b"group:g", records.encode(join("g", "alice")), ())
    await world.apply()
    world.log.reads = 0
    for n in range(20):
        world.send("alice", n, "group:g", data=n)
        world.send("eve", n, "group:g", data=n)
    await world.clock.advance(1)
    assert [m["data"] for m in world.messages()] == list(range(20))
    assert {m["from"] for m in world.messages()} == {"alice"}
    assert [frame["code"] for frame in world.replies()] == ["forbidden"] * 20
    assert world.log.reads <= 3  # who is no member is looked up once more


async def test_a_store_of_the_past_refuses_no_member(world):
    """inv 9: a no waits until the store has taken in what is durable; one that lost writes refuses nobody."""
    shard = records_shard("group:g")
    world.broker.append("outbound", shard, b"group:g", records.encode(join("g", "alice")), ())
    world.send("alice", 1, "group:g", data=1)
    world.send("eve", 1, "group:g", data=1)
    await world.clock.advance(30)
    assert world.messages() == []
    assert world.replies() == []
    for _ in range(2):  # alice's message is in the queue too, before a no to eve is sure
        await world.apply()
        await world.clock.advance(30)
    assert [m["data"] for m in world.messages() if m["channel"] == "group:g"] == [1]
    assert [frame["code"] for frame in world.replies()] == ["forbidden"]


async def test_only_those_who_need_the_log_wait_for_it(world):
    """inv 7: while the log is away, sends to groups wait in their sender's order, and nobody else's."""
    shard = records_shard("group:g")
    world.broker.append("outbound", shard, b"group:g", records.encode(join("g", "alice")), ())
    await world.apply()
    world.log.away = True
    world.send("alice", 1, "group:g", data=1)
    world.send("alice", 2, "room:r", data=2)
    world.send("bob", 1, "room:r", data=3)
    await world.clock.advance(20)
    assert [m["data"] for m in world.messages()] == [3]
    world.log.away = False
    await world.clock.advance(40)
    assert sorted(m["data"] for m in world.messages()) == [1, 2, 3]


async def test_a_request_without_a_handler_is_answered(world):
    """inv 11: the asker gets `no_handler`."""
    world.request("alice", "profile.get")
    await world.clock.advance(1)
    (frame,) = world.replies()
    assert (frame["t"], frame["id"], frame["code"]) == ("error", "f1", "no_handler")


async def test_passing_on_makes_no_task(monkeypatch):
    """The path of a send without a handler costs no task: a thousand of them, none."""
    world = World(App())
    worker = await world.start()
    spawned: list[Any] = []
    monkeypatch.setattr(worker._runner, "_spawn", spawned.append)
    for n in range(1000):
        world.send(f"user{n % 50}", n, "room:r", data=n)
    await world.clock.advance(2)
    assert len(world.messages()) == 1000
    assert spawned == []
    await world.stop()


def records_shard(channel):
    from holdfast.channel import partition_of

    return partition_of(channel, PARTITIONS)


def join(group, user):
    return records.Member(f"group:{group}", user, joined=True)
