"""What an open connection may do: sends, requests, subscriptions, tokens, heartbeats."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.log.port import Op
from tests.access.world import World


async def test_send_answers() -> None:
    """inv 1: the ack follows the record; forbidden and unknown channels are refused before."""
    async with World() as world:
        bob = await world.join("bob", client="c")
        bob.send(t="send", id="a", n=1, to="user:ann", type="t", data={"x": 1})
        ack = await bob.got("ack", id="a")
        (send,) = [record for record in world.inbound() if hasattr(record, "n")]
        assert send.message == ack["message"]
        assert (send.user, send.client, send.to, send.type, send.data) == (
            "bob", "c", "user:ann", "t", b'{"x": 1}',
        )  # fmt: skip
        assert send.connection == bob.number
        assert send.granted is False
        bob.send(t="send", id="b", n=2, to="nowhere:1", type="t")
        assert (await bob.got("error", id="b"))["code"] == "bad_channel"
        bob.send(t="send", id="c", n=3, to="user:ann", type="t")
        await bob.got("ack", id="c")


async def test_granted_by_the_token() -> None:
    """A token's patterns allow what the policies do not."""
    async with World() as world:
        bob = await world.join("bob", token=world.token("bob", channels=["user:a*", "group:*"]))
        bob.send(t="send", id=1, n=1, to="group:7", type="t")
        await bob.got("ack", id=1)
        assert [record.granted for record in world.inbound() if hasattr(record, "n")] == [True]
        for number, channel in enumerate(("user:ann", "group:7")):
            bob.send(t="subscribe", id=number, channel=channel)
            await bob.got("subscribed", channel=channel)
        bob.send(t="subscribe", id=9, channel="user:carl")
        assert (await bob.got("error", id=9))["code"] == "forbidden"


async def test_kafka_away() -> None:
    """inv 1, inv 12: nothing is acked; at the deadline all that was sent fails; after it n comes again."""
    async with World() as world:
        bob = await world.join("bob", client="c")
        world.broker.away = True
        for n in (1, 2):
            bob.send(t="send", id=n, n=n, to="user:ann", type="t")
        await world.clock.advance(9)
        assert not bob.take("ack")
        await world.clock.advance(2)
        assert [frame["code"] for frame in bob.take("error")] == ["unavailable"] * 2
        world.broker.away = False
        bob.send(t="send", id=3, n=3, to="user:ann", type="t")
        assert (await bob.got("error", id=3))["code"] == "out_of_order"
        for n in (1, 2, 3):
            bob.send(t="send", id=10 + n, n=n, to="user:ann", type="t")
            await bob.got("ack", id=10 + n)
        assert world.sends() == [("bob", 1), ("bob", 2), ("bob", 3)]


async def test_request_and_reply() -> None:
    """A reply reaches only the connection that asked, once, and not after the deadline."""
    async with World() as world:
        bob = await world.join("bob")
        number = bob.number
        other = await world.join("bob")
        for name in ("r", "late"):
            bob.send(t="request", id=name, type="profile.get", data=None)
        await world.clock.settle()
        world.reply(number, {"t": "reply", "id": "r", "data": {"name": "B"}})
        world.reply(number, {"t": "reply", "id": "r", "data": {"name": "B"}})
        assert (await bob.got("reply", id="r"))["data"] == {"name": "B"}
        await world.clock.advance(11)
        assert (await bob.got("error", id="late"))["code"] == "unavailable"
        world.reply(number, {"t": "reply", "id": "late", "data": 1})
        world.reply(number, {"t": "error", "id": 1, "code": "x", "message": "m", "retry": False}, deadline=1)
        world.reply(99, {"t": "reply", "id": "r"})
        await world.clock.settle()
        assert len(bob.take("reply")) == 1
        assert len(other.frames) == 1
        assert world.value("access_replies_dropped") == 4


