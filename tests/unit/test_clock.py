"""The manual clock moves time by hand, in order."""

import asyncio

import pytest

from holdfast.clock import ManualClock, within


async def test_timers_fire_in_order_each_at_its_own_moment():
    """A sleeper wakes at its time, not at the end of the advance."""
    clock = ManualClock()
    woken = []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    tasks = [asyncio.ensure_future(sleeper(seconds)) for seconds in (3, 1, 2)]
    await clock.advance(2.5)
    assert woken == [(1, 1.0), (2, 2.0)]
    await clock.advance(1)
    assert woken[-1] == (3, 3.0)
    await asyncio.gather(*tasks)


async def test_what_a_timer_sets_off_can_sleep_again_within_one_advance():
    """A loop that sleeps a second runs ten times in ten seconds."""
    clock = ManualClock()
    turns = 0

    async def loop():
        nonlocal turns
        while True:
            await clock.sleep(1)
            turns += 1

    task = asyncio.ensure_future(loop())
    await clock.advance(10)
    assert turns == 10
    task.cancel()


async def test_a_cancellation_in_the_moment_of_the_limit_is_no_timeout():
    """Whoever is cancelled together with the limit ends, and does not go on as after a timeout."""
    clock = ManualClock()

    async def slow_to_end():
        try:
            await asyncio.Event().wait()
        finally:
            await clock.sleep(1)

    task = asyncio.ensure_future(within(clock, 5, slow_to_end()))
    await asyncio.sleep(0)
    clock.call_later(5.5, task.cancel)
    await clock.advance(6)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_time_limit_cancels_what_it_limits():
    """`within` raises TimeoutError and ends the awaited coroutine."""
    clock = ManualClock()
    ended = asyncio.Event()

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(within(clock, 5, forever()))
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(TimeoutError):
        await task
    assert ended.is_set()


async def test_a_cancelled_time_limit_cancels_what_it_limits():
    """Cancelling the waiter cancels the work and not the other way round."""
    clock = ManualClock()
    inner = asyncio.ensure_future(asyncio.Event().wait())
    task = asyncio.ensure_future(within(clock, 5, inner))
    await clock.settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await clock.settle()
    assert inner.cancelled()
