"""A crowd's work is cut into turns of the loop: counted in steps, whatever they take."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.clock import ManualClock
from holdfast.observe.metrics import Metrics
from services.access.driver import Driver
from services.access.routes import MAX_CHANGES, TURN_CHANGES
from services.access.turns import STEPS, Turns
from tests.access.test_bounds import session
from tests.access.world import PARTITIONS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.access.world import Client

CROWD = 60
FEW = 7


def turns() -> tuple[Turns, Metrics]:
    metrics = Metrics()
    return Turns(ManualClock(), metrics), metrics


class Counted:
    """Counts calls of a method; `most` is the highest count in one turn of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: type, name: str) -> None:
        self.count = self.most = 0
        original = getattr(of, name)

        def call(*arguments: Any) -> Any:
            self.count += 1
            return original(*arguments)

        monkeypatch.setattr(of, name, call)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(5000):
            before = self.count
            await asyncio.sleep(0)
            self.most = max(self.most, self.count - before)
            if condition():
                return
        raise AssertionError("not in time")


async def few(world: World) -> None:
    """Let turns have few steps from now on."""
    world.node.turns.steps = FEW
    while world.node.turns.take():
        pass
    for _ in range(3):
        await asyncio.sleep(0)


async def crowd_in(world: World) -> list[Client]:
    return [await world.join(f"u{number}") for number in range(CROWD)]


async def test_a_turn_has_so_many_steps() -> None:
    """inv 7: what is above the steps of a turn waits, in order; then the first comes at once again."""
    shared, _ = turns()
    done: list[int] = []
    for number in range(3 * STEPS):
        shared.do(done.append, number)
    counts = [len(done)]
    while not shared.idle:
        assert not shared.take(), "nobody goes past those who wait"
        await asyncio.sleep(0)
        counts.append(len(done))
    assert counts == [STEPS, 2 * STEPS, 3 * STEPS]
    assert done == list(range(3 * STEPS))
    await asyncio.sleep(0)
    shared.do(done.append, -1)
    assert done[-1] == -1


async def test_a_step_that_fails_holds_up_nobody() -> None:
    """inv 7: an exception in a step that waited is counted, and those behind it have their turn."""
    shared, metrics = turns()
    done: list[int] = []
    while shared.take():
        pass
    shared.do(int, "no number")
    shared.do(done.append, 1)
    await asyncio.sleep(0)
    assert done == [1]
    assert metrics.registry.get_sample_value("holdfast_loop_failures_total", {"loop": "turns"}) == 1


async def test_the_end_waits_for_no_turn() -> None:
    """At the end all that waits is done."""
    shared, _ = turns()
    done: list[int] = []
    for number in range(2 * STEPS):
        shared.do(done.append, number)
    shared.finish()
    assert shared.idle
    assert done == list(range(2 * STEPS))


