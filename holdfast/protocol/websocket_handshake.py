"""The HTTP part of RFC 6455: the request, the checks, the response, for both sides."""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_HEAD: Final = 8192
"""Bytes of a request or response up to and with its empty line, at most."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_token: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_control: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_header_lines: Final = re.compile(
    r"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*)*"
).fullmatch  # all at once: a head takes 3.2 µs, line by line it took 5.0
_status_line: Final = re.compile(r"HTTP/1\.1 ([1-5][0-9]{2})(?: (.*))?").fullmatch
_SINGLE: Final = frozenset(
    ("host", "origin", "sec-websocket-accept", "sec-websocket-key", "sec-websocket-version")
)
_PROTOCOL: Final = "sec-websocket-protocol"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of payload: of a whole message, and of each frame of one (not above the message's)."""

    max_message: int
    max_frame: int


@dataclass(frozen=True, slots=True)
class ServerConfig(Limits):
    """What all connections of a listener share: one object, referred to by each."""

    path: str
    subprotocols: tuple[str, ...]
    origins: frozenset[str]

    @classmethod
    def of(
        cls,
        *,
        path: str = "/ws",
        subprotocols: Sequence[str] = (),
        origins: Sequence[str] = (),
        max_message: int = 65_536,
        max_frame: int | None = None,
    ) -> ServerConfig:
        """Build one. Without `origins` every Origin is allowed; with some, a request without one still is."""
        return cls(
            max_message=max_message,
            max_frame=min(max_message, max_frame or max_message),
            path=path,
            subprotocols=tuple(subprotocols),
            origins=frozenset(origin.lower() for origin in origins),
        )


class Request(NamedTuple):
    """The request of a handshake. Header names are in lower case, repeated ones joined by commas."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class Refusal(Exception):  # noqa: N818 - not an error of ours
    """The handshake is refused, with this HTTP status (0: no HTTP at all); the message says why."""

    def __init__(self, status: int, message: str, *headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.after = 0.0
        """Seconds after which to come back, as a server's response says."""

    def response(self) -> bytes:
        """Return the HTTP response."""
        body = f"{self}\n".encode()
        lines = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            *self.headers,
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + body


def head_of(data: bytes) -> bytes | None:
    """Return the head without its empty line, None while it is incomplete. Raises Refusal when too long."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end >= 0:
        return data[:end]
    if len(data) >= MAX_HEAD:
        raise Refusal(431, f"the header must fit in {MAX_HEAD} bytes")
    return None


def parse_request(head: bytes) -> Request:
    """Parse a request's head. Raises Refusal where it is no HTTP/1.1."""
    first, headers = _parse_head(head)
    parts = first.split(" ")
    if len(parts) != 3 or _control(first) or not _token(parts[0]) or not parts[2].startswith("HTTP/"):
        raise Refusal(400, "the request line is malformed")
    method, target, version = parts
    if version != "HTTP/1.1":
        raise Refusal(505, "the version must be HTTP/1.1")
    if not headers.get("host"):
        raise Refusal(400, "the Host header is missing")
    if target[:1] != "/":
        target = _origin_form(target)
    path, _, query = target.partition("?")
    return Request(method, path, query, headers)


def accept(request: Request, config: ServerConfig) -> tuple[str, bytes]:
    """Check a request and return the subprotocol agreed on ("" where none was offered) and the response.

    Raises Refusal.
    """
    headers = request.headers
    if request.path != config.path:
        raise Refusal(404, f"there is nothing here; the WebSocket is at {config.path}")
    if request.method != "GET":
        raise Refusal(405, "a WebSocket handshake is a GET", "Allow: GET")
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise Refusal(426, "this is a WebSocket: the Upgrade header must say so", "Upgrade: websocket")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise Refusal(400, "the Connection header must contain Upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise Refusal(
            426, "Sec-WebSocket-Version must be 13", "Upgrade: websocket", "Sec-WebSocket-Version: 13"
        )
    key = headers.get("sec-websocket-key", "")
    if not _valid_key(key):
        raise Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    if config.origins and (origin := headers.get("origin")) and origin.lower() not in config.origins:
        raise Refusal(403, "this Origin is not allowed")
    subprotocol = ""
    if _PROTOCOL in headers:
        offered = [name.strip(" \t") for name in headers[_PROTOCOL].split(",")]
        subprotocol = _choose(offered, config.subprotocols)
    return subprotocol, b"".join(
        (
            _SWITCHING,
            accept_key(key),
            b"\r\nSec-WebSocket-Protocol: " + subprotocol.encode() if subprotocol else b"",
            b"\r\n\r\n",
        )
    )


