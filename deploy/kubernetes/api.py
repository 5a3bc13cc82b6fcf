"""Calls of the Kubernetes API: paths and JSON."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Object = dict[str, Any]


class Refused(Exception):  # noqa: N818 - an answer
    """The server said no: its status, and why."""

    def __init__(self, status: int, answer: Object) -> None:
        super().__init__(f"{status}: {answer.get('message', answer)}")
        self.status = status
        self.answer = answer


class Api:
    """An API server at a URL, which has its certificate from `authority`, for who has the token."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        self._url = url
        self._token = token
        self._context = ssl.create_default_context(cafile=str(authority))

    def get(self, path: str) -> Object:
        """Return what is at a path. Raises Refused, OSError."""
        return self.call("GET", path)

    def post(self, path: str, body: Object) -> Object:
        """Create something below a path. Raises Refused, OSError."""
        return self.call("POST", path, body)

    def patch(self, path: str, body: Object) -> Object:
        """Change the fields that `body` has. Raises Refused, OSError."""
        return self.call("PATCH", path, body, kind="application/merge-patch+json")

    def delete(self, path: str, **options: Any) -> Object:
        """Delete what is at a path. Raises Refused, OSError."""
        return self.call("DELETE", path, options or None)

    def ready(self) -> bool:
        """Tell whether it serves."""
        try:
            self.get("/readyz")
        except (Refused, OSError):
            return False
        return True

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Object:
        """Call; return the answer, which is {} where it is no JSON. Raises Refused, OSError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        request = urllib.request.Request(self._url + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=15, context=self._context) as answer:  # noqa: S310
                return _parsed(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, _parsed(error.read())) from None


def _parsed(text: bytes) -> Object:
    if not text.startswith(b"{"):
        return {"message": text.decode(errors="replace")}
    parsed: Object = json.loads(text)
    return parsed


def until(what: str, holds: Callable[[], bool], seconds: float, pace: float = 0.5) -> float:
    """Wait until something holds; return the seconds that took. Raises TimeoutError."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pace)
    return time.monotonic() - begin