async def test_a_refusal_comes_after_its_ack() -> None:
    """A refusal that was faster than the queue's own answer waits for the ack, at most until its deadline."""
    async with World() as world:
        bob = await world.join("bob")
        world.broker.away = True
        bob.send(t="send", id=1, n=1, to="user:x", type="t", data=None)
        bob.send(t="send", id=2, n=2, to="user:x", type="t", data=None)
        await world.clock.settle()
        refusal = {"t": "error", "code": "rejected", "message": "m", "retry": False}
        world.reply(bob.number, refusal | {"id": 1})
        world.reply(bob.number, refusal | {"id": 2}, deadline=world.clock.now_ms() + 500)
        await world.clock.advance(1)
        assert len(bob.frames) == 1
        world.broker.away = False
        world.broker.wake()
        await world.clock.advance(1)
        assert [(frame["t"], frame["id"]) for frame in bob.frames[1:]] == [
            ("ack", 1),
            ("ack", 2),
            ("error", 1),
        ]
        assert world.value("access_replies_dropped") == 1


async def test_subscribe_and_unsubscribe() -> None:
    """Subscriptions are answered, repeated harmlessly, ended by who asked for them, and bounded."""
    async with World(subscriptions=2) as world:
        bob = await world.join("bob")
        bob.send(t="subscribe", id=1, channel="room:1")
        bob.send(t="subscribe", id=2, channel="room:1")
        assert (await bob.got("subscribed", id=1))["recovered"] is False
        assert (await bob.got("error", id=2))["code"] == "bad_request"
        bob.send(t="subscribe", id=3, channel="room:1")
        await bob.got("subscribed", id=3)
        for number in (4, 5):
            bob.send(t="subscribe", id=number, channel=f"room:{number}")
        await bob.got("subscribed", id=4)
        assert (await bob.got("error", id=5))["code"] == "too_many"
        bob.send(t="unsubscribe", id=6, channel="user:bob")
        assert (await bob.got("error", id=6))["code"] == "forbidden"
        bob.send(t="unsubscribe", id=7, channel="room:1")
        await bob.got("unsubscribed", id=7)
        bob.send(t="unsubscribe", id=8, channel="room:1")
        assert (await bob.got("error", id=8))["code"] == "bad_request"
        await world.clock.settle()
        assert (await world.append("room:1")).seq == 1
        shard = world.node.registry.shard_of("room:1")
        world.store.shards[shard]
        assert world.node.registry.get("room:1") is None
        bob.send(t="subscribe", id=9, channel="room:5")
        await bob.got("subscribed", id=9)


async def test_subscribe_without_the_log() -> None:
    """A subscribe that cannot be answered in time fails with a retry, and may be asked again."""
    async with World() as world:
        bob = await world.join("bob")
        world.log.away = True
        bob.send(t="subscribe", id=1, channel="room:1")
        await world.clock.advance(4)
        error = await bob.got("error", id=1)
        assert (error["code"], error["retry"]) == ("unavailable", True)
        world.log.away = False
        await world.clock.advance(2)
        bob.send(t="subscribe", id=2, channel="room:1")
        await bob.got("subscribed", id=2)
        assert len(bob.take("subscribed")) == 1


async def test_rate_limit() -> None:
    """inv 7: frames above the burst are refused with the time to wait."""
    async with World(rate=10, burst=5) as world:
        bob = await world.join("bob")
        for _ in range(7):
            bob.send(t="ping")
        await bob.until(lambda: len(bob.take("error")) == 2)
        assert {frame["code"] for frame in bob.take("error")} == {"rate_limited"}
        assert 0 < bob.take("error")[0]["retry"] <= 0.2
        assert world.value("access_errors", code="rate_limited") == 2


async def test_heartbeat() -> None:
    """After one heartbeat of silence the server pings; after two it closes as silent; a pong is life."""
    async with World(heartbeat=10) as world:
        mute = await world.join("mute")
        alive = await world.join("alive")
        await world.clock.advance(11)
        await mute.got("ping")
        await alive.got("ping")
        alive.send(t="pong")
        await world.clock.advance(10)
        await mute.until(lambda: mute.lost)
        assert mute.frames[-1]["code"] == "silent"
        assert not alive.lost


