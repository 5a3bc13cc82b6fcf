"""The loop of the simulation: order within a process, chance between them, death and stops."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from tests.simulation.loop import Deadlock, SimLoop


def made(seed: int = 0) -> tuple[SimLoop, list[dict[str, Any]]]:
    errors: list[dict[str, Any]] = []
    return SimLoop(Random(seed), errors.append), errors


def test_time_jumps_to_the_next_timer() -> None:
    """An hour of sleep takes no time, and ends at its own moment."""
    loop, _ = made()

    async def sleep() -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert loop.run_until_complete(sleep()) == 3600
    loop.close()


def orders(seed: int) -> list[str]:
    loop, _ = made(seed)
    seen: list[str] = []

    async def main() -> None:
        for name in "ab":
            process = loop.process(name)
            for number in range(3):
                loop.call_in(process, seen.append, f"{name}{number}")
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.close()
    return seen


def test_order_within_a_process_is_kept_and_between_processes_drawn() -> None:
    """Callbacks of one process run in the order of their scheduling, those of two in any."""
    found = {tuple(orders(seed)) for seed in range(50)}
    assert len(found) > 1
    for order in found:
        assert [one for one in order if one[0] == "a"] == ["a0", "a1", "a2"]
    assert orders(7) == orders(7)


def test_a_killed_process_runs_nothing_more() -> None:
    """SIGKILL: no `finally`, no callback, no timer."""
    loop, errors = made()
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(2)
            seen.append("slept")
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        process = loop.process("victim")
        loop.spawn(process, work())
        await asyncio.sleep(1)
        loop.kill(process)
        await asyncio.sleep(5)
        assert seen == []

    loop.run_until_complete(main())
    loop.close()
    assert errors == []


def test_a_paused_process_goes_on_where_it_was() -> None:
    """SIGSTOP and SIGCONT: what became due meanwhile happens afterwards, in order."""
    loop, _ = made()
    seen: list[tuple[str, float]] = []

    async def work(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.time()))

    async def main() -> None:
        process = loop.process("stopped")
        loop.spawn(process, work("second", 2))
        loop.spawn(process, work("first", 1))
        await asyncio.sleep(0.5)
        loop.pause(process)
        await asyncio.sleep(4.5)
        loop.resume(process)
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.close()
    assert seen == [("first", 5.0), ("second", 5.0)]


def test_a_run_that_waits_for_nothing_is_told() -> None:
    """A future that nobody will ever resolve ends the run with an error instead of hanging it."""
    loop, _ = made()

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        loop.run_until_complete(main())
    loop.close()


def test_an_exception_in_a_callback_is_reported() -> None:
    """What nobody catches reaches the run's ledger."""
    loop, errors = made()

    def fail() -> None:
        raise ValueError("it")

    async def main() -> None:
        loop.call_soon(fail)
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.close()
    assert [str(error["exception"]) for error in errors] == ["it"]


def test_a_task_that_failed_and_that_nobody_asked_is_reported() -> None:
    """The collector is off during a run: what it would report is looked for."""
    loop, errors = made()

    async def fail() -> None:
        raise ValueError("it")

    async def main() -> None:
        alive, dying = loop.process("alive"), loop.process("dying")
        unasked, asked, _ = (loop.spawn(process, fail()) for process in (alive, alive, dying))
        await asyncio.sleep(1)
        loop.kill(dying)
        loop.look_at_tasks()
        assert asked.exception() is not None
        assert unasked.done()

    loop.run_until_complete(main())
    loop.close()
    assert [str(error["exception"]) for error in errors] == ["it"]
