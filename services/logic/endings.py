"""How a record ends: passed on, refused, or buried in the dead letters; each is counted once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import Reject
from holdfast.records import Request, Send, SessionEvent, dead_headers

from . import emit, journal
from .gate import REASONS
from .traces import follow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.observe.tracing import Span, Tracing
    from holdfast.records import Inbound, Outbound
    from holdfast.settings import Settings

    from .outbox import Outbox
    from .partition import Item

_ERROR: Final = 500
"""Characters of an exception's text in a dead letter, at most."""

_log = logging.getLogger(__name__)


class Endings:
    """Puts out what a record comes to where no handler says so. To put out raises Withheld, see there."""

    def __init__(
        self, outbox: Outbox, clock: Clock, settings: Settings, metrics: Metrics, tracing: Tracing | None
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._refusal_ms = int(settings.access.request_deadline * 1000)
        self._metrics = metrics
        self._tracing = tracing
        self._journal = journal.wanted()
        self._handled: dict[tuple[str, str], Any] = {}
        self._passed = metrics.logic_published.labels("pass")

    def pass_on(self, item: Item, what: Inbound) -> None:
        """Put out what needs no handler: the message as it is, or its refusal."""
        kind = "send" if isinstance(what, Send) else "request"
        span = follow(self._tracing, item, "logic pass") if item.record.headers else None
        if isinstance(what, Send) and not item.verdict:
            try:
                item.outputs = (self._outbox.put(emit.passed(what), span),)
            except Reject as reject:
                item.verdict = reject.code
            else:
                self._passed.inc()
                self.count(item, kind, "passed")
                if span is not None:
                    span.end("passed")
                return
        assert not isinstance(what, SessionEvent)
        code = item.verdict or "forbidden"
        item.outputs = self._refuse(what, code, REASONS.get(code, code), span)
        self.count(item, kind, "refused")
        if span is not None:
            span.end("refused", code=code)

    def refusal(self, what: Inbound, code: str, message: str) -> Sequence[Outbound]:
        """Return the error for whoever sent this, if anybody did who can wait for it."""
        if isinstance(what, SessionEvent) or not what.node:
            _log.info("refused, and nobody waits for it: %s: %s", code, message, extra=journal.ids(what))
            return ()
        return (emit.refusal(what, code, message, self.answer_by),)

    @property
    def answer_by(self) -> int:
        """When an answer that is put out now comes too late, in Unix ms."""
        return self._clock.now_ms() + self._refusal_ms

    def bury(
        self, item: Item, reason: str, error: BaseException, sender: Send | Request | None = None
    ) -> None:
        """Put a record into the dead letters, and tell its sender."""
        record = item.record
        detail = f"{type(error).__name__}: {error}"[:_ERROR]
        headers = (
            *dead_headers(reason, detail, "inbound", record.partition, record.offset),
            ("ts", b"%d" % record.ts),
        )
        try:
            letter = self._outbox.put_dead(record.partition, record.key, record.value, headers)
        except Reject:
            _log.error("a dead letter without its value, which is too large: %r", headers)
            letter = self._outbox.put_dead(record.partition, record.key, None, headers)
        if sender is None:
            item.outputs = (letter,)
        else:
            item.outputs = (
                letter,
                *self._refuse(sender, "failed", "the handler failed; the message is kept"),
            )
        self._metrics.logic_dead_letters.labels(reason).inc()

    def count(self, item: Item, kind: str, outcome: str) -> None:
        """Count what came of a record, and say so at debug level."""
        if self._journal:
            journal.finished(item, kind, outcome)
        counter = self._handled.get((kind, outcome))
        if counter is None:
            counter = self._handled[kind, outcome] = self._metrics.logic_handled.labels(kind, outcome)
        counter.inc()

    def _refuse(
        self, what: Send | Request, code: str, message: str, span: Span | None = None
    ) -> Sequence[asyncio.Future[int]]:
        return [self._outbox.put(refusal, span) for refusal in self.refusal(what, code, message)]
