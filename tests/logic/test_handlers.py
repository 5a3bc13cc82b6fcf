"""What handlers cause: outputs, replies, refusals, retries, dead letters."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from holdfast import records
from holdfast.app import App, Message, Refuse, Request
from holdfast.errors import Drop, Retry
from tests.logic.world import NODE, World


class Text(msgspec.Struct):
    text: str


@pytest.fixture
def app():
    return App()


@pytest.fixture
async def world(app):
    world = World(app)
    await world.start()
    yield world
    await world.stop()


async def test_outputs_are_numbered_per_target_channel(world, app):
    """inv 2: source, score and id of an output depend on the message and its place alone."""

    @app.on("fan")
    async def fan(ctx, message):
        ids = [
            ctx.forward(),
            ctx.publish("room:x", "a", 1),
            ctx.forward("changed", "other"),
            ctx.publish("room:x", "b", 2, sender=None),
        ]
        assert len(set(ids)) == 4

    send = world.send("alice", 3, "user:bob", "fan", "original")
    await world.clock.advance(1)
    first = world.messages()
    by_channel = {
        channel: [m for m in first if m["channel"] == channel] for channel in ("user:bob", "room:x")
    }
    base = 3 * records.MAX_OUTPUTS
    assert [(m["score"], m["type"], m["data"]) for m in by_channel["user:bob"]] == [
        (base, "fan", "original"),
        (base + 1, "other", "changed"),
    ]
    assert [(m["score"], m["type"], m["from"]) for m in by_channel["room:x"]] == [
        (base, "a", "alice"),
        (base + 1, "b", None),
    ]
    assert {m["source"] for m in first} == {"alice\0c"}
    assert {m["cause"] for m in first} == {send.message}
    assert len({m["id"] for m in first}) == 4
    assert len({m.content for m in world.outbound(records.Message)}) == 1

    world.inbound(send)
    await world.clock.advance(1)
    again = world.messages()
    assert len(again) == 8
    assert {(m["channel"], m["score"], m["id"]) for m in again} == {
        (m["channel"], m["score"], m["id"]) for m in first
    }


async def test_nothing_leaves_before_the_handler_returns(world, app):
    """inv 2: outputs are released together; a handler that fails releases none."""
    go = asyncio.Event()

    @app.on("slow")
    async def slow(ctx, message):
        ctx.forward()
        await go.wait()
        raise Refuse("changed my mind")

    world.send("alice", 1, "user:bob", "slow")
    await world.clock.advance(1)
    assert world.messages() == []
    go.set()
    await world.clock.advance(1)
    assert world.messages() == []
    assert [frame["code"] for frame in world.replies()] == ["rejected"]


async def test_a_reply_goes_to_the_connection_that_asked(world, app):
    """The value a request's handler returns is the reply; it has the request's id and deadline."""

    @app.on_request("double", data=int)
    async def double(ctx, request: Request[int]) -> int:
        return request.data * 2

    world.request("alice", "double", 21)
    await world.clock.advance(1)
    (reply,) = world.outbound(records.Reply)
    assert (reply.channel, reply.node, reply.connection) == ("user:alice", NODE, 7)
    assert msgspec.json.decode(reply.frame) == {"t": "reply", "id": "f1", "data": 42}


async def test_typed_data_is_checked_before_the_handler_runs(world, app):
    """inv 11: data of the wrong shape is refused with what is wrong, and the handler never sees it."""
    seen = []

    @app.on("typed")
    async def typed(ctx, message: Message[Text]):
        seen.append(message.data.text)

    world.send("alice", 1, "user:bob", "typed", {"text": 5})
    world.send("alice", 2, "user:bob", "typed", {"text": "five"})
    await world.clock.advance(1)
    assert seen == ["five"]
    (frame,) = world.replies()
    assert (frame["id"], frame["code"]) == (1, "bad_request")
    assert "$.text" in frame["message"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (lambda ctx: ctx.publish("planet:mars", "x"), "bad_channel"),
        (lambda ctx: ctx.publish("nonsense", "x"), "bad_channel"),
        (lambda ctx: [ctx.publish("room:r", "x") for _ in range(1025)], "too_many"),
        (lambda ctx: [ctx.publish("room:r", "x", "y" * 100_000) for _ in range(6)], "too_many"),
    ],
)
async def test_bounds_of_outputs(world, app, bad, code):
    """inv 7, 11: beyond its bounds a run puts out nothing, and the sender is told."""

    @app.on("bad")
    async def handler(ctx, message):
        ctx.forward()
        bad(ctx)

    world.send("alice", 1, "user:bob", "bad")
    await world.clock.advance(1)
    assert world.messages() == []
    assert [frame["code"] for frame in world.replies()] == [code]


async def test_what_may_pass_is_tried_again_with_backoff(world, app):
    """A handler that fails runs again, later each time; what it put out before does not count."""
    runs: list[float] = []

    @app.on("shaky")
    async def shaky(ctx, message):
        ctx.forward(len(runs))
        runs.append(world.clock.monotonic())
        if len(runs) < 3:
            raise Retry("not now")

    world.send("alice", 1, "user:bob", "shaky")
    world.send("alice", 2, "user:bob", "text", "after")
    await world.clock.advance(5)
    assert 0.05 <= runs[1] - runs[0] <= 0.11
    assert 0.1 <= runs[2] - runs[1] <= 0.21
    assert [m["data"] for m in world.messages()] == [2, "after"]
    assert world.count("logic_retries_total") == 2


async def test_what_will_not_pass_becomes_a_dead_letter_with_the_reason(world, app):
    """inv 11: the original with reason, error and place; the sender is told; the next message goes on."""

    @app.on("broken")
    async def broken(ctx, message):
        raise KeyError("missing")

    world.clock.now_ms()
    send = world.send("alice", 1, "user:bob", "broken", "secret payload")
    world.send("alice", 2, "user:bob", "text", "after")
    await world.clock.advance(5)
    (letter,) = world.records("dead")
    assert letter.key == b"alice"
    assert letter.value == records.encode(send)
    (headers,) = world.letters()
    assert headers["reason"] == "failed"
    assert headers["detail"] == "KeyError: 'missing'"
    assert (headers["topic"], headers["offset"]) == ("inbound", "0")
    assert int(headers["partition"]) == letter.partition
    assert int(headers["ts"]) > 0
    (frame,) = world.replies()
    assert (frame["id"], frame["code"]) == (1, "failed")
    assert "missing" not in frame["message"]
    assert [m["data"] for m in world.messages()] == ["after"]
    assert world.count("logic_dead_letters_total", reason="failed") == 1


@pytest.mark.parametrize("stubborn", [False, True])
async def test_the_time_limit_ends_a_run(world, app, stubborn):
    """inv 7: a hung handler holds its sender for the limit times the runs, and nobody else."""

    @app.on("hang")
    async def hang(ctx, message):
        ctx.forward("too late")
        try:
            await asyncio.Event().wait()
        finally:
            if stubborn:
                raise ValueError("from finally")

    world.send("alice", 1, "user:bob", "hang")
    world.send("carol", 1, "user:bob", "text", "not held up")
    await world.clock.advance(1)
    assert [m["data"] for m in world.messages()] == ["not held up"]
    await world.clock.advance(3 * 5.0 + 1)
    (headers,) = world.letters()
    assert headers["reason"] == ("failed" if stubborn else "time_limit")
    assert [m["data"] for m in world.messages()] == ["not held up"]


async def test_a_handler_that_cancels_itself_is_a_failure(world, app):
    """inv 7: CancelledError out of a handler is an error like others; the worker goes on."""

    @app.on("odd")
    async def odd(ctx, message):
        raise asyncio.CancelledError

    world.send("alice", 1, "user:bob", "odd")
    world.send("alice", 2, "user:bob", "text", "after")
    await world.clock.advance(5)
    assert [headers["reason"] for headers in world.letters()] == ["failed"]
    assert [m["data"] for m in world.messages()] == ["after"]


async def test_drop_ends_a_message_without_a_word(world, app):
    """A handler that raises Drop is done; nothing is put out, nothing is told."""

    @app.on("drop")
    async def drop(ctx, message):
        ctx.forward()
        raise Drop("nobody waits")

    world.send("alice", 1, "user:bob", "drop")
    await world.clock.advance(2)
    assert (world.messages(), world.replies(), world.letters()) == ([], [], [])
    assert world.count("logic_handled_total", kind="send", outcome="dropped") == 1


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x93\xa1s\x01\x02", b"not msgpack at all"])
async def test_poison_becomes_a_dead_letter_and_the_rest_goes_on(world, value):
    """inv 11: an inbound record that cannot be read is kept with the reason; nothing stops."""
    world.raw("alice", value)
    world.send("alice", 1, "user:bob", "text", "after")
    await world.clock.advance(2)
    (letter,) = world.records("dead")
    assert letter.value == value
    assert world.letters()[0]["reason"] == "undecodable"
    assert [m["data"] for m in world.messages()] == ["after"]
    assert world.committed[letter.partition] == 2


async def test_a_late_request_is_not_handled(world, app):
    """Nobody waits for it after its deadline: it is counted, not run."""
    runs = []

    @app.on_request("late")
    async def late(ctx, request):
        runs.append(request)

    world.request("alice", "late", wait=-1)
    await world.clock.advance(1)
    assert (runs, world.replies()) == ([], [])
    assert world.count("logic_handled_total", kind="request", outcome="late") == 1


async def test_session_events(world, app):
    """Their outputs are keyed by the event, so that one emitted twice, and handled twice, appears once."""
    seen = []

    @app.on_connect
    async def connected(ctx, session):
        seen.append(("connect", session.id))
        ctx.publish("room:door", "came", session.user)

    @app.on_disconnect
    async def disconnected(ctx, session):
        seen.append((session.reason, session.id))

    world.event("alice", "connect", "s1")
    world.event("alice", "disconnect", "s1", "silent")
    await world.clock.advance(1)
    assert seen == [("connect", "s1"), ("silent", "s1")]
    (message,) = world.outbound(records.Message)
    assert (message.source, message.score) == ("s1/connect#0", records.KEYED)


async def test_a_connect_after_its_session_s_disconnect_is_ignored(world, app):
    """The sweeper may be faster than the node: the late `connect`, and a second `disconnect`, are ignored."""
    seen = []

    @app.on_connect
    async def connected(ctx, session):
        seen.append(("connect", session.id))

    @app.on_disconnect
    async def disconnected(ctx, session):
        seen.append(("disconnect", session.id))

    world.event("alice", "disconnect", "s1")
    world.event("alice", "connect", "s1")
    world.event("alice", "disconnect", "s1")
    world.event("alice", "connect", "s2")
    await world.clock.advance(1)
    assert seen == [("disconnect", "s1"), ("connect", "s2")]
    assert world.count("logic_handled_total", kind="connect", outcome="ignored") == 1


async def test_middleware_wraps_every_handler(world, app):
    """The first registered is outermost; what it returns is the answer."""
    seen = []

    @app.middleware
    async def outer(ctx, incoming, proceed):
        seen.append("outer")
        return [await proceed(ctx, incoming)]

    @app.middleware
    async def inner(ctx, incoming, proceed):
        seen.append("inner")
        return await proceed(ctx, incoming)

    @app.on_request("q")
    async def q(ctx, request):
        seen.append("handler")
        return 1

    world.request("alice", "q")
    await world.clock.advance(1)
    assert seen == ["outer", "inner", "handler"]
    assert world.replies()[0]["data"] == [1]


async def test_join_and_leave_are_outputs(world, app):
    """Membership goes to the group's own partition, when the handler returns."""

    @app.on("invite")
    async def invite(ctx, message):
        ctx.join("7", "bob")
        ctx.leave("group:7", "eve")

    world.send("alice", 1, "user:alice", "invite")
    await world.clock.advance(1)
    members = world.outbound(records.Member)
    assert [(m.channel, m.user, m.joined) for m in members] == [
        ("group:7", "bob", True),
        ("group:7", "eve", False),
    ]
    assert len({m.key for m in members}) == 2


