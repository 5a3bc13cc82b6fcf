"""The client against a model of the server: what is lost, repeated or refused on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.client import Closed, Message, OutcomeUnknown, Reject
from holdfast.protocol.codes import CODES
from tests.client.world import World

STEP = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(["room:a", "user:ann"])),
    st.tuples(st.just("publish"), st.sampled_from(["room:a", "user:ann"])),
    st.tuples(st.sampled_from(["drop", "mute", "twice", "once", "fail", "request"]), st.just("")),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 5.0])),
)


@given(steps=st.lists(STEP, max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_send_completes_once_and_each_message_is_seen_once_in_order(
    steps: list[tuple[str, Any]],
) -> None:
    """Whatever is dropped, muted, doubled or refused, each appears once and in order (inv 4, 12)."""

    async def run() -> None:
        async with World() as world:
            server = world.server
            world.watch()
            await world.client.connect()
            await world.client.subscribe("room:a")
            sent: list[int] = []
            for count, (what, which) in enumerate(steps):
                match what:
                    case "send":
                        world.start(world.client.send(which, "t", {"sent": count}))
                        sent.append(count)
                    case "publish":
                        server.publish(which, {"published": count})
                    case "drop":
                        server.drop()
                        server.mute = False
                    case "mute":  # everything is taken in, no answer leaves: acks are lost with the next drop
                        server.mute = True
                    case "twice" | "once":
                        server.twice = what == "twice"
                    case "fail":
                        server.fail += 1
                    case "request":
                        world.start(world.client.request("q", timeout=1000.0))
                    case "wait":
                        await world.clock.advance(which)
                await world.clock.settle()
            server.drop()
            server.mute = server.twice = False
            await world.clock.advance(120.0)
            done = await asyncio.gather(*world.tasks)
            assert len(done) == len(world.tasks)
            for channel in ("room:a", "user:ann"):
                assert world.data(channel) == server.data(channel)
            appeared = [item["sent"] for name in server.logs for item in server.data(name) if "sent" in item]
            assert sorted(appeared) == sent
            for channel in server.logs:
                mine = [item["sent"] for item in server.data(channel) if "sent" in item]
                assert mine == sorted(mine)

    asyncio.run(run())


async def test_send_survives_a_reconnect_under_the_same_n() -> None:
    """A send without an ack is repeated with the same n on the next connection (inv 12)."""
    async with World() as world:
        await world.client.connect()
        world.server.mute = True
        task = world.start(world.client.send("user:bob", "t", 1))
        await world.clock.settle()
        assert world.server.data("user:bob") == [1]
        world.server.drop()
        world.server.mute = False
        await world.clock.advance(1.0)
        assert (await task) == world.server.known[("c1", 1)]
        assert world.server.data("user:bob") == [1]
        assert [frame["n"] for frame in world.server.received if frame["t"] == "send"] == [1, 1]


async def test_in_flight_is_bounded() -> None:
    """No more sends than limits.in_flight are on their way at once (inv 7)."""
    async with World() as world:
        await world.client.connect()
        world.server.mute = True
        for number in range(30):
            world.start(world.client.send("user:bob", "t", number))
        await world.clock.settle()
        assert len([frame for frame in world.server.received if frame["t"] == "send"]) == 8
        world.server.drop()
        world.server.mute = False
        await world.clock.advance(1.0)
        await asyncio.gather(*world.tasks)
        assert world.server.data("user:bob") == list(range(30))


async def test_a_refused_send_is_an_error_and_later_ones_go_on() -> None:
    """An error that is not to be retried is raised as Reject with its code, and the next send is acked."""
    async with World() as world:
        await world.client.connect()
        with pytest.raises(Reject) as caught:
            await world.client.send("user:bob", "forbidden", 1)
        assert caught.value.code == "forbidden"
        assert await world.client.send("user:bob", "t", 2)


async def test_a_frame_above_the_limit_is_refused_here() -> None:
    """A send that the server would close for is refused by the client, and uses up no n."""
    async with World() as world:
        await world.client.connect()
        with pytest.raises(Reject) as caught:
            await world.client.send("user:bob", "t", "x" * 70_000)
        assert caught.value.code == "too_large"
        await world.client.send("user:bob", "t", 1)
        assert [frame["n"] for frame in world.server.received if frame["t"] == "send"] == [1]


async def test_unacked_for_longer_than_resend_is_unknown() -> None:
    """What is unacked for longer than limits.resend is unknown and not sent again; later ones are."""
    async with World() as world:
        await world.client.connect()
        world.server.deaf = True
        first = world.start(world.client.send("user:bob", "t", 1))
        await world.clock.advance(100.0)
        second = world.start(world.client.send("user:bob", "t", 2))
        await world.clock.advance(180.0)
        with pytest.raises(OutcomeUnknown):
            await first
        world.server.deaf = False
        await world.clock.advance(60.0)
        assert await second
        assert world.server.data("user:bob") == [2]


async def test_reset_is_told_when_the_position_is_not_recovered() -> None:
    """`recovered` false for a position that was given is a reset, and delivery goes on there (inv 4)."""
    async with World(resume={"room:a": _position("gone", 7)}) as world:
        world.watch()
        world.server.publish("room:a", "before")
        await world.client.connect()
        world.server.publish("room:a", "after")
        await world.clock.settle()
        assert [(name, value.seq) for name, value in world.events if name == "reset"] == [("reset", 1)]
        assert world.data("room:a") == ["after"]


async def test_a_gap_is_never_presented() -> None:
    """A message after a gap is not presented; the client reads the log again by resuming (inv 4)."""
    async with World() as world:
        world.watch()
        await world.client.connect()
        world.server.mute = True
        world.server.publish("user:ann", 1)
        world.server.mute = False
        world.server.publish("user:ann", 2)
        await world.clock.advance(1.0)
        assert world.data("user:ann") == [1, 2]
        assert len(world.server.connects) == 2


async def test_iteration_pauses_reading_at_the_bound() -> None:
    """At the bound of its queue the client stops reading, and goes on when there is room (inv 7)."""
    async with World(queue=10) as world:
        await world.client.connect()
        messages = world.client.messages()
        world.server.publish("user:ann", 0)
        assert (await anext(messages)).data == 0
        for number in range(1, 200):
            world.server.publish("user:ann", number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        waiting = world.server.lines[0].transport.get_write_buffer_size()
        assert waiting > 0
        got = [(await anext(messages)).data for _ in range(199)]
        assert got == list(range(1, 200))


async def test_a_handler_that_sends_does_not_deadlock_at_the_bound() -> None:
    """While an answer is awaited reading goes on; what finds no room is read again later (inv 7)."""
    async with World(queue=5) as world:
        seen: list[int] = []

        @world.client.on("message")
        async def echo(message: Message) -> None:
            await world.client.send("user:bob", "echo", message.data)
            seen.append(message.data)

        await world.client.connect()
        for number in range(100):
            world.server.publish("user:ann", number)
            if number % 10 == 0:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await world.clock.advance(60.0)
        assert world.client._state.shed > 0
        assert seen == list(range(100))
        assert world.server.data("user:bob") == list(range(100))


async def test_a_client_that_only_sends_discards_what_it_never_asked_for() -> None:
    """Without handler and iterator messages are discarded at the bound, and counted (inv 7)."""
    async with World(queue=10) as world:
        await world.client.connect()
        for number in range(50):
            world.server.publish("user:ann", number)
        await world.clock.settle()
        assert await world.client.send("user:bob", "t", 1)
        assert world.client.discarded == 40


async def test_positions_are_those_of_what_was_taken() -> None:
    """`positions` names what the program has taken, not what waits, so that a restart misses nothing."""
    async with World() as world:
        await world.client.connect()
        for number in range(5):
            world.server.publish("user:ann", number)
        await world.clock.settle()
        messages = world.client.messages()
        await anext(messages)
        await anext(messages)
        assert world.client.positions()["user:ann"].seq == 2


async def test_a_handler_that_fails_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a handler is logged, and the next message is handled."""
    async with World() as world:
        world.watch()
        world.client.on("message")(lambda message: 1 / message.data)
        await world.client.connect()
        world.server.publish("user:ann", 0)
        world.server.publish("user:ann", 1)
        await world.clock.settle()
        assert world.data("user:ann") == [0, 1]
        assert "handler" in caplog.text


