"""A collector of spans: takes OTLP over HTTP on loopback, and keeps what came."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Seen(NamedTuple):
    """One span as it came over the wire."""

    service: str
    name: str
    trace: bytes
    span: bytes
    parent: bytes
    took: float
    attributes: dict[str, Any]


class Collector:
    """Listens until closed. `raw` is every body as it came."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.raw: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def endpoint(self) -> str:
        """Where to send spans."""
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def take(self, path: str, body: bytes) -> None:
        """Keep the spans of one request."""
        assert path == "/v1/traces"
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                    values = _values(span.attributes)
                    seen = Seen(
                        told["service.name"], span.name, span.trace_id, span.span_id, span.parent_span_id,
                        took, values,
                    )  # fmt: skip
                    self.spans.append(seen)

    def path(self, last: Seen) -> list[tuple[str, str]]:
        """Return (service, step) from the first step to this one; what has not come yet is missing."""
        by_id = {seen.span: seen for seen in self.spans}
        steps = [(last.service, last.name)]
        while last.parent in by_id:
            last = by_id[last.parent]
            steps.insert(0, (last.service, last.name))
        return steps


def _values(attributes: Any) -> dict[str, Any]:
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in attributes
    }
