"""Shedding a surplus after a scale-out, and draining at a rate that fits the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.membership.port import Node
from services.access.rebalance import STEADY_SECONDS
from tests.access.world import World

if TYPE_CHECKING:
    from tests.access.world import Client


async def others(world: World, seconds: float, load: int, *names: str, weight: int = 100) -> None:
    """Let time pass, with other nodes that have so many connections each."""
    for name in names:
        world.registry.put(Node(name, name, "access", weight=weight))
    for _ in range(int(seconds)):
        for name in names:
            await world.log.beat(0, name, load=load)
        await world.clock.advance(1.0)


def asked(clients: list[Client]) -> list[Client]:
    return [client for client in clients if client.take("drain")]


async def test_a_surplus_is_shed_slowly() -> None:
    """inv 10: what is above the average is asked to go at the set rate, once it has lasted; then no more."""
    async with World(rebalance_rate=5) as world:
        clients = [await world.join(f"u{number}") for number in range(80)]
        await others(world, STEADY_SECONDS - 1, 0, "new")
        assert asked(clients) == []
        await others(world, 4, 0, "new")
        assert 5 <= len(asked(clients)) <= 20
        await others(world, 8, 0, "new")
        assert len(asked(clients)) == 40, "those who were asked count as gone"
        for client in asked(clients):
            client.send(t="send", id=1, n=1, to="user:x", type="t")
            await client.got("ack", id=1)
            client.transport.close()
        await others(world, 30, 40, "new")
        assert len(asked(clients)) == 40
        assert world.value("access_shed", why="rebalance") == 40
        assert world.node.problems() == []


async def test_who_stays_is_closed() -> None:
    """A client that does not go is closed in the end, with the code that says "come back"."""
    async with World(rebalance_rate=50) as world:
        clients = [await world.join(f"u{number}") for number in range(60)]
        await others(world, STEADY_SECONDS + 2, 0, "new")
        assert len(asked(clients)) == 30
        await others(world, 12, 30, "new")
        assert all(client.frames[-1]["code"] == "draining" for client in asked(clients)[:30])
        assert sum(client.lost for client in clients) == 30


@pytest.mark.parametrize(
    ("rate", "load", "weight"),
    [(0, 0, 100), (50, 45, 100), (50, 0, 1)],
    ids=["switched off", "within the tolerance", "the other one is meant to have less"],
)
async def test_nobody_is_shed(rate: int, load: int, weight: int) -> None:
    """Without a surplus, or with the switch off, all stay."""
    async with World(rebalance_rate=rate) as world:
        clients = [await world.join(f"u{number}") for number in range(60)]
        await others(world, STEADY_SECONDS * 2, load, "new", weight=weight)
        assert asked(clients) == []


async def test_alone_nothing_is_shed() -> None:
    """A node that knows of no other keeps its clients; so does one whose peers leave, or are not heard of."""
    async with World(rebalance_rate=50) as world:
        clients = [await world.join(f"u{number}") for number in range(60)]
        await world.clock.advance(STEADY_SECONDS * 2)
        world.registry.put(Node("leaving", "leaving", "access", draining=True))
        world.registry.put(Node("silent", "silent", "access"))
        await world.log.beat(0, "leaving", load=0)
        await world.clock.advance(STEADY_SECONDS * 2)
        assert asked(clients) == []


async def test_a_drain_fits_its_time() -> None:
    """inv 10: where the set rate is too low for the time, all are asked all the same, spread over it."""
    async with World(drain_rate=1) as world:
        clients = [await world.join(f"u{number}") for number in range(60)]
        world.node.drain()
        await world.clock.advance(2.8)
        assert 20 <= len(asked(clients)) <= 40
        await world.clock.advance(3.2)
        assert len(asked(clients)) == 60
        assert not any(client.lost for client in clients)
