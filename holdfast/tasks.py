"""Ending tasks for certain.

One `cancel` is not enough where somebody else's code is beneath: a library may take a cancellation that
comes together with a time limit of its own for that limit, and the task goes on. Whoever waits for it waits
for ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SECONDS: Final = 5.0
_AGAIN: Final = 0.5


async def cancelled(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel tasks until they have ended, for a few seconds at most."""
    left = {task for task in tasks if task is not None and not task.done()}
    for task in left:
        task.add_done_callback(take_note)
    for _ in range(int(_SECONDS / _AGAIN)):
        if not left:
            return
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN)


def take_note(done: asyncio.Future[Any]) -> None:
    """Take what a task ended with, that nobody may wait for any more."""
    if not done.cancelled():
        done.exception()
