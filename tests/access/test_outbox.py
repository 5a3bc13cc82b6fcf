"""What a connection gets in one turn of the loop: one write, in order, and nothing lost at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast.protocol.frames import Ping
from services.access import outbox
from tests.access.world import World

if TYPE_CHECKING:
    import pytest

    from holdfast.network import MemoryTransport
    from services.access.driver import Driver
    from tests.access.world import Client


PING = Ping()


def driver_of(world: World, client: Client) -> Driver:
    """Return the node's side of a connection."""
    far = client.transport.peer
    assert far is not None
    return cast("Driver", far.protocol)


class Writes:
    """Notes what is written to a connection."""

    def __init__(self, driver: Driver) -> None:
        self.sizes: list[int] = []
        self._transport = transport = cast("MemoryTransport", driver.transport)
        self._write = transport.write
        transport.write = self.write  # type: ignore[method-assign, assignment]

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self._write(data)


async def test_one_turn_is_one_write_in_order() -> None:
    """Answers and messages of two channels that a turn has for one connection go out together, in order."""
    async with World() as world:
        bob = await world.join("bob", resume={"room:1": {"epoch": "", "seq": 0}})
        items = [await world.append(name, name) for name in ("user:bob", "room:1", "user:bob")]
        driver = driver_of(world, bob)
        writes = Writes(driver)
        driver.answer(PING)
        for item in items:
            world.push(item.channel, item)
        driver.answer(PING)
        assert writes.sizes == []
        await world.clock.settle()
        assert len(writes.sizes) <= 2, "the second is for what the fan-out had in its own turn"
        assert [frame["seq"] for frame in bob.frames if frame.get("channel") == "user:bob"] == [1, 2]
        assert [frame["t"] for frame in bob.frames].count("ping") == 2


async def test_what_waits_goes_out_before_the_end() -> None:
    """A connection that is ended in the turn in which it got something gets that, then the reason."""
    async with World() as world:
        bob = await world.join("bob")
        driver = driver_of(world, bob)
        driver.answer(PING)
        driver.end("draining", "bye")
        await bob.gone()
        assert [frame["t"] for frame in bob.frames[-2:]] == ["ping", "error"]
        assert driver.out is None


async def test_what_waits_is_bounded() -> None:
    """inv 7: what one turn has for one connection is written as soon as it is more than 16 KiB."""
    async with World() as world:
        bob = await world.join("bob")
        driver = driver_of(world, bob)
        writes = Writes(driver)
        for _ in range(5):
            world.node.outbox.put(driver, b"x" * (outbox.JOINED // 2))
        assert len(writes.sizes) == 1
        assert driver.out is not None
        assert len(driver.out) <= outbox.JOINED
        driver.out = None  # it was no frame


async def test_a_crowd_is_not_written_to_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is written to in slices; everybody gets everything, in order."""
    async with World() as world:
        crowd = [await world.join(f"u{number}") for number in range(100)]
        drivers = [driver_of(world, client) for client in crowd]
        monkeypatch.setattr(outbox, "SLICE_SECONDS", -1.0)
        monkeypatch.setattr(outbox, "LOOK", 10)
        for driver in drivers:
            driver.answer(PING)
        world.node.outbox._turn()
        assert sum(driver.out is None for driver in drivers) == 10
        drivers[50].answer(PING)
        await world.clock.settle()
        assert all(driver.out is None for driver in drivers)
        assert [frame["t"] for frame in crowd[50].frames].count("ping") == 2
        assert [frame["t"] for frame in crowd[99].frames].count("ping") == 1
