"""The timer wheel."""

from __future__ import annotations

from holdfast.clock import ManualClock
from services.access.timers import NEVER, TimerWheel


class Stopped(ManualClock):
    """A clock that may have gone on while nobody looked."""

    stopped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.stopped


class Timed:
    def __init__(self, wheel: TimerWheel, then: int = NEVER) -> None:
        self.wheel = wheel
        self.due = NEVER
        self.checked: list[int] = []
        self.then = then

    def check(self, tick: int) -> int:
        self.checked.append(tick)
        return tick + self.then if self.then else NEVER


async def test_each_is_checked_once_at_its_tick() -> None:
    """Who is put on twice, or earlier than before, is checked once at the earliest; then again as it says."""
    clock = ManualClock()
    wheel = TimerWheel(clock, 0.5, lambda: None)
    wheel.start()
    once, moved, again = Timed(wheel), Timed(wheel), Timed(wheel, then=4)
    wheel.put(once, wheel.tick + wheel.ticks(2))
    wheel.put(once, wheel.tick + wheel.ticks(3))
    moved.due = NEVER
    wheel.put(moved, 9)
    moved.due = NEVER
    wheel.put(moved, 9)
    wheel.put(moved, 5)
    wheel.put(again, 3)
    await clock.advance(10)
    assert once.checked == [5]
    assert moved.checked == [5]
    assert again.checked == [3, 7, 11, 15, 19]
    wheel.stop()
    await clock.advance(5)
    assert len(again.checked) == 5


async def test_a_crowd_of_one_second_is_checked() -> None:
    """More than fit into one slice are all checked."""
    clock = ManualClock()
    wheel = TimerWheel(clock, 0.5, lambda: None)
    wheel.start()
    crowd = [Timed(wheel) for _ in range(30_000)]
    for timed in crowd:
        wheel.put(timed, 4)
    await clock.advance(3)
    assert all(timed.checked == [4] or len(timed.checked) == 1 for timed in crowd)
    wheel.stop()


async def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    """After a stop of a minute nobody is due who would not have been within two seconds of it."""
    clock = Stopped()
    wheel = TimerWheel(clock, 0.5, lambda: None)
    wheel.start()
    soon, late = Timed(wheel), Timed(wheel)
    wheel.put(soon, wheel.tick + wheel.ticks(1))
    wheel.put(late, wheel.tick + wheel.ticks(5))
    clock.stopped = 60.0
    await clock.advance(0.5)
    assert (len(soon.checked), len(late.checked)) == (1, 0)
    await clock.advance(2.5)
    assert len(late.checked) == 0
    await clock.advance(1.0)
    assert len(late.checked) == 1
    wheel.stop()
