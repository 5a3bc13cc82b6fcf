"""Connecting: what is checked, what is recorded before `connected`, and what it says."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.log.port import Op
from holdfast.protocol.proxy import header
from tests.access.world import PARTITIONS, Client, World


async def closed(client: Client) -> dict[str, object]:
    """Return the last error once the connection is gone."""
    await client.until(lambda: client.lost)
    return client.frames[-1]


async def test_connected_says_all() -> None:
    """`connected` names session, user, node, limits and every automatic channel; session and route are
    recorded before it (inv 5)."""  # noqa: D209, D205
    async with World() as world:
        bob = await world.join("bob", device="web", tcp=False)
        frame = bob.frames[0]
        assert frame["user"] == "bob"
        assert frame["node"] == "a"
        assert frame["heartbeat"] == 25.0
        assert frame["channels"] == {"user:bob": {"epoch": "", "seq": 0, "recovered": False}}
        assert frame["limits"] == {
            "frame": 65536, "rate": 100, "in_flight": 128, "subscriptions": 200, "resend": 300,
        }  # fmt: skip
        shard = world.node.registry.shard_of("user:bob")
        (info,) = (await world.log.sessions(shard, ["bob"]))[0]
        assert (info.session, info.node, info.device) == (frame["session"], world.node.incarnation, "web")
        item = await world.append("user:bob")
        assert item.seq == 1
        await world.clock.settle()
        assert world.events() == [("bob", "connect", "")]


async def test_msgpack_clients_get_msgpack() -> None:
    """A client of the msgpack subprotocol speaks it both ways, messages and replies included."""
    async with World() as world:
        bob = await world.join("bob", msgpack=True)
        bob.send(t="request", id="r", type="q", data={"a": [1]})
        await bob.until(lambda: any(hasattr(record, "key") for record in world.inbound()))
        world.reply(bob.number, {"t": "reply", "id": "r", "data": {"b": 2}})
        assert (await bob.got("reply", id="r"))["data"] == {"b": 2}
        await world.publish("user:bob", "hi")
        assert (await bob.got("message"))["data"] == "hi"


@pytest.mark.parametrize("tcp", [True, False])
async def test_wrong_tokens(tcp: bool) -> None:
    """inv 11: a token that does not hold ends in `unauthorized`, 4103."""
    async with World() as world:
        client = await world.open(tcp=tcp)
        client.send(t="connect", token="no.such.token")
        last = await closed(client)
        assert (last["code"], last["retry"]) == ("unauthorized", False)
        assert (last["close"] if tcp else client.closed) == 4103
        assert world.value("access_refused", reason="unauthorized") == 1


async def test_connect_comes_first_and_in_time() -> None:
    """Another frame first ends in `connect_first`, for good; none in time in `silent`: come back."""
    async with World() as world:
        early = await world.open()
        early.send(t="ping")
        assert (await closed(early))["code"] == "connect_first"
        assert early.closed == 4102
        silent = await world.open(tcp=True)
        mute = await world.open()
        await world.clock.advance(11)
        last = await closed(silent)
        assert (last["code"], last["close"], last["retry"]) == ("silent", 4001, True)
        assert (await closed(mute))["code"] == "silent"
        assert mute.closed == 4001
        assert world.value("access_refused", reason="timeout") == 2


async def test_bad_frames() -> None:
    """inv 11: what cannot be understood gets its code; only what is no frame ends the connection."""
    async with World() as world:
        bob = await world.join("bob", tcp=False)
        bob.send(t="nonsense", id=5)
        assert (await bob.got("error", id=5))["code"] == "unknown_frame"
        bob.send(t="subscribe", id=6)
        assert (await bob.got("error", id=6))["code"] == "bad_request"
        bob.send(t="subscribe", id=7, channel="no name")
        assert (await bob.got("error", id=7))["code"] == "bad_channel"
        bob.send(t="ping")
        await bob.got("pong")
        bob.raw(b"{no json")
        assert (await closed(bob))["code"] == "bad_frame"
        assert bob.closed == 4100


async def test_too_large_frames() -> None:
    """inv 11: a frame above the limit ends the connection, as the carrier says it."""
    async with World(frame=2000) as world:
        for tcp in (True, False):
            bob = await world.join("bob", tcp=tcp)
            bob.send(t="send", id=1, n=1, to="user:x", type="t", data="x" * 3000)
            await bob.gone()
            if tcp:
                assert (bob.frames[-1]["code"], bob.frames[-1]["close"]) == ("too_large", 4101)
            else:
                assert bob.closed == 1009


async def test_connections_are_bounded() -> None:
    """inv 7: above the bound a client is told `overloaded`; far above, the socket is cut."""
    async with World(connections=2) as world:
        await world.join("a")
        await world.join("b")
        late = await world.open(tcp=True)
        late.send(t="connect", token=world.token("c"))
        await late.until(lambda: late.lost)
        assert world.value("access_refused", reason="connections") == 1
        assert world.value("access_connections", carrier="tcp") == 2


async def test_proxy_header_and_the_limit_per_address() -> None:
    """PROXY v2 tells the client's address, which the limit per address counts; without it nothing goes."""
    async with World(proxy_protocol=True, per_address=1) as world:
        lines = [header((f"10.0.0.{number}", 1), ("10.0.0.9", 2)) for number in (1, 2)]
        first = await world.open(tcp=True, prefix=lines[0])
        first.send(t="connect", token=world.token("a"))
        await first.got("connected")
        other = await world.open(tcp=True, prefix=lines[1])
        other.send(t="connect", token=world.token("b"))
        await other.got("connected")
        same = await world.open(tcp=True, prefix=lines[0] + b"\0")
        await same.until(lambda: same.lost)
        assert world.value("access_refused", reason="per_address") == 1
        first.transport.close()
        await world.clock.settle()
        again = await world.open(tcp=True, prefix=lines[0])
        again.send(t="connect", token=world.token("a"))
        await again.got("connected")
        bare = await world.open(tcp=True, prefix=b"GET / HTTP/1.1\r\n\r\n")
        await bare.until(lambda: bare.lost)
        assert world.value("access_refused", reason="proxy_header") == 1


