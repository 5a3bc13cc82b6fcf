"""One run of a handler: what it is called with, and its time limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.app import Context, Message, Request, Session
from holdfast.records import Request as RequestRecord
from holdfast.records import Send

from .emit import cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from holdfast.app import Reader
    from holdfast.app.app import Handler
    from holdfast.clock import Clock
    from holdfast.records import Inbound


class TimeUp(TimeoutError):  # noqa: N818 - it says what happened
    """A run was ended by the time limit."""


def prepare(
    what: Inbound, decode: Callable[[bytes], Any], kinds: Collection[str], reader: Reader
) -> tuple[Context, Any]:
    """Return the context of a run, and what the handler receives."""
    send = what if isinstance(what, Send) else None
    ctx = Context(
        message=cause_of(what),
        user=what.user,
        session=what.session,
        device=what.device,
        now=what.ts,
        kinds=kinds,
        reader=reader,
        to=send.to if send else "",
        type=send.type if send else "",
        raw=send.data if send else b"null",
        granted=send.granted if send else False,
    )
    if isinstance(what, Send):
        return ctx, Message(
            id=what.message,
            user=what.user,
            type=what.type,
            raw=what.data,
            ts=what.ts,
            session=what.session,
            device=what.device,
            decode=decode,
            to=what.to,
            client=what.client,
            n=what.n,
        )
    if isinstance(what, RequestRecord):
        return ctx, Request(
            id=what.key,
            user=what.user,
            type=what.type,
            raw=what.data,
            ts=what.ts,
            session=what.session,
            device=what.device,
            decode=decode,
            deadline=what.deadline,
        )
    return ctx, Session(what.session, what.user, what.device, what.client, what.ts, what.reason)


async def limited(
    clock: Clock, seconds: float, handlers: Sequence[Handler], ctx: Context, incoming: Any
) -> Any:
    """Run handlers one after the other; return what the last one returned.

    Raises TimeUp after `seconds`. As `asyncio.timeout`, but on the clock port; no task is made for it.
    """
    task = asyncio.current_task()
    assert task is not None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = clock.call_later(seconds, expire)
    result = None
    try:
        for handler in handlers:
            result = await handler(ctx, incoming)
    except asyncio.CancelledError:
        if expired and task.cancelling() == 1:
            raise TimeUp(f"not done within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        if expired:
            task.uncancel()
    return result
