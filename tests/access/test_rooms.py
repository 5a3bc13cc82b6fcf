"""The rate of a room: what is above it is refused before it is acked, hosts last."""

from __future__ import annotations

import pytest

from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.policy import Policy
from services.access import rooms
from services.access.rooms import RoomRates
from tests.access.world import World


def taken(rates: RoomRates, count: int, *, granted: bool = False, channel: str = "room:a") -> int:
    """Return how many of `count` messages are let through."""
    through = 0
    for _ in range(count):
        try:
            rates.take(channel, 20, granted=granted)
            through += 1
        except Retry:
            continue
    return through


async def test_the_rate_and_the_reserve() -> None:
    """inv 7: a crowd gets the rate and no more; who is granted the channel finds room all the same."""
    clock, metrics = ManualClock(), Metrics()
    rates = RoomRates(clock, metrics)
    assert taken(rates, 100) == 15
    assert taken(rates, 100, granted=True) == 5
    assert taken(rates, 1, granted=True) == 0
    through = hosts = 0
    for _ in range(100):
        await clock.advance(0.1)
        through += taken(rates, 10)
        hosts += taken(rates, 1, granted=True)
    assert 190 <= through + hosts <= 205
    assert hosts >= 90
    refused = metrics.access_room_refused
    assert refused.labels("others")._value.get() > 800
    assert taken(rates, 1, channel="room:b") == 1


async def test_what_is_told_is_enough() -> None:
    """Who waits as long as it was told is let through."""
    clock = ManualClock()
    rates = RoomRates(clock, Metrics())
    taken(rates, 100)
    with pytest.raises(Retry) as refused:
        rates.take("room:a", 20, granted=False)
    await clock.advance((refused.value.after or 0) + 0.001)
    rates.take("room:a", 20, granted=False)


async def test_a_rate_below_one_a_second() -> None:
    """A rate so low that a share of it is less than one a second still lets some through."""
    clock = ManualClock()
    rates = RoomRates(clock, Metrics())
    rates.take("room:a", 0.5, granted=False)
    with pytest.raises(Retry):
        rates.take("room:a", 0.5, granted=True)
    await clock.advance(2.01)
    rates.take("room:a", 0.5, granted=False)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: above the bound the channel that was sent to longest ago begins anew."""
    monkeypatch.setattr(rooms, "MAX_CHANNELS", 3)
    metrics = Metrics()
    rates = RoomRates(ManualClock(), metrics)
    for number in range(5):
        taken(rates, 100, channel=f"room:{number}")
    assert len(rates._through) == 3
    assert metrics.access_rooms_forgotten._value.get() == 2
    assert taken(rates, 100, channel="room:0") == 15
    assert taken(rates, 100, channel="room:4") == 0


async def test_a_crowded_room() -> None:
    """inv 7, 11, 12: above a room's rate a send is refused with a time to wait, and goes on from there."""
    async with World() as world:
        world.node.policies["room"] = Policy(rate=20)
        bob = await world.join("bob")
        host = await world.join("host", token=world.token("host", channels=["room:x"]))
        for n in range(1, 41):
            bob.send(t="send", id=n, n=n, to="room:x", type="text", data=n)
        await world.clock.settle()
        errors = bob.take("error")
        assert len(world.sends()) == 15
        assert (errors[0]["id"], errors[0]["code"]) == (16, "unavailable")
        assert 0 < errors[0]["retry"] <= 1
        assert {error["code"] for error in errors[1:]} == {"out_of_order"}
        host.send(t="send", id=1, n=1, to="room:x", type="text", data="quiet, please")
        assert await host.got("ack", id=1)
        await world.clock.advance(1.0)
        bob.send(t="send", id=16, n=16, to="room:x", type="text", data=16)
        assert await bob.got("ack", id=16)
        bob.send(t="send", id=17, n=17, to="user:ann", type="text", data="another channel")
        assert await bob.got("ack", id=17)
        assert world.value("access_room_refused", who="others") == 1
