"""Takes what Alertmanager sends, in the place of whoever is on call."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Notice(NamedTuple):
    """One alert as somebody is told of it. `receiver`: pages or tickets; `status`: firing or resolved."""

    receiver: str
    name: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Receiver(ThreadingHTTPServer):
    """Listens on loopback while it is entered; what came is in `notices`, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notices: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        """Its base URL: Alertmanager posts to /pages and /tickets below it."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Take a group of alerts."""
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            labels = alert["labels"]
            self.server.notices.put(
                Notice(self.path[1:], labels["alertname"], alert["status"], labels, alert["annotations"])
            )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
