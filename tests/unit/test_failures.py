"""What nobody expected does not end a background loop."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from holdfast.clock import ManualClock
from holdfast.failures import FIRST, LONGEST, forever
from holdfast.observe.metrics import Metrics


async def test_a_loop_goes_on_after_what_nobody_expected(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is logged with its traceback and counted; pauses double to a bound, and begin anew."""
    clock, metrics = ManualClock(), Metrics()
    ran: list[float] = []
    well = {9, 10}  # the others fail

    async def step() -> None:
        ran.append(clock.monotonic())
        if len(ran) not in well:
            raise ValueError("surprise")
        await clock.sleep(1.0)

    task = asyncio.create_task(forever("step", step, clock, metrics))
    await clock.settle()
    assert metrics.registry.get_sample_value("holdfast_loop_failures_total", {"loop": "step"}) == 1
    for _ in range(60):
        await clock.advance(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    waits = [later - before for before, later in itertools.pairwise(ran)]
    expected = [min(FIRST * 2**number, LONGEST) for number in range(8)]
    assert waits[:8] == pytest.approx(expected)
    assert waits[8:10] == pytest.approx([1.0, 1.0])
    assert waits[10] == pytest.approx(FIRST), "what went well makes the next pause a short one"
    failed = metrics.registry.get_sample_value("holdfast_loop_failures_total", {"loop": "step"})
    assert failed == len(ran) - len(well)
    assert caplog.text.count("ValueError: surprise") == failed


async def test_a_loop_ends_when_it_is_cancelled() -> None:
    """Cancelling is no failure, neither in a step nor in a pause."""
    clock, metrics = ManualClock(), Metrics()

    async def step() -> None:
        await clock.sleep(1.0)

    task = asyncio.create_task(forever("step", step, clock, metrics))
    await clock.settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert metrics.registry.get_sample_value("holdfast_loop_failures_total", {"loop": "step"}) == 0
