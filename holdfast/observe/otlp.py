"""Where spans go: in batches, by OTLP over HTTP, from a thread of its own. Loaded where tracing is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from holdfast import __version__
from holdfast.observe.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from holdfast.observe.metrics import Metrics

QUEUE: Final = 4096
"""Spans that wait to be exported, at most; what comes above it is dropped and counted."""

BATCH: Final = 512
EVERY_MS: Final = 5000.0
"""An export costs 2 ms of CPU however little it carries, and takes turns with the loop."""

EXPORT_SECONDS: Final = 3.0
"""Seconds that one export may take, repetitions included: what a collector that hangs costs at the end."""


def to_collector(endpoint: str, ratio: float, *, role: str, node: str, metrics: Metrics) -> Tracing:
    """Return tracing into a collector. An empty endpoint leaves it to `OTEL_EXPORTER_OTLP_ENDPOINT`."""
    exporter = OTLPSpanExporter(endpoint or None, timeout=EXPORT_SECONDS)
    return to_exporter(exporter, ratio, role=role, node=node, metrics=metrics)


def to_exporter(exporter: SpanExporter, ratio: float, *, role: str, node: str, metrics: Metrics) -> Tracing:
    """Return tracing into any exporter."""
    resource = {
        "service.name": f"holdfast-{role}",
        "service.instance.id": node,
        "service.version": __version__,
    }
    provider = TracerProvider(
        sampler=ALWAYS_ON,  # chance was asked before there was anything to sample
        resource=Resource.create(resource),
        span_limits=SpanLimits(max_span_attribute_length=200),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(_Bounded(_Counted(exporter, metrics), metrics))
    return Tracing(provider.get_tracer("holdfast", __version__), ratio, close=provider.shutdown)


class _Counted(SpanExporter):
    """Counts what came of each span. `done` is written by the exporting thread only."""

    def __init__(self, beneath: SpanExporter, metrics: Metrics) -> None:
        self._beneath = beneath
        self._exported = metrics.trace_spans.labels("exported")
        self._failed = metrics.trace_spans.labels("failed")
        self.done = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        result = SpanExportResult.FAILURE
        try:
            result = self._beneath.export(spans)
        finally:
            counter = self._exported if result is SpanExportResult.SUCCESS else self._failed
            counter.inc(len(spans))
            self.done += len(spans)
        return result

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._beneath.shutdown()


class _Bounded(BatchSpanProcessor):
    """Drops new spans at the bound, and counts them: OpenTelemetry's own queue drops old ones, and says so
    in the log once for each.
    """  # noqa: D205

    def __init__(self, exporter: _Counted, metrics: Metrics) -> None:
        super().__init__(exporter, QUEUE, EVERY_MS, BATCH)
        self._counted = exporter
        self._dropped = metrics.trace_spans.labels("dropped")
        self._put = 0

    def on_end(self, span: ReadableSpan) -> None:
        """See SpanProcessor."""
        if self._put - self._counted.done >= QUEUE:
            self._dropped.inc()
            return
        self._put += 1
        super().on_end(span)
