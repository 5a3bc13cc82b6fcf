"""For teams who use Locust: users who connect, write to each other, and wait for the ack and the message.

    HOLDFAST_SECRET=... locust -f loadtest/locustfile.py --host ws://HOST:8000/ws

Locust is a closed loop in Python: good for a few thousand users and a familiar page; `python -m loadtest` is
for cost, large numbers, and times that do not leave out what nobody waited for.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from typing import Any

import jwt
from locust import User, between, task
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECRET = os.environ.get("HOLDFAST_SECRET", "")
KEPT = 1000
"""Sends whose times are remembered: the ack may come before the message, or after it."""

_numbers = itertools.count()


class Chatter(User):  # type: ignore[misc]
    """One client: it writes to its own inbox, so that it sees its message come back through all parts."""

    wait_time = between(0.5, 2)

    def on_start(self) -> None:
        """Connect, and read in the background."""
        self.user = f"locust-{os.getpid()}-{next(_numbers)}"
        self.n = 0
        self._begun: dict[int, float] = {}
        begin = time.perf_counter()
        token = jwt.encode({"sub": self.user, "exp": int(time.time()) + 86_400}, SECRET, "HS256")
        self._socket = connect(self.host)
        self._socket.send(json.dumps({"t": "connect", "token": token, "device": "locust"}))
        first = json.loads(self._socket.recv())
        refused = None if first["t"] == "connected" else RuntimeError(first)
        self._report("connect", begin, refused)
        threading.Thread(target=self._read, daemon=True).start()

    def on_stop(self) -> None:
        """Leave."""
        self._socket.close()

    @task  # type: ignore[untyped-decorator]
    def say(self) -> None:
        """Send one message."""
        self.n += 1
        self._begun[self.n] = time.perf_counter()
        self._begun.pop(self.n - KEPT, None)
        frame: dict[str, Any] = {"t": "send", "id": self.n, "n": self.n, "to": f"user:{self.user}"}
        self._socket.send(json.dumps(frame | {"type": "text", "data": {"n": self.n}}))

    def _read(self) -> None:
        try:
            for text in self._socket:
                for line in str(text).split("\n"):
                    self._take(json.loads(line))
        except ConnectionClosed as closed:
            self._report("closed", time.perf_counter(), closed)

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["t"]:
            case "ack":
                self._report("ack", self._begun[frame["id"]])
            case "message":
                self._report("message", self._begun[frame["data"]["n"]])
            case "ping":
                self._socket.send('{"t":"pong"}')
            case "error":
                self._report("send", time.perf_counter(), RuntimeError(frame["message"]))

    def _report(self, name: str, begin: float, wrong: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="holdfast",
            name=name,
            response_time=(time.perf_counter() - begin) * 1000,
            response_length=0,
            exception=wrong,
        )
