"""Runs the handlers: a sender's records in order, different senders at the same time."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.errors import Drop, Reject, Retry
from holdfast.failures import Failures
from holdfast.records import Request, Send, decode_inbound

from . import emit, journal
from .endings import Endings
from .invoke import TimeUp, limited, prepare
from .outbox import Withheld
from .partition import Item, Lane
from .traces import follow

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from holdfast.app import App, Reader
    from holdfast.bus.port import Record
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.observe.tracing import Span, Tracing
    from holdfast.records import Inbound, Outbound
    from holdfast.settings import Settings

    from .gate import Gate
    from .outbox import Outbox
    from .partition import Partition

_log = logging.getLogger(__name__)

LONGEST_DELAY: Final = 30.0
"""Seconds between two runs, at most."""

CROWDED: Final = 0.01
"""Seconds between looks at a producer that is half full."""

_TURN: Final = 64
"""Records one task handles before it lets the rest of the process have a turn."""


class Runner:
    """Takes fetched records, runs what handles them, and puts out what they cause.

    A sender with nothing to wait for costs no task: its message without a handler is passed on as it is
    taken. Otherwise the sender has a lane, and at most `logic.concurrency` tasks work through the lanes that
    are ready. A lane that waits for its next attempt occupies none of them.

    `broken`: something failed that is neither a handler's nor an output's matter; what is in hand is to be
    handled again.
    """

    def __init__(
        self,
        app: App,
        outbox: Outbox,
        gate: Gate,
        reader: Reader,
        *,
        clock: Clock,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._outbox = outbox
        self._gate = gate
        self._reader = reader
        self._clock = clock
        self._logic = settings.logic
        self._metrics = metrics
        self._failures = Failures("handlers", clock, metrics)
        self.broken = False
        self._tracing = tracing
        self._endings = Endings(outbox, clock, settings, metrics, tracing)
        self._ready: deque[Lane] = deque()
        self._running = 0
        self._looking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_handler = metrics.logic_published.labels("handler")

    def take(self, part: Partition, records: Iterable[Record]) -> None:
        """Begin to handle fetched records of a partition.

        Raises Withheld after an output failed; what is in hand is to be handled again then.
        """
        lookups: dict[int, list[tuple[Lane, Item]]] = {}
        for record in records:
            item = Item(record)
            part.items.append(item)
            try:
                item.what = what = decode_inbound(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._endings.bury(item, "undecodable", error)
                self._endings.count(item, "poison", "dead")
                continue
            self._classify(part, item, what)
            if item.outputs is not None:
                continue
            lane = part.lanes.get(what.user)
            if lane is None:
                if not item.handlers and item.verdict is not None:
                    self._endings.pass_on(item, what)
                    continue
                lane = part.lanes[what.user] = Lane(part, what.user)
            lane.queue.append(item)
            if item.verdict is None and isinstance(what, Send):
                lookups.setdefault(self._gate.shard(what.to), []).append((lane, item))
            if not lane.busy:
                self._advance(lane)
        for shard, waiting in lookups.items():
            self._spawn(self._look_up(part, shard, waiting))

    async def stop(self) -> None:
        """End every run that is still on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # deciding

    def _classify(self, part: Partition, item: Item, what: Inbound) -> None:
        app = self._app
        if isinstance(what, Send):
            handler = app.sends.get(what.type)
            if handler is not None:
                item.handlers = (handler,)
            else:
                item.verdict = self._gate.verdict(what.user, what.to, granted=what.granted)
        elif isinstance(what, Request):
            handler = app.requests.get(what.type)
            if handler is not None:
                item.handlers = (handler,)
            else:
                item.verdict = "no_handler"
        else:
            handlers = app.connects if what.kind == "connect" else app.disconnects
            if part.is_late(what, item.record.offset):
                item.outputs = ()
                self._endings.count(item, what.kind, "ignored")
            elif not handlers:
                item.outputs = ()
            else:
                item.handlers = handlers

    async def _look_up(self, part: Partition, shard: int, waiting: list[tuple[Lane, Item]]) -> None:
        """Learn who is a member; as long as that is not sure those who must be members wait."""
        sends = [item.what for _, item in waiting]
        pairs = [(send.to, send.user) for send in sends if isinstance(send, Send)]
        attempt = 0
        while part.live and not part.closing:
            try:
                answers = await self._gate.members(shard, pairs)
            except Retry as error:
                attempt += 1
                await self._clock.sleep(self._backoff(attempt, error.after))
                continue
            except Exception:  # noqa: BLE001 - counted; who waits for it must not wait for ever
                await self._failures.pause()
                continue
            break
        else:
            return
        for (_, item), member in zip(waiting, answers, strict=True):
            item.verdict = "" if member else "forbidden"
        for lane, _ in waiting:
            if lane.queue and not lane.busy and part.live:
                try:
                    self._advance(lane)
                except Withheld:
                    return

    # lanes

    def _advance(self, lane: Lane) -> None:
        """Go on with a lane: pass on what needs no handler, get in line with what does."""
        queue = lane.queue
        while queue:
            item = queue[0]
            if lane.part.closing or item.verdict is None:
                return
            if item.handlers or item.what is None:
                lane.busy = True
                self._line_up(lane)
                return
            self._endings.pass_on(item, item.what)
            queue.popleft()
        lane.part.lanes.pop(lane.user, None)

    def _line_up(self, lane: Lane) -> None:
        if not lane.part.live:
            return
        self._ready.append(lane)
        if self._running < self._logic.concurrency:
            self._running += 1
            self._spawn(self._work())
        else:
            self._metrics.logic_crowded.inc()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - counted; the worker goes back to what is durable, and handles it again
            self._failures.note()
            self.broken = True

    async def _work(self) -> None:
        """Handle lanes that are ready until there are none."""
        turns = 0
        try:
            while self._ready:
                if self._outbox.crowded:
                    await self._room()
                    continue
                lane = self._ready.popleft()
                part = lane.part
                if not part.live or part.closing:
                    continue
                part.running += 1
                try:
                    delay = await self._run(part, lane.queue[0])
                    if not lane.part.live:
                        continue
                    if delay is None:
                        lane.queue.popleft()
                        lane.busy = False
                        self._advance(lane)
                    else:
                        self._clock.call_later(delay, functools.partial(self._line_up, lane))
                except Withheld:
                    continue
                finally:
                    part.running -= 1
                turns += 1
                if turns % _TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._running -= 1

    async def _room(self) -> None:
        """Wait until Kafka has taken some of what is on its way.

        Handlers that were slow and are fast again, all at once, would fill the producer; then everything that
        is not durable would be handled a second time.
        """
        self._metrics.logic_output_waits.inc()
        async with self._looking:  # one looks for all: there may be hundreds
            while self._outbox.crowded:
                await self._clock.sleep(CROWDED)

    # running

    async def _run(self, part: Partition, item: Item) -> float | None:
        """Handle one record once. Return None when it is done, else the seconds until the next attempt."""
        what = item.what
        assert what is not None
        kind = _kind(what)
        if isinstance(what, Request) and self._clock.now_ms() >= what.deadline:
            item.outputs = ()
            self._endings.count(item, kind, "late")
            return None
        item.attempt += 1
        ctx, incoming = prepare(what, item.handlers[0].decode, self._gate.kinds, self._reader)
        span = follow(self._tracing, item, "logic handle") if item.record.headers else None
        started = self._clock.monotonic()
        outputs: Sequence[Outbound]
        outcome = "handled"
        try:
            if item.handlers[0].typed:
                _ = incoming.data
            running = limited(self._clock, self._logic.time_limit, item.handlers, ctx, incoming)
            result = await (running if span is None else span.around(running))
            outputs = emit.caused(what, ctx, result, self._endings.answer_by)
        except Reject as reject:
            outcome, outputs = "refused", self._endings.refusal(what, reject.code, str(reject))
        except Drop:
            outcome, outputs = "dropped", ()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(part, item, what, error, span)
        except Exception as error:  # noqa: BLE001 - a handler may raise anything; it becomes a retry or a dead letter
            return self._failed(part, item, what, error, span)
        finally:
            self._metrics.logic_handler_seconds.observe(self._clock.monotonic() - started)
        if not part.live:
            return None
        try:
            item.outputs = [self._outbox.put(output, span) for output in outputs]
        except Reject as reject:
            item.attempt = self._logic.retries + 1
            return self._failed(part, item, what, reject, span)
        if span is not None:
            span.end(outcome, outputs=len(outputs))
        self._by_handler.inc(len(outputs))
        self._endings.count(item, kind, outcome)
        return None

    # failing

    def _backoff(self, attempt: int, after: float | None = None) -> float:
        delay = min(self._logic.backoff * 2.0 ** min(attempt - 1, 20), LONGEST_DELAY)
        return max(after or 0.0, delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    def _failed(
        self, part: Partition, item: Item, what: Inbound, error: BaseException, span: Span | None
    ) -> float | None:
        if span is not None:
            span.end("failed", failed=True, error=type(error).__name__)
        if not part.live:
            return None
        if item.attempt <= self._logic.retries:
            self._metrics.logic_retries.inc()
            delay = self._backoff(item.attempt, getattr(error, "after", None))
            _log.warning(
                "attempt %d failed, next in %.2f s: %r", item.attempt, delay, error, extra=journal.ids(what)
            )
            return delay
        reason = "time_limit" if isinstance(error, TimeUp) else "failed"
        _log.error("the handler failed for good", exc_info=error, extra=journal.ids(what))
        self._endings.bury(item, reason, error, what if isinstance(what, Send | Request) else None)
        self._endings.count(item, _kind(what), "dead")
        return None


def _kind(what: Inbound) -> str:
    if isinstance(what, Send):
        return "send"
    return "request" if isinstance(what, Request) else what.kind