async def test_a_handler_reads_presence_and_history(world, app):
    """inv 6: sessions of dead incarnations are not online; history is oldest first."""
    from holdfast.channel import partition_of
    from holdfast.log.port import Change, NodeUpdate, SessionInfo

    shard = partition_of("user:bob", 4)
    for number, node in enumerate(("living", "dead")):
        info = SessionInfo(f"s{number}", node, "web", 5)
        await world.log.update(shard, NodeUpdate(node, 1, [Change("+s", "bob", info)]))
    world.dead.add("dead")
    for n in range(5):
        world.send("carol", n, "room:r", "text", n)
    await world.clock.advance(1)
    await world.apply()

    @app.on_request("look")
    async def look(ctx, request):
        online = await ctx.presence("bob")
        newest = await ctx.history("room:r", limit=2)
        older = await ctx.history("room:r", after=1, before=4)
        return [
            [session.session for session in online],
            [m.data for m in newest],
            [m.seq for m in older],
            await ctx.may_send("group:secret"),
        ]

    world.request("alice", "look")
    await world.clock.advance(1)
    assert world.replies()[0]["data"] == [["s0"], [3, 4], [2, 3], False]


async def test_may_send_honours_the_token_s_grant(world, app):
    """What a token grants for the message's own channel is allowed to a handler's check too, and no more."""

    @app.on("check")
    async def check(ctx, message):
        ctx.publish("room:r", "checked", [await ctx.may_send(), await ctx.may_send("group:other")])

    world.send("alice", 1, "group:g", "check", granted=True)
    world.send("alice", 2, "group:g", "check")
    await world.clock.advance(1)
    assert [m["data"] for m in world.messages()] == [[True, False], [False, False]]