def accept_key(key: str) -> bytes:
    """Return the proof that the key was read (RFC 6455, section 4.2.2)."""
    return b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())


def new_key() -> str:
    """Return a client's random key."""
    return b64encode(os.urandom(16)).decode()


def request_bytes(
    host: str, path: str, key: str, subprotocols: Sequence[str], headers: Iterable[tuple[str, str]]
) -> bytes:
    """Return a client's request. Raises ValueError for what cannot stand in one."""
    lines = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if subprotocols:
        lines.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    lines += headers
    for name, value in lines:
        if not _token(name) or _control(value) or not value.isascii():
            raise ValueError(f"{name}: {value!r} cannot stand in a header")
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError(f"{path!r} is no path")
    text = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"GET {path} HTTP/1.1\r\n{text}\r\n".encode()


def check_response(head: bytes, key: str, offered: Sequence[str]) -> str:
    """Check a server's response and return its subprotocol ("" for none).

    Raises Refusal with the server's status, or with 0 where the response is no valid handshake.
    """
    try:
        first, headers = _parse_head(head)
    except Refusal as refusal:
        raise Refusal(0, f"malformed response: {refusal}") from None
    matched = _status_line(first)
    if matched is None:
        raise Refusal(0, "the response is no HTTP/1.1")
    status = int(matched[1])
    if status != 101:
        refused = Refusal(status, matched[2] or "the handshake was refused")
        after = headers.get("retry-after", "")
        if after.isascii() and after.isdigit() and len(after) < 10:  # it may be a date, too
            refused.after = float(after)
        raise refused
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise Refusal(0, "the response does not upgrade to websocket")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise Refusal(0, "the response's Connection header does not contain Upgrade")
    if headers.get("sec-websocket-accept", "").encode("latin-1") != accept_key(key):
        raise Refusal(0, "the response does not prove that the key was read")
    if headers.get("sec-websocket-extensions"):
        raise Refusal(0, "the response has an extension that was not offered")
    subprotocol = headers.get(_PROTOCOL, "")
    if subprotocol and subprotocol not in offered:
        raise Refusal(0, "the response has a subprotocol that was not offered")
    return subprotocol


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    text = head.decode("latin-1")
    first, *lines = text.split("\r\n")
    if not _header_lines(text, len(first)):
        raise Refusal(400, "a header line is malformed")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            if name in _SINGLE:
                raise Refusal(400, f"the {name} header is there twice")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return first, headers


def _origin_form(target: str) -> str:
    """Return the path and query of an absolute request target (RFC 6455 allows one)."""
    scheme, found, rest = target.partition("://")
    if not found or scheme.lower() not in ("http", "https", "ws", "wss"):
        raise Refusal(400, "the request target is malformed")
    _, slash, path = rest.partition("/")
    return slash + path if slash else "/"


def _tokens(value: str) -> list[str]:
    """Return the elements of a list header, in lower case."""
    return [token.strip(" \t") for token in value.lower().split(",")]


def _valid_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:
        return False


def _choose(offered: Sequence[str], known: Sequence[str]) -> str:
    for name in offered:
        if name in known:
            # The listener's own string: connections share it.
            return known[known.index(name)]
    raise Refusal(400, f"none of the offered subprotocols is known; there are {', '.join(known) or 'none'}")