@pytest.mark.parametrize("hung_up", [False, True], ids=["reset", "hung up"])
async def test_a_crowd_that_is_cut_off_is_let_go_in_turns(
    hung_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inv 7: ends of connections that come at once are taken a few in a turn, and each is told of."""
    async with World() as world:
        clients = await crowd_in(world)
        await world.clock.advance(1.0)
        await few(world)
        counted = Counted(monkeypatch, Driver, "_gone")
        for driver in list(world.node.drivers.values()):
            if hung_up:
                if not driver.eof_received():
                    driver.transport.close()
            else:
                driver.transport.abort()
        await counted.until(lambda: not world.node.drivers)
        assert 0 < counted.most <= FEW
        await world.clock.advance(1.0)
        assert sorted(user for user, kind, _ in world.events() if kind == "disconnect") == sorted(
            f"u{number}" for number in range(CROWD)
        )
        assert world.node.roster.count == world.node.subscriptions == len(world.node.registry) == 0
        assert all(client.lost for client in clients)


async def test_nobody_writes_to_who_is_cut_off_and_waits_for_its_turn() -> None:
    """inv 7: a message to somebody whose socket is gone is no reason to put it aside, nor an error."""
    async with World() as world:
        bob = await world.join("bob")
        (driver,) = world.node.drivers.values()
        while world.node.turns.take():
            pass
        driver.transport.abort()
        driver.connection_lost(None)
        assert driver.ended
        await world.publish("user:bob", "1")
        assert not world.node.drivers
        assert world.value("access_put_aside") == 0
        assert bob.seqs("user:bob") == []


async def test_small_reads_of_a_crowd_are_taken_in_turns_and_in_order() -> None:
    """inv 7: reads above the steps of a turn are put off; each connection's are taken in their order."""
    async with World() as world:
        clients = await crowd_in(world)
        await few(world)
        for n in (1, 2, 3):
            for driver in world.node.drivers.values():
                frame = {"t": "send", "id": n, "n": n, "to": "room:x", "type": "t", "data": n}
                payload = json.dumps(frame).encode()
                driver.data_received(len(payload).to_bytes(4, "big") + payload)
        await world.clock.advance(1.0)
        assert world.value("access_reads_put_off") > 0
        for number, client in enumerate(clients):
            assert [frame["id"] for frame in client.take("ack")] == [1, 2, 3]
            assert [n for user, n in world.sends() if user == f"u{number}"] == [1, 2, 3]


async def test_what_was_said_before_hanging_up_is_taken() -> None:
    """A client may send and go at once: what was put off is taken before its end."""
    async with World() as world:
        await world.join("bob")
        (driver,) = world.node.drivers.values()
        while world.node.turns.take():
            pass
        payload = b'{"t":"send","id":1,"n":1,"to":"room:x","type":"t","data":1}'
        driver.data_received(len(payload).to_bytes(4, "big") + payload)
        assert driver.eof_received(), "it closes in its turn"
        await world.clock.advance(1.0)
        assert world.sends() == [("bob", 1)]
        assert not world.node.drivers


async def test_answers_of_the_log_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: of a storm's connects, whose answers come together, a few are completed in a turn."""
    async with World() as world:
        clients = [await world.open(tcp=True) for _ in range(CROWD)]
        world.log.hold_reads = asyncio.Event()
        for number, client in enumerate(clients):
            client.send(t="connect", token=world.token(f"u{number}"))
        await world.clock.advance(1.0)
        await few(world)
        counted = Counted(monkeypatch, type(world.node.roster), "connected")
        world.log.hold_reads.set()
        await counted.until(lambda: world.node.roster.count == CROWD)
        assert 0 < counted.most <= FEW


async def test_a_round_of_updates_is_bounded() -> None:
    """inv 7: what one turn packs for the log is bounded, over all shards; a shard's calls lose nothing."""
    async with World(settle=200) as world:
        world.log.updates.clear()
        world.log.gate = asyncio.Event()
        count = MAX_CHANGES + 10
        for shard in range(PARTITIONS):
            channels = (f"room:{number}" for number in range(count * PARTITIONS * 2))
            names = (name for name in channels if world.node.registry.shard_of(name) == shard)
            for _ in range(count):
                world.node.registry.enter(next(names))
        begun = [0]
        for _ in range(50):
            await asyncio.sleep(0)
            begun.append(sum(len(update.changes) for update in world.log.updates))
        assert max(b - a for a, b in itertools.pairwise(begun)) < TURN_CHANGES + MAX_CHANGES
        assert len(world.log.updates) == PARTITIONS
        world.log.gate.set()
        await world.clock.advance(1.0)
        shards = [channel for channel in world.node.registry._channels.values() if not channel.routed]
        assert shards == []


async def test_cursors_of_a_second_are_written_in_turns() -> None:
    """inv 7: cursors go into the queue a few in a turn, the last ones when the node ends at the latest."""
    async with World() as world:
        await few(world)
        produce = world.node.produce
        for number in range(CROWD):
            produce.cursor("room:x", session(f"u{number}"), 1, "e")
        await asyncio.sleep(0)
        produce.tick()
        assert len(world.cursors()) <= FEW
        await world.clock.settle()
        assert len(world.cursors()) == CROWD
