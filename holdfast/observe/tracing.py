"""Spans of OpenTelemetry that follow one message from the client's `send` to its delivery.

Only what is made by `make_tracing` is ever asked to trace: where tracing is off, `Parts.tracing` is None and
nothing of OpenTelemetry is loaded. What is not sampled carries nothing, so the steps after the first cost a
look at empty headers. The context travels as W3C's `traceparent`: in the header of a Kafka record, and in the
`trace` of an item on nodelink.

Spans carry ids that lead to a message (`holdfast inspect`), never who it is from or to, nor what it says.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

HEADER: Final = "traceparent"
"""The header of a record, and of a call of the API, that carries the context."""

Step = Literal[
    "access send",
    "access request",
    "api publish",
    "logic handle",
    "logic pass",
    "logic publish",
    "dispatch append",
    "access deliver",
]

_KINDS: Final[dict[Step, SpanKind]] = {
    "access send": SpanKind.PRODUCER,
    "access request": SpanKind.PRODUCER,
    "api publish": SpanKind.PRODUCER,
    "logic handle": SpanKind.CONSUMER,
    "logic pass": SpanKind.CONSUMER,
    "logic publish": SpanKind.PRODUCER,
    "dispatch append": SpanKind.CONSUMER,
    "access deliver": SpanKind.CONSUMER,
}

T = TypeVar("T")

Attributes = dict[str, str | int]

_propagator: Final = TraceContextTextMapPropagator()


class Span:
    """One step of one message. One that is never ended is never exported, and leaves nothing behind."""

    __slots__ = ("_context", "_span", "_tracer", "carried")

    def __init__(self, tracer: Tracer, step: Step, parent: Context, attributes: Attributes) -> None:
        self._tracer = tracer
        self._span = tracer.start_span(step, parent, _KINDS[step], attributes)
        self._context = trace.set_span_in_context(self._span, contexts.Context())
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, self._context)
        self.carried = carrier.get(HEADER, "")
        """The context, as `traceparent` has it."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The context, as headers of a record."""
        return ((HEADER, self.carried.encode()),)

    def follow(self, step: Step, **attributes: str | int) -> Span:
        """Begin a step that this one causes."""
        return Span(self._tracer, step, self._context, _named(attributes))

    async def around(self, work: Awaitable[T]) -> T:
        """Await with this span as the current one: spans that a handler makes itself hang from it."""
        with trace.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        ):
            return await work

    def end(self, outcome: str, *, failed: bool = False, **attributes: str | int) -> None:
        """End the step, and say what came of it."""
        self._span.set_attributes({"holdfast.outcome": outcome, **_named(attributes)})
        if failed:
            self._span.set_status(StatusCode.ERROR, outcome)
        self._span.end()

    def settled(self, produced: asyncio.Future[int]) -> None:
        """End the step with what became of a record: durable, at this offset, or not known to be."""
        if produced.cancelled() or produced.exception() is not None:
            self.end("unknown", failed=True)
        else:
            self.end("durable", offset=produced.result())


class Tracing:
    """Begins spans. `ratio`: the share of what begins here that is followed; `close` exports what is left."""

    def __init__(
        self,
        tracer: Tracer,
        ratio: float,
        *,
        chance: Callable[[], float] = random.random,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._tracer = tracer
        self._ratio = ratio
        self._chance = chance
        self.close = close

    def begin(self, step: Step, message: str, session: str = "", parent: str = "") -> Span | None:
        """Begin to follow a message where chance will have it; a caller that traces has decided already."""
        if parent and (known := _known(parent)).is_valid:
            return self._span(step, known, message=message) if known.trace_flags.sampled else None
        if self._chance() >= self._ratio:
            return None
        return self._span(step, None, message=message, session=session)

    def follow(self, carried: str, step: Step, **attributes: str | int) -> Span | None:
        """Begin a step of a message that is followed; None where this context is none, or not sampled."""
        known = _known(carried)
        if not known.is_valid or not known.trace_flags.sampled:
            return None
        return self._span(step, known, **attributes)

    def of_record(
        self, headers: Sequence[tuple[str, bytes]], step: Step, **attributes: str | int
    ) -> Span | None:
        """Begin a step of a consumed record, where its headers say that it is followed."""
        for name, value in headers:
            if name == HEADER:
                return self.follow(value.decode("ascii", "replace"), step, **attributes)
        return None

    def _span(self, step: Step, parent: SpanContext | None, **attributes: str | int) -> Span:
        context = contexts.Context()
        if parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(parent), context)
        return Span(self._tracer, step, context, _named(attributes))


def _known(carried: str) -> SpanContext:
    """Return the context of a `traceparent`; one that is not valid where it is malformed."""
    context = _propagator.extract({HEADER: carried}, contexts.Context())
    return trace.get_current_span(context).get_span_context()


def _named(attributes: Mapping[str, Any]) -> Attributes:
    """Return attributes by the names that OpenTelemetry has for them, else by our own."""
    return {_NAMES.get(name, f"holdfast.{name}"): value for name, value in attributes.items() if value != ""}


_NAMES: Final = {
    "message": "messaging.message.id",
    "partition": "messaging.destination.partition.id",
    "offset": "messaging.kafka.offset",
}