async def test_tokens_end_and_are_refreshed() -> None:
    """At `exp` the connection ends as unauthorized, unless it was refreshed; by the same user only."""
    async with World() as world:
        bob = await world.join("bob", token=world.token("bob", ttl=20))
        ann = await world.join("ann", token=world.token("ann", ttl=20))
        carl = await world.join("carl")
        bob.send(t="refresh", id=1, token=world.token("bob", ttl=300))
        await bob.got("refreshed", id=1)
        carl.send(t="refresh", id=1, token=world.token("bob"))
        await carl.until(lambda: carl.lost)
        assert carl.frames[-1]["code"] == "unauthorized"
        for _ in range(4):
            await world.clock.advance(10)
            for client in (bob, ann):
                client.send(t="pong")
        await ann.until(lambda: ann.lost)
        assert ann.frames[-1]["code"] == "unauthorized"
        assert not bob.lost


@pytest.mark.parametrize("lose", [False, True])
async def test_groups_change_while_connected(lose: bool) -> None:
    """A member gets what follows its place in the group, and a null-id frame, also when the push is lost."""
    async with World() as world:
        bob = await world.join("bob")
        await world.publish("group:1", "before")
        joined = await world.apply("group:1", Op.JOIN, source="bob")
        await world.publish("group:1", "after")
        membership = {
            "source": "group:1", "score": joined.version, "epoch": joined.epoch, "seq": joined.seq,
        }  # fmt: skip
        await world.apply("user:bob", Op.GROUP, content=1, **membership)
        await world.change("user:bob", "group", lose=lose)
        if lose:
            await world.clock.advance(6)
        subscribed = await bob.got("subscribed", channel="group:1")
        assert (subscribed["id"], subscribed["seq"]) == (None, 1)
        await bob.until(lambda: bob.seqs("group:1") == [2])
        left = await world.apply("group:1", Op.LEAVE, source="bob")
        await world.apply("user:bob", Op.GROUP, content=0, **(membership | {"score": left.version}))
        await world.change("user:bob", "group", lose=lose)
        if lose:
            await world.clock.advance(6)
        assert (await bob.got("unsubscribed"))["id"] is None
        await world.publish("group:1", "without bob")
        assert bob.seqs("group:1") == [2]


async def test_a_group_left_while_its_channel_was_being_joined() -> None:
    """inv 5: who left before the channel was subscribed is unsubscribed (found by simulated seed 457)."""
    async with World() as world:
        bob = await world.join("bob")
        joined = await world.apply("group:1", Op.JOIN, source="bob")
        membership = {"source": "group:1", "epoch": joined.epoch, "seq": joined.seq}
        await world.apply("user:bob", Op.GROUP, content=1, score=joined.version, **membership)
        world.log.gate = asyncio.Event()  # the route, which the join waits for
        await world.change("user:bob", "group")
        left = await world.apply("group:1", Op.LEAVE, source="bob")
        await world.apply("user:bob", Op.GROUP, content=0, score=left.version, **membership)
        await world.change("user:bob", "group")
        assert not bob.take("subscribed")
        world.log.gate.set()
        await bob.got("subscribed", channel="group:1")
        await bob.got("unsubscribed", channel="group:1")
        await world.publish("group:1", "without bob")
        assert bob.seqs("group:1") == []


async def test_revocation() -> None:
    """Sessions whose token was issued before a revocation end, those of a revoked jti too, and stay out."""
    async with World() as world:
        old = world.token("bob")
        bob = await world.join("bob", token=old)
        await world.clock.advance(5)
        fresh = await world.join("bob")
        await world.apply("user:bob", Op.REVOKE, score=world.clock.now_ms() - 1000)
        await world.change("user:bob", "revoke")
        await bob.until(lambda: bob.lost)
        assert bob.frames[-1]["code"] == "unauthorized"
        assert not fresh.lost
        again = await world.open(tcp=True)
        again.send(t="connect", token=old)
        await again.until(lambda: again.lost)
        assert again.frames[-1]["code"] == "unauthorized"

        token, jti = world.token("ann", jti="one"), "one"
        ann = await world.join("ann", token=token)
        await world.apply(f"token:{jti}", Op.REVOKE, score=world.clock.now_ms())
        await world.change(f"token:{jti}", "revoke")
        await ann.until(lambda: ann.lost)
        late = await world.open(tcp=True)
        late.send(t="connect", token=token)
        await late.until(lambda: late.lost)
        assert late.frames[-1]["code"] == "unauthorized"
