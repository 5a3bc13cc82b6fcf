"""What access puts into the queue: sends, requests, session events, cursors. One producer for all.

A session's end is kept until it is durable, and only then is its entry in the log removed (the entry is the
outbox of the session's events). Cursors are coalesced: one a second for each (channel, user, device).
"""

from __future__ import annotations

import collections
import functools
import logging
from typing import TYPE_CHECKING, Final

from holdfast import records
from holdfast.channel import partition_of
from holdfast.errors import HoldfastError, Retry

from . import journal
from .pace import Pace

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from holdfast.bus.port import Bus, Producer
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.observe.tracing import Span, Tracing
    from holdfast.protocol.frames import FrameId, Request, Send

    from .asking import Asking
    from .sessions import Session
    from .turns import Turns

MAX_CURSORS: Final = 10_000
"""Cursors that wait for their second, at most; the oldest goes out early."""

EVENTS_SECONDS: Final = 0.02
"""How long a session's event may wait for others in a storm. In one of connects, requests to Kafka for what
each turn of the loop brought were a third of an accept's cost, here and there."""

EVENTS: Final = 256
"""Events that wait, at most."""

_log = logging.getLogger(__name__)


class Produce:
    """The way into the queue."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        metrics: Metrics,
        incarnation: str,
        request_deadline: float,
        *,
        turns: Turns,
        tracing: Tracing | None = None,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._metrics = metrics
        self._turns = turns
        self.incarnation = incarnation
        self._request_deadline = request_deadline
        self._tracing = tracing
        self._journal = journal.wanted()
        self._producer: Producer | None = None
        self._last: dict[int, asyncio.Future[int]] = {}
        self._events: dict[str, tuple[records.SessionEvent, object]] = {}
        self._again: dict[str, tuple[records.SessionEvent, object]] = {}
        self._held: list[tuple[records.SessionEvent, object]] = []
        self._pace = Pace(clock, EVENTS_SECONDS, self._release)
        self._cursors: collections.OrderedDict[tuple[str, str, str], records.Cursor] = (
            collections.OrderedDict()
        )
        self._requests = 0
        self._unfinished = 0

    async def start(self, deadline: float) -> None:
        """Open the producer; `deadline` in seconds is when a send without an answer fails."""
        self._producer = await self._bus.producer(deadline=deadline)

    async def close(self) -> None:
        """Wait for what is pending."""
        self._turns.finish()
        self._pace.now()
        if self._producer is not None:
            await self._producer.close()

    # sends and requests

    def send(self, driver: Asking, session: Session, frame: Send, *, granted: bool) -> None:
        """Put a send into the queue. Raises Retry when the producer is full."""
        if self._held:
            self._pace.now()  # what comes after an event stays behind it
        message = records.message_id(session.user, session.client, frame.n)
        record = records.Send(
            user=session.user,
            client=session.client,
            n=frame.n,
            message=message,
            to=frame.to,
            type=frame.type,
            data=bytes(frame.data),
            ts=self._clock.now_ms(),
            session=session.id,
            device=session.device,
            node=self.incarnation,
            connection=driver.number,
            frame=frame.id,
            granted=granted,
        )
        span = None
        if self._tracing is not None:
            span = self._tracing.begin("access send", message, session.id)
        future = self._inbound(session.user, record, span)
        future.add_done_callback(
            functools.partial(self._sent, driver, frame.n, message, self._clock.monotonic())
        )
        if self._journal:
            future.add_done_callback(functools.partial(_tell, "send", message, session.id))

    def _sent(self, driver: Asking, n: int, message: str, began: float, future: asyncio.Future[int]) -> None:
        if self._told(future):
            driver.machine.failed(n, "it is not known whether the message was stored; send it again")
        else:
            self._metrics.access_ack_seconds.observe(self._clock.monotonic() - began)
            driver.machine.acked(n, message)

    def request(self, driver: Asking, session: Session, frame: Request, deadline: float) -> None:
        """Put a request into the queue; it fails at `deadline` (monotonic). Raises Retry when it is full."""
        if self._held:
            self._pace.now()  # what comes after an event stays behind it
        self._requests += 1
        now = self._clock.now_ms()
        record = records.Request(
            user=session.user,
            client=session.client,
            key=f"{session.id}/{self._requests}",
            type=frame.type,
            data=bytes(frame.data),
            ts=now,
            session=session.id,
            device=session.device,
            node=self.incarnation,
            connection=driver.number,
            frame=frame.id,
            deadline=now + int(self._request_deadline * 1000),
        )
        span = None
        if self._tracing is not None:
            span = self._tracing.begin("access request", record.key, session.id)
        future = self._inbound(session.user, record, span)
        future.add_done_callback(functools.partial(self._asked, driver, frame.id, deadline))
        if self._journal:
            future.add_done_callback(functools.partial(_tell, "request", record.key, session.id))

    def _asked(self, driver: Asking, frame: FrameId, deadline: float, future: asyncio.Future[int]) -> None:
        if self._told(future):
            driver.machine.unasked(frame, deadline)

    def _inbound(self, user: str, record: records.Inbound, span: Span | None = None) -> asyncio.Future[int]:
        assert self._producer is not None
        partition = partition_of(user, self._bus.partitions)
        last = self._last.get(partition)
        if last is not None and last.done() and _failed(last):
            # Who sent it learns so in the loop's next turn: until then nothing may go past it (inv 12).
            raise Retry("a record before this one has just failed")
        future = self._producer.produce(
            "inbound", partition, user.encode(), records.encode(record), () if span is None else span.headers
        )
        if span is not None:
            future.add_done_callback(span.settled)
        self._last[partition] = future
        return future

    def _told(self, future: asyncio.Future[int]) -> bool:
        """Tell whether a record failed, to whoever sent it: those before it in its partition know already."""
        failed = _failed(future)
        if failed:
            self._last = {partition: last for partition, last in self._last.items() if last is not future}
        return failed

    # session events

    def event(self, session: Session, kind: str, reason: str = "", done: object = None) -> None:
        """Put a session's event into the queue, again until it is there; then `done()` is called."""
        record = records.SessionEvent(
            kind, session.user, session.id, session.device, session.client, self.incarnation,
            self._clock.now_ms(), reason,
        )  # fmt: skip
        self._events[record.id] = (record, done)
        self._held.append((record, done))
        if len(self._held) >= EVENTS:
            self._pace.now()
        else:
            self._pace.ask()

    def _release(self) -> int:
        """Put the events that wait into the queue; return how many."""
        held, self._held = self._held, []
        for record, done in held:
            self._emit(record, done)
        return len(held)

    def _emit(self, record: records.SessionEvent, done: object) -> None:
        if record.kind == "disconnect" and f"{record.session}/connect" in self._again:
            self._again[record.id] = (record, done)  # in order, also where the first one failed
            return
        try:
            future = self._inbound(record.user, record)
        except Retry:
            self._again[record.id] = (record, done)
            return
        future.add_done_callback(functools.partial(self._emitted, record, done))

    def _emit_again(self, event: str) -> None:
        # Until now it is among those that failed: what may not go past it must find it there.
        failed = self._again.pop(event, None)
        if failed is not None:
            self._emit(*failed)

    def _emitted(self, record: records.SessionEvent, done: object, future: asyncio.Future[int]) -> None:
        if self._told(future):
            self._again[record.id] = (record, done)
            return
        self._events.pop(record.id, None)
        if callable(done):
            self._turns.do(done)

    @property
    def unfinished(self) -> int:
        """Session events that are not durable yet."""
        return len(self._events)

    # cursors

    def cursor(self, channel: str, session: Session, seq: int, epoch: str) -> None:
        """Keep a cursor; it goes into the queue within a second."""
        key = (channel, session.user, session.device)
        waiting = self._cursors.get(key)
        if waiting is not None and waiting.epoch == epoch and waiting.seq >= seq:
            return
        if waiting is None and len(self._cursors) >= MAX_CURSORS:
            self._metrics.access_cursors.labels("early").inc()
            self._store(self._cursors.popitem(last=False)[1])
        self._cursors[key] = records.Cursor(channel, session.user, session.device, seq, epoch)

    def flush(self, session: Session, channels: Iterable[str]) -> None:
        """Write what a session that ends has left to be written, now."""
        if self._cursors:
            for channel in channels:
                cursor = self._cursors.pop((channel, session.user, session.device), None)
                if cursor is not None:
                    self._store(cursor)

    def _store(self, cursor: records.Cursor) -> None:
        assert self._producer is not None
        try:
            future = self._producer.produce(
                "outbound",
                partition_of(cursor.channel, self._bus.partitions),
                cursor.channel.encode(),
                records.encode(cursor),
            )
        except Retry:
            self._keep(cursor)
            return
        future.add_done_callback(functools.partial(self._stored, cursor))

    def _stored(self, cursor: records.Cursor, future: asyncio.Future[int]) -> None:
        if _failed(future):
            self._keep(cursor)
        else:
            self._metrics.access_cursors.labels("stored").inc()

    def _keep(self, cursor: records.Cursor) -> None:
        """Try a cursor again in its next second, unless a newer one waits or there are too many."""
        if len(self._cursors) < MAX_CURSORS:
            self._cursors.setdefault((cursor.channel, cursor.user, cursor.device), cursor)
        else:
            self._metrics.access_cursors.labels("dropped").inc()

    def tick(self) -> None:
        """Once a second: write the cursors, and the events that failed."""
        cursors, self._cursors = self._cursors, collections.OrderedDict()
        for cursor in cursors.values():
            self._turns.do(self._store, cursor)
        self._pace.now()
        # Beginnings first: an end is refused at once where its beginning's failure is told a turn later.
        for record, _ in sorted(self._again.values(), key=lambda one: one[0].kind):
            self._turns.do(self._emit_again, record.id)


def _tell(what: str, message: str, session: str, future: asyncio.Future[int]) -> None:
    journal.stored(what, message, session, None if _failed(future) else future.result())


def _failed(future: asyncio.Future[int]) -> bool:
    """Tell whether a record's outcome is unknown."""
    if future.cancelled():
        return True
    error = future.exception()
    if error is not None and not isinstance(error, HoldfastError):
        _log.error("a record failed in a way that no adapter should", exc_info=error)
    return error is not None
