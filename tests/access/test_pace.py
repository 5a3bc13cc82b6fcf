"""Rounds: at once for what comes alone, one for many in a crowd."""

from __future__ import annotations

from holdfast.clock import ManualClock
from services.access.pace import CROWD, Pace
from services.access.produce import EVENTS_SECONDS
from services.access.routes import ROUND_SECONDS
from tests.access.world import World


class Work:
    """Counts rounds, each of which does what waits."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.waits = 0
        self.rounds: list[int] = []
        self.pace = Pace(self.clock, 0.01, self.call)

    def call(self) -> int:
        self.rounds.append(self.waits)
        self.waits = 0
        return self.rounds[-1]

    def bring(self, count: int) -> None:
        self.waits += count
        for _ in range(count):
            self.pace.ask()


async def test_what_comes_alone_goes_at_once() -> None:
    """Small rounds follow each other without a pause; what one turn of the loop brought is one round."""
    work = Work()
    for _ in range(3):
        work.bring(CROWD - 1)
        await work.clock.settle()
    assert work.rounds == [CROWD - 1] * 3


async def test_a_crowd_goes_in_rounds() -> None:
    """After a round for many the next waits for its time and takes all that came; then none has to wait."""
    work = Work()
    work.bring(CROWD)
    await work.clock.settle()
    for _ in range(3):
        work.bring(2)
        await work.clock.advance(0.003)
    assert work.rounds == [CROWD]
    await work.clock.advance(0.001)
    assert work.rounds == [CROWD, 6]
    work.bring(1)
    await work.clock.settle()
    assert work.rounds == [CROWD, 6, 1]


async def test_who_cannot_wait_has_the_round_now() -> None:
    """A round had at once is not had again when its time comes; stopped, there is none."""
    work = Work()
    work.bring(CROWD)
    work.pace.now()
    work.bring(1)
    work.pace.now()
    assert work.rounds == [CROWD, 1]
    await work.clock.advance(1.0)
    assert work.rounds == [CROWD, 1]
    work.bring(1)
    work.pace.stop()
    await work.clock.advance(1.0)
    assert work.rounds == [CROWD, 1]


async def test_a_storm_of_connects_is_recorded_in_rounds() -> None:
    """In a storm, who comes between two rounds is recorded by the next; no event is lost (inv 5)."""
    async with World() as world:
        crowd, late = [await world.open() for _ in range(20)], [await world.open() for _ in range(3)]
        for number, client in enumerate(crowd):
            client.send(t="connect", token=world.token(f"u{number}"))
        await world.clock.settle()
        assert all(client.frames for client in crowd)
        updates = world.value("access_update_changes_count")
        for number, client in enumerate(late):
            client.send(t="connect", token=world.token(f"late{number}"))
        await world.clock.settle()
        assert world.value("access_update_changes_count") == updates
        await world.clock.advance(ROUND_SECONDS)
        assert all(client.frames[0]["t"] == "connected" for client in [*crowd, *late])
        await world.clock.advance(EVENTS_SECONDS)
        assert len(world.events()) == 23
