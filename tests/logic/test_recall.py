"""Session events across a move of their partition: each is told once, and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.app import App
from holdfast.errors import Retry
from services.logic import recall
from tests.logic.world import World

if TYPE_CHECKING:
    import pytest


def watching(told: list[tuple[str, str]]) -> App:
    app = App()

    @app.on_connect
    async def connected(ctx, session):
        told.append(("connect", session.id))

    @app.on_disconnect
    async def disconnected(ctx, session):
        told.append(("disconnect", session.id))

    return app


async def moved(world: World) -> None:
    """End one worker and start another: whatever the first one remembered is gone."""
    for worker in world.workers:
        await worker.stop()
    world.workers.clear()
    await world.start()
    await world.clock.advance(2)


async def test_what_was_told_is_not_told_again_after_a_move():
    """A repeated event, or a connect after its disconnect, is ignored by the next worker too."""
    told: list[tuple[str, str]] = []
    world = World(watching(told))
    await world.start()
    world.event("alice", "connect", "s1")
    world.event("alice", "disconnect", "s1")
    world.event("alice", "disconnect", "s2")
    await world.clock.advance(3)
    before = list(told)
    assert before == [("connect", "s1"), ("disconnect", "s1"), ("disconnect", "s2")]
    await moved(world)
    world.event("alice", "connect", "s2")
    world.event("alice", "disconnect", "s1")
    world.event("alice", "connect", "s3")
    await world.clock.advance(3)
    assert told == [*before, ("connect", "s3")]
    await world.stop()


async def test_what_was_not_handled_before_the_move_is_handled_after_it():
    """inv 2: reading back takes nothing for handled that comes after the commit."""
    told: list[tuple[str, str]] = []
    world = World(watching(told))
    world.event("alice", "disconnect", "s1")
    await world.start()
    await world.clock.advance(3)
    for worker in world.workers:
        await worker.stop()
    world.workers.clear()
    world.event("alice", "connect", "s2")
    world.event("alice", "disconnect", "s2")
    await world.start()
    await world.clock.advance(3)
    assert told == [("disconnect", "s1"), ("connect", "s2"), ("disconnect", "s2")]
    await world.stop()


async def test_reading_back_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """inv 7: so many records and no more; poison among them does no harm."""
    monkeypatch.setattr(recall, "BACK_RECORDS", 3)
    told: list[tuple[str, str]] = []
    world = World(watching(told))
    await world.start()
    world.event("alice", "disconnect", "s1")
    world.raw("alice", b"poison")
    world.event("alice", "disconnect", "s2")
    world.event("alice", "disconnect", "s3")
    await world.clock.advance(3)
    await moved(world)
    for session in ("s1", "s2", "s3"):
        world.event("alice", "disconnect", session)
    await world.clock.advance(3)
    assert [session for _, session in told] == ["s1", "s2", "s3", "s1"]
    await world.stop()


async def test_a_bus_that_is_away_holds_nothing_up(monkeypatch: pytest.MonkeyPatch):
    """What cannot be read back is done without: records go on being handled, none is lost."""
    told: list[tuple[str, str]] = []
    world = World(watching(told))

    async def away(self: object, topic: str, partition: int, ts: int) -> int:
        raise Retry("away")

    monkeypatch.setattr("holdfast.bus.memory.MemoryBus.offset_at", away)
    world.event("alice", "connect", "s1")
    await world.start()
    await world.clock.advance(3)
    assert told == [("connect", "s1")]
    await world.stop()