async def test_same_client_supersedes() -> None:
    """inv 12: a second connection with the same client ends the first at once, one of another does not."""
    async with World() as world:
        first = await world.join("bob", client="c")
        other = await world.join("bob", client="d")
        elsewhere = await world.join("ann", client="c")
        second = await world.join("bob", client="c")
        assert (await closed(first))["code"] == "superseded"
        assert [client.lost for client in (second, other, elsewhere)] == [False] * 3
        await world.clock.settle()
        assert ("bob", "disconnect", "superseded") in world.events()


async def test_groups_and_resume() -> None:
    """Groups are subscribed without asking; channels of `resume` are joined; what is not allowed is said."""
    async with World() as world:
        joined = await world.apply("group:1", Op.JOIN, source="bob")
        await world.apply(
            "user:bob", Op.GROUP, source="group:1", score=joined.version, content=1,
            epoch=joined.epoch, seq=joined.seq,
        )  # fmt: skip
        for text in ("a", "b", "c"):
            await world.publish("room:1", text)
            await world.publish("group:1", text)
        epoch = (await world.append("room:1", "d")).epoch
        resume = {
            "room:1": {"epoch": epoch, "seq": 2},
            "room:2": {"epoch": "gone", "seq": 5},
            "group:9": {"epoch": epoch, "seq": 2},
            "user:ann": {"epoch": epoch, "seq": 2},
            "bad": {"epoch": epoch, "seq": 2},
        }
        bob = await world.join("bob", resume=resume)
        channels = bob.frames[0]["channels"]
        assert channels["room:1"] == {"epoch": epoch, "seq": 2, "recovered": True}
        assert channels["room:2"]["recovered"] is False
        assert channels["group:1"]["seq"] == 3
        assert set(channels) == {"user:bob", "room:1", "room:2", "group:1"}
        await bob.until(lambda: len(bob.seqs("room:1")) == 2)
        assert bob.seqs("room:1") == [3, 4]
        codes = {frame["channel"]: frame["code"] for frame in bob.take("error")}
        assert codes == {"group:9": "forbidden", "user:ann": "forbidden", "bad": "bad_channel"}


async def test_the_stored_cursor_is_where_an_automatic_channel_begins() -> None:
    """A client without memory goes on at its cursor, which is written once a second at most."""
    async with World() as world:
        bob = await world.join("bob", device="phone")
        await world.publish("user:bob", "1", "2", "3", "4")
        await bob.got("message", seq=4)
        for seq in (1, 2):
            bob.send(t="cursor", channel="user:bob", seq=seq)
        await world.clock.advance(1.1)
        (cursor,) = world.cursors()
        assert (cursor.user, cursor.device, cursor.seq) == ("bob", "phone", 2)
        bob.send(t="cursor", channel="user:bob", seq=9)
        assert (await bob.got("error"))["code"] == "bad_request"
        await world.apply("user:bob", Op.CURSOR, source="bob\0phone", score=2, epoch=cursor.epoch)
        again = await world.join("bob", device="phone")
        assert again.frames[0]["channels"]["user:bob"]["seq"] == 2
        assert again.frames[0]["channels"]["user:bob"]["recovered"] is False
        await again.until(lambda: again.seqs("user:bob") == [3, 4])


async def test_without_the_log_new_connections_come_back_later() -> None:
    """Redis away: new connects end as `overloaded` after a short time, sends of others go on."""
    async with World() as world:
        bob = await world.join("bob")
        world.log.away = True
        late = await world.open(tcp=True)
        late.send(t="connect", token=world.token("ann"))
        await world.clock.advance(4)
        last = await closed(late)
        assert (last["code"], last["retry"]) == ("overloaded", True)
        bob.send(t="send", id=1, n=1, to="user:ann", type="t")
        await bob.got("ack", id=1)
        world.log.away = False
        await world.clock.advance(2)
        await world.join("ann")
        shard = world.node.registry.shard_of("user:ann")
        assert len((await world.log.sessions(shard, ["ann"]))[0]) == 1


async def test_a_storm_is_written_in_few_updates() -> None:
    """Routes and sessions of many connects go out in micro-batches, one in flight per shard."""
    async with World() as world:
        clients = [await world.open(tcp=True) for _ in range(60)]
        world.log.gate = asyncio.Event()
        for number, client in enumerate(clients):
            client.send(t="connect", token=world.token(f"u{number}"))
        await world.clock.settle()
        assert not any(client.frames for client in clients)
        world.log.gate.set()
        for client in clients:
            await client.got("connected")
        assert len(world.log.updates) <= 2 * PARTITIONS
        assert len(world.log.reads) <= 4 * PARTITIONS