async def test_subscriptions_are_told_again_and_left() -> None:
    """What was subscribed is in `resume`, what was left is not."""
    async with World() as world:
        await world.client.connect()
        await world.client.subscribe("room:a")
        await world.client.subscribe("room:b")
        await world.client.unsubscribe("room:b")
        world.server.drop()
        await world.clock.advance(1.0)
        assert set(world.server.connects[-1]["resume"]) == {"user:ann", "room:a"}


async def test_a_cursor_is_repeated_on_the_next_connection() -> None:
    """The latest cursor of a channel is told again after a reconnect, since no answer confirms it."""
    async with World() as world:
        await world.client.connect()
        world.client.cursor("user:ann", 3)
        world.client.cursor("user:ann", 2)
        await world.clock.settle()
        world.server.drop()
        await world.clock.advance(1.0)
        seqs = [frame["seq"] for frame in world.server.received if frame["t"] == "cursor"]
        assert seqs == [3, 3]


async def test_who_gives_up_while_it_comes_back_says_so_last() -> None:
    """A client that is refused for good, having said that it comes back, tells a last `disconnected`."""
    async with World() as world:
        world.watch()
        await world.client.connect()
        world.server.refuse = ("unauthorized", CODES["unauthorized"].close or 0)
        world.server.drop()
        await world.clock.advance(10.0)
        ends = [value for name, value in world.events if name == "disconnected"]
        assert [end.again for end in ends] == [True, False]
        assert world.events[-1] == ("disconnected", ends[-1]), "nothing comes after it"
        assert (ends[-1].code, ends[-1].reason) == (CODES["unauthorized"].close, "unauthorized: no")
        with pytest.raises(Closed, match="unauthorized"):
            await world.client.send("user:ann", "t", 1)


