"""When the client comes back, when it does not, and its tokens."""

from __future__ import annotations

import base64
import json
from random import Random

import pytest

from holdfast.client import Closed, Retry
from holdfast.client.connection import End
from holdfast.client.reconnect import LONGEST, Reconnect
from holdfast.clock import ManualClock
from tests.client.world import World


async def test_close_code_in_an_error_frame_is_obeyed() -> None:
    """4104 in an error frame ends the client with an exception that names it."""
    async with World() as world:
        world.watch()
        await world.client.connect()
        world.server.lines[0].end("disconnected", 4104, "bye")
        await world.clock.advance(60.0)
        assert len(world.server.connects) == 1
        with pytest.raises(Closed, match="bye"):
            await world.client.send("user:bob", "t", 1)
        assert [name for name, _ in world.events] == ["connected", "error", "disconnected"]
        await world.client.connect()
        assert await world.client.send("user:bob", "t", 1)


@pytest.mark.parametrize(("code", "comes_back"), [(4000, True), (4002, True), (4100, False), (4103, False)])
async def test_close_codes_say_whether_to_come_back(code: int, comes_back: bool) -> None:
    """4000-4099 come back, 4100-4199 do not."""
    async with World() as world:
        await world.client.connect()
        world.server.lines[0].end("some", code, "m")
        await world.clock.advance(60.0)
        assert len(world.server.connects) == (2 if comes_back else 1)


async def test_who_is_told_when_to_come_back_waits_for_that_long() -> None:
    """Seconds in a closing error's `retry` are obeyed, with a little jitter, and up to a bound."""
    async with World() as world:
        await world.client.connect()
        line = world.server.lines[0]
        line.put({"t": "error", "code": "overloaded", "message": "m", "retry": 40.0, "close": 4003})
        line.transport.close()
        await world.clock.advance(39.0)
        assert len(world.server.connects) == 1
        await world.clock.advance(6.0)
        assert len(world.server.connects) == 2
        end = End(0, "HTTP 503", again=True, after=1e9)
        waits = [
            Reconnect(Random(seed), 0.5, 30.0, False).verdict(end, now=0.0, lived=None) for seed in range(9)
        ]
        assert all(isinstance(wait, float) and LONGEST <= wait <= 1.1 * LONGEST for wait in waits)


async def test_superseded_by_another_client_stays_away() -> None:
    """A first connection that is superseded does not come back: another client has the same id (inv 12)."""
    async with World() as world:
        await world.client.connect()
        world.server.lines[0].end("superseded", 4005, "m")
        await world.clock.advance(60.0)
        assert len(world.server.connects) == 1


async def test_superseded_by_an_own_older_attempt_comes_back_a_few_times() -> None:
    """The newest connection comes back when an older attempt of its own superseded it, but not for ever."""
    async with World() as world:
        await world.client.connect()
        world.server.drop()
        await world.clock.advance(3.0)
        for _ in range(6):
            if world.server.lines:
                world.server.lines[0].end("superseded", 4005, "m")
            await world.clock.advance(31.0)
        assert len(world.server.connects) == 2 + 3


async def test_drain_connects_anew_without_losing_messages() -> None:
    """A `drain` frame is obeyed after its wait, with jitter, and nothing is missed (inv 10)."""
    async with World() as world:
        world.watch()
        await world.client.connect()
        world.server.lines[0].put({"t": "drain", "after": 10.0})
        await world.clock.advance(9.9)
        assert len(world.server.connects) == 1
        world.server.publish("user:ann", 1)
        await world.clock.advance(1.2)
        assert len(world.server.connects) == 2
        world.server.publish("user:ann", 2)
        await world.clock.settle()
        assert world.data("user:ann") == [1, 2]


async def test_silence_is_noticed() -> None:
    """A server that says nothing is pinged after a heartbeat, and given up after two."""
    async with World() as world:
        await world.client.connect()
        world.server.deaf = True
        await world.clock.advance(49.0)
        assert len(world.server.lines) == 1
        world.server.deaf = False
        await world.clock.advance(60.0)
        assert len(world.server.connects) == 2
        assert {"t": "ping"} in world.server.received


async def test_connect_gives_up_in_time() -> None:
    """`connect` raises Retry with the last reason when nobody answers."""
    async with World() as world:
        world.server.stop()
        task = world.start(world.client.connect(timeout=20.0))
        await world.clock.advance(21.0)
        with pytest.raises(Retry, match="nobody listens"):
            await task


async def test_token_is_refreshed_before_it_ends() -> None:
    """A callable is asked for the next token before the old one ends, and its token is sent as `refresh`."""
    calls: list[str] = []
    clock = ManualClock()
    async with World(clock, token=lambda: _jwt(clock, calls)) as world:
        await world.client.connect()
        assert len(calls) == 1
        await world.clock.advance(85.0)
        frames = [frame for frame in world.server.received if frame["t"] == "refresh"]
        assert len(calls) == 2
        assert [frame["token"] for frame in frames] == calls[1:]


async def test_an_expired_token_is_replaced_once() -> None:
    """`unauthorized` is tried once more with a fresh token from the callable, then it is final."""
    calls: list[str] = []
    clock = ManualClock()
    async with World(clock, token=lambda: _jwt(clock, calls)) as world:
        await world.client.connect()
        for _ in range(3):
            if world.server.lines:
                world.server.lines[0].end("unauthorized", 4103, "m")
            await world.clock.advance(2.0)
        assert len(world.server.connects) == 2


def _jwt(clock: ManualClock, calls: list[str]) -> str:
    claims = {"exp": clock.now_ms() / 1000 + 100, "number": len(calls)}
    token = f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"
    calls.append(token)
    return token
