"""`holdfast inspect`, on memory: each place where a message can be on its way."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.memory import MemoryBus
from holdfast.commands import inspect_message as command
from holdfast.deadletters import DeadLetters
from holdfast.errors import Reject


def steps(found):
    return [(one["step"], one["state"]) for one in found["steps"]]


WHOLE = [
    ("inbound", "written"),
    ("logic", "handled"),
    ("outbound", "written"),
    ("dispatch", "applied"),
    ("log", "kept"),
]


async def test_a_message_that_arrived(operator):
    """The whole way with places, even before logic has committed; narrowed to its partitions, the same."""
    ann = await operator.cluster.connect("ann")
    name = await ann.send("room:r", "plain", {"text": "\x1b[31m"})
    await operator.cluster.settle()
    found = await operator.json(command.show, message=name)
    assert steps(found) == WHOLE
    assert found["verdict"].startswith("It is in room:r, seq 1: every subscriber")
    assert steps(await operator.json(command.show, message=name, user="ann", channel="room:r")) == WHOLE
    status, text = await operator.run(command.show, message=name)
    assert status == 0
    assert "from ann, client" in text
    assert text.replace("\n", "").isprintable()


async def test_what_a_handler_made_of_it(operator):
    """By the sent id what came of it is found, and by the id of that, where it came from."""
    ann = await operator.cluster.connect("ann")
    name = await ann.send("room:r", "count", "four")
    await operator.cluster.settle()
    found = await operator.json(command.show, message=name)
    assert steps(found) == WHOLE
    assert found["steps"][-1]["where"] == "room:counts, seq 1"
    made = found["steps"][2]["detail"].rpartition(" ")[2]
    assert made != name
    assert steps(await operator.json(command.show, message=made)) == WHOLE


async def test_what_the_api_published(operator):
    """It was never in inbound."""
    name = await operator.cluster.publish("room:r", "t", 1)
    await operator.cluster.settle()
    assert steps(await operator.json(command.show, message=name)) == WHOLE[2:]


async def test_one_that_waits_for_logic(operator):
    """While its handler runs, it is in Kafka and waits."""
    ann = await operator.cluster.connect("ann")
    await ann.send("room:r", "plain", 1)
    await operator.cluster.advance(2)
    name = await ann.send("room:r", "slow", 1)
    found = await operator.json(command.show, message=name)
    assert steps(found) == [("inbound", "written"), ("logic", "waits for logic")]
    assert "logic has not handled it yet" in found["verdict"]
    await operator.cluster.advance(6)
    assert steps(await operator.json(command.show, message=name)) == WHOLE


async def test_one_that_waits_for_dispatch(operator):
    """With dispatch gone it is in outbound, and how many are before it is told."""
    for service in operator.cluster.embedded.dispatch:
        stopping = asyncio.ensure_future(service.stop())
        while not stopping.done():
            await operator.cluster.advance(0.1)
    operator.cluster.embedded.dispatch.clear()
    ann = await operator.cluster.connect("ann")
    name = await ann.send("room:r", "plain", 1)
    found = await operator.json(command.show, message=name)
    assert steps(found)[-1] == ("dispatch", "waits for dispatch")
    assert "nobody owns it" in found["steps"][-1]["detail"]


async def test_a_dead_letter_and_its_retry(operator):
    """What failed is found with its reason; handled again, it is found in the log."""
    ann = await operator.cluster.connect("ann")
    name = await ann.send("room:r", "fail", 1)
    await operator.cluster.advance(20)
    status, text = await operator.run(command.show, message=name)
    assert status == 0
    assert "It could not be handled. Letter " in text
    assert "`holdfast deadletter show " in text
    assert "\x1b" not in text
    operator.works = True
    bus = MemoryBus(operator.cluster.embedded.broker)
    letters = DeadLetters(bus, operator.cluster.clock)
    producer = await bus.producer(deadline=5.0)
    await letters.retry(await letters.newest(5), producer)
    await producer.close()
    await operator.cluster.advance(2)
    verdict = (await operator.json(command.show, message=name))["verdict"]
    assert verdict.startswith("It is in room:r, seq 1")
    assert "is about it" in verdict


async def test_one_that_nobody_has(operator):
    """Too old, or never there: status 1, and what to look at."""
    name = await operator.cluster.publish("room:r", "t", 1)
    await operator.cluster.advance(100)
    assert (await operator.run(command.show, message=name))[0] == 0
    status, text = await operator.run(command.show, message=name, since=60, channel="room:r")
    assert status == 1
    assert f"has the id {name} with --channel room:r. A message that was acked is in Kafka" in text
    with pytest.raises(Reject, match="too short"):
        await operator.run(command.show, message="a")


async def test_one_that_the_channel_does_not_keep(operator):
    """A message that newer ones have pushed out of the channel's log went through it."""
    name = await operator.cluster.publish("room:r", "t", 1)
    for number in range(operator.cluster.settings.policies()["room"].keep_count + 1):
        await operator.cluster.publish("room:r", "t", number)
    await operator.cluster.settle()
    found = await operator.json(command.show, message=name)
    assert steps(found)[-1] == ("log", "not kept")
    assert "which does not keep it now" in found["verdict"]


async def test_a_message_with_many_traces(operator):
    """inv 7: of a message that went to very many channels 200 are shown, and that there may be more."""
    for number in range(250):
        await operator.cluster.publish(f"room:r{number}", "t", 1, id="everywhere")
    await operator.cluster.settle()
    found = await operator.json(command.show, message="everywhere")
    assert sum(one["step"] == "log" for one in found["steps"]) == 200
    assert "only the first 200 records" in found["verdict"]
