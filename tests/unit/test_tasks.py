"""Tasks end for certain."""

import asyncio

from holdfast.tasks import cancelled


async def test_a_task_that_takes_a_cancellation_for_something_else_is_ended():
    """A task that swallows the first cancel is ended by the next; its error is nobody's warning."""
    swallowed = 0

    async def deaf():
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise ValueError("in the end") from None

    task = asyncio.ensure_future(deaf())
    await asyncio.sleep(0)
    await cancelled([task, None])
    assert task.done()
    assert swallowed == 2
