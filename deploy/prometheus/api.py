"""Questions to a Prometheus, over its HTTP API."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlencode


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Return what an expression gives now. Raises ValueError, with Prometheus's words, for a wrong one."""
    return _ask(address, "query", query=expression)


def query_range(address: str, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """Return what an expression gave from `start` to `end`, every `step` seconds. Raises ValueError."""
    return _ask(address, "query_range", query=expression, start=start, end=end, step=step)


def _ask(address: str, call: str, **asked: str | float) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection(address, timeout=20.0)
    try:
        connection.request("GET", f"/api/v1/{call}?{urlencode(asked)}")
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if answer["status"] != "success":
        raise ValueError(f"{asked['query']}: {answer.get('error')}")
    return list(answer["data"]["result"])