async def test_who_is_refused_at_once_says_so_once() -> None:
    """A first connect that is refused raises, and tells one `disconnected`; the next connect begins anew."""
    async with World() as world:
        world.watch()
        world.server.refuse = ("unauthorized", CODES["unauthorized"].close or 0)
        with pytest.raises(Closed, match="unauthorized"):
            await world.client.connect()
        await world.clock.settle()
        assert [value.again for name, value in world.events if name == "disconnected"] == [False]
        world.server.refuse = None
        await world.client.connect()
        world.server.drop()
        await world.clock.advance(10.0)
        assert [value.again for name, value in world.events if name == "disconnected"] == [False, True]


async def test_who_is_closed_by_its_program_tells_no_end() -> None:
    """`close` is the program's own doing: no `disconnected` follows it."""
    async with World() as world:
        world.watch()
        await world.client.connect()
        await world.client.close()
        await world.clock.settle()
        assert "disconnected" not in [name for name, _ in world.events]


async def test_an_endpoint_that_is_none_does_not_end_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a drain frame names, the client comes back to the address that it has."""
    async with World() as world:
        world.watch()
        await world.client.connect()
        world.server.lines[-1].put({"t": "drain", "after": 0.1, "endpoint": "nonsense://[", "reason": "x"})
        await world.clock.advance(10.0)
        assert [name for name, _ in world.events].count("connected") == 2
        assert "connecting failed" in caplog.text


def _position(epoch: str, seq: int) -> Any:
    from holdfast.client import Position

    return Position(epoch, seq)
