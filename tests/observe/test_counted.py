"""Metrics that answer an operator's question count what they say."""

from __future__ import annotations

import msgspec
import pytest

from holdfast.errors import Retry
from holdfast.membership.watchers import Known
from holdfast.observe.metrics import Metrics
from holdfast.records import Send, message_id
from services.logic.emit import passed
from tests.access.world import World


async def test_bytes_are_those_of_the_wire() -> None:
    """What a client wrote and what it was sent, frames of the server and fan-outs together."""
    async with World() as world:
        bob = await world.join("bob")
        wrote = 0
        took = bob.data_received

        def taking(data: bytes) -> None:
            nonlocal wrote
            wrote += len(data)
            took(data)

        bob.data_received = taking  # type: ignore[method-assign]
        await world.clock.advance(1.5)
        out, came = world.value("access_bytes_out"), world.value("access_bytes_in")
        wrote = 0
        await world.publish("user:bob", "x" * 1000)
        frame = b'{"t":"ping"}'
        bob.raw(frame)
        await bob.got("pong")
        await world.clock.advance(1.5)
        assert wrote > 1000
        assert world.value("access_bytes_out") - out == wrote
        assert world.value("access_bytes_in") - came == 4 + len(frame)


@pytest.mark.parametrize(("crowd", "counted"), [(3, 0), (70, 2)])
async def test_a_crowd_s_fan_out_is_timed(crowd: int, counted: int) -> None:
    """Each message to more than 64 subscribers is timed until the last of them, and no other."""
    async with World() as world:
        for number in range(crowd):
            client = await world.join(f"u{number}")
            client.send(t="subscribe", id=1, channel="room:a")
            await client.got("subscribed")
        for text in "ab":
            await world.publish("room:a", text)
            await world.clock.settle()
        assert world.value("access_deliveries") == 2 * crowd
        assert world.value("access_fanout_seconds_count") == counted


async def test_the_way_from_send_to_message_is_timed() -> None:
    """A message whose send came 3 s ago counts as 3 s; one that carries no time does not count."""
    async with World() as world:
        await world.join("bob")
        sent = world.clock.now_ms()
        await world.clock.advance(3.0)
        for at in (sent, 0):
            item = msgspec.structs.replace(await world.append("user:bob"), sent=at)
            world.push("user:bob", item)
        await world.clock.settle()
        assert world.value("access_message_seconds_count") == 1
        assert 3.0 <= world.value("access_message_seconds_sum") < 3.3


def test_one_message_in_eight_carries_its_time() -> None:
    """Whoever sends, and however often the same send comes; what is handled again as new carries none."""
    timed = 0
    for number in range(4000):
        user = f"u{number}"
        send = Send(user, "c", 1, message_id(user, "c", 1), "room:a", "t", b"1", 77, "s", "d", "n", 1, 1)
        assert passed(send).sent in (0, 77)
        assert passed(send) == passed(send)
        assert passed(msgspec.structs.replace(send, retry="again")).sent == 0
        timed += passed(send).sent == 77
    assert 400 < timed < 600


def test_calls_to_the_membership_are_timed_or_counted_as_failed() -> None:
    """One that waits for a change is not timed: it takes as long as nothing happens."""
    metrics = Metrics()
    known = Known(metrics)

    def value(name: str, call: str) -> float | None:
        return metrics.registry.get_sample_value(f"holdfast_directory_call_{name}", {"call": call})

    for call in ("pass", "watch", "pass"):
        with known.timed(call):
            pass
    assert value("failed_total", "watch") == 0, "it is there before the first one"
    with pytest.raises(Retry), known.timed("watch"):
        raise Retry("away")
    assert value("seconds_count", "pass") == 2
    assert value("seconds_count", "watch") is None
    assert value("failed_total", "watch") == 1
