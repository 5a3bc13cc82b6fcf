"""Routes and sessions, written to the log in numbered micro-batches: one update in flight per shard.

Everything that arrives while an update is in flight goes into the next one, and a crowd's changes go out in
rounds, those of all shards in one write, so a storm of connects costs a few hundred round trips. A change
replaces an earlier one of the same thing that was not sent yet, so what waits is bounded by what this node
holds. Whoever needs a change recorded before it goes on (inv 5) leaves a call with it; one that raises is
counted, and holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry
from holdfast.failures import Failures
from holdfast.log.port import FENCED, Change, NodeUpdate

from .pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.clock import Clock
    from holdfast.log.port import Log
    from holdfast.observe.metrics import Metrics

    from .turns import Turns

MAX_CHANGES: Final = 500
"""Changes in one update, at most (but for one that writes everything again)."""

TURN_CHANGES: Final = 500
"""Changes from which on a round goes on in the loop's next turn: to pack one takes 4 µs. One that writes
everything again has a turn of its own."""

ROUND_SECONDS: Final = 0.02
"""Between two rounds of updates in a storm. Without it an update was for one or two connections: Redis had
answered before the next ones came. With 10 ms an accept cost a sixth more, with 40 ms a twelfth."""

FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 1.0

_log = logging.getLogger(__name__)


class Shard:
    """What is known and wanted of one shard. `number` is that of the last confirmed update."""

    __slots__ = ("calls", "changes", "failing_since", "number", "running", "whole")

    def __init__(self) -> None:
        self.number = 0
        self.changes: dict[tuple[str, str], Change] = {}
        self.calls: list[Callable[[], None]] = []
        self.running = False
        self.whole = False
        self.failing_since: float | None = None


class Routes:
    """Writes what this node holds. `everything` gives all changes that make up a shard, to write it anew."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        metrics: Metrics,
        turns: Turns,
        *,
        incarnation: str,
        everything: Callable[[int], Iterable[Change]],
        on_rewritten: Callable[[int], None],
        on_fenced: Callable[[str], None],
    ) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._turns = turns
        self._failures = Failures("routes", clock, metrics)
        self._incarnation = incarnation
        self._everything = everything
        self._on_rewritten = on_rewritten
        self._on_fenced = on_fenced
        self._shards = [Shard() for _ in range(log.partitions)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken: list[tuple[int, Shard]] = []
        self._pace = Pace(clock, ROUND_SECONDS, self._round)

    def change(self, shard: int, change: Change, call: Callable[[], None] | None = None) -> None:
        """Put a change into the shard's next update; `call` is made once it is recorded."""
        state = self._shards[shard]
        thing = change.info.session if change.info is not None else change.session
        state.changes[change.op[1:] + thing, change.name] = change
        if call is not None:
            state.calls.append(call)
        self._wake(shard, state)

    def forgot(self, shard: int, known: int, number: int) -> None:
        """Tell that the shard knew update `number` when this node had confirmed `known`."""
        state = self._shards[shard]
        if number < known and not state.whole:
            state.whole = True
            self._metrics.access_forgotten.inc()
            _log.warning(
                "a shard forgot this node; writing it again", extra={"shard": shard, "number": number}
            )
            self._wake(shard, state)

    def renew(self, incarnation: str) -> None:
        """Write all that there is under a new incarnation; what waits to be recorded is recorded by that."""
        self._incarnation = incarnation
        for shard, state in enumerate(self._shards):
            state.number, state.changes, state.whole = 0, {}, True
            self._wake(shard, state)

    def number(self, shard: int) -> int:
        """Return the number of the last confirmed update."""
        return self._shards[shard].number

    def away(self, shard: int, seconds: float) -> bool:
        """Tell whether updates of the shard have been failing for longer than `seconds`."""
        since = self._shards[shard].failing_since
        return since is not None and self._clock.monotonic() - since > seconds

    @property
    def idle(self) -> bool:
        """Whether all is written."""
        return not any(state.running or state.changes for state in self._shards)

    def stop(self) -> None:
        """Write no more."""
        self._pace.stop()
        for task in self._tasks:
            task.cancel()

    def _wake(self, shard: int, state: Shard) -> None:
        if not state.running:
            state.running = True
            self._woken.append((shard, state))
            self._pace.ask()

    def _round(self) -> int:
        """Begin an update of every shard that has something to write.

        Returns the number of changes, 0 where the round goes on in the loop's next turn.
        """
        woken, self._woken = self._woken, []
        count = 0
        loop = asyncio.get_running_loop()
        for place, (shard, state) in enumerate(woken):
            if count >= TURN_CHANGES:
                self._woken = woken[place:]
                self._pace.ask()
                return 0
            task = loop.create_task(self._run(shard, state))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            count += TURN_CHANGES if state.whole else min(len(state.changes), MAX_CHANGES)
        return count

    async def _run(self, shard: int, state: Shard) -> None:
        try:
            await self._update(shard, state)
        except Exception:  # noqa: BLE001 - counted; all that this node holds is written again
            state.whole = True
            await self._failures.pause()
        finally:
            state.running = False
        if state.changes or state.calls or state.whole:
            self._wake(shard, state)

    async def _update(self, shard: int, state: Shard) -> None:
        whole, calls = state.whole, state.calls
        if whole or len(state.changes) <= MAX_CHANGES:
            changes, state.changes, state.calls = state.changes, {}, []
        else:
            # Calls wait for the last part, since they do not say which part they are about.
            keys = list(state.changes)[:MAX_CHANGES]
            changes = {key: state.changes.pop(key) for key in keys}
            calls = []
        left, number = iter(calls), state.number + 1
        try:
            listed = tuple(self._everything(shard)) if whole else tuple(changes.values())
            self._metrics.access_update_changes.observe(len(listed))
            update = NodeUpdate(self._incarnation, number, listed, whole)
            reached = await self._write(shard, state, update)
            if reached == FENCED or update.incarnation != self._incarnation:
                # This incarnation is dead: what is wanted is written by the next one.
                self._on_fenced(update.incarnation)
                await self._clock.sleep(FIRST_DELAY)
            elif reached >= number:
                state.number = number
                if whole:
                    state.whole = False
                    self._on_rewritten(shard)
                for call in left:
                    self._turns.do(self._failures.call, call)
            else:
                # It forgot. What was taken out above is part of everything, which is written next.
                self.forgot(shard, number, 0)
        finally:
            state.calls = [*left, *state.calls]

    async def _write(self, shard: int, state: Shard, update: NodeUpdate) -> int:
        delay = FIRST_DELAY
        while True:
            try:
                number = await self._log.update(shard, update)
            except Retry as error:
                if state.failing_since is None:
                    state.failing_since = self._clock.monotonic()
                    _log.warning("routes cannot be written: %s", error, extra={"shard": shard})
                await self._clock.sleep(error.after or delay)
                delay = min(delay * 2, LONGEST_DELAY)
            except Exception:  # noqa: BLE001 - counted; it may be written, so nothing else may have its number
                state.failing_since = state.failing_since or self._clock.monotonic()
                await self._failures.pause()
            else:
                state.failing_since = None
                self._failures.passed()
                return number
