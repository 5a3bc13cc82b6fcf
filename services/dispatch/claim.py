"""Waiting for a partition's token, and taking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.clock import Clock
    from holdfast.log.port import Log, ShardState

LOOKS: Final = 10
"""Looks at the token within the time that it must not move."""


class Claim(NamedTuple):
    """A token that was taken. `kept`: since the owner was last here it was nobody else's."""

    state: ShardState
    kept: bool


async def claim(
    log: Log,
    clock: Clock,
    shard: int,
    owner: str,
    *,
    takeover: float,
    stopping: Callable[[], bool],
) -> Claim | None:
    """Wait until the token is free, or did not move for `takeover` s of own reads in a row, and take it.

    Returns None when `stopping` says so. An empty shard stays so, until its generation is known. A failed
    read starts the observation again: nobody is superseded because the store was away.
    """
    seen: tuple[str, int] | None = None
    since = 0.0
    kept = True
    while not stopping():
        try:
            state = await log.state(shard)
            now = clock.monotonic()
            # Each look counts: what the last one finds may be this owner's own claim, whose reply was lost.
            kept = kept and state.owner == owner
            if (state.owner, state.moved) != seen:
                seen, since = (state.owner, state.moved), now
            if state.owner in ("", owner) or now - since >= takeover:
                taken = await log.claim(shard, owner, expected=state, generation="")
                if taken.owner == owner:
                    return Claim(taken, kept)
                kept = False
                seen = None
        except Retry:
            seen = None
        await clock.sleep(takeover / LOOKS)
    return None
