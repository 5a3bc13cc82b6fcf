"""The handshake: what is accepted, what is refused with which status, on both sides."""

from __future__ import annotations

import pytest
from hypothesis import given

from holdfast.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from holdfast.protocol.websocket import WebSocketClient, WebSocketServer
from holdfast.protocol.websocket_handshake import MAX_HEAD, accept_key
from tests.protocol.pair import BOTH, cuts, feed, pieces, raw

GOOD = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET /ws HTTP/1.1", more: str = "", **changed: str | None) -> bytes:
    headers = GOOD | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([line, *lines]).encode("latin-1") + b"\r\n" + more.encode("latin-1") + b"\r\n"


def server(origins: tuple[str, ...] = ()) -> WebSocketServer:
    return WebSocketServer(subprotocols=BOTH, origins=origins, max_message=65_536)


@pytest.mark.parametrize(
    ("data", "subprotocol"),
    [
        (request(), ""),
        (request("GET /ws?x=1 HTTP/1.1"), ""),
        (request("GET http://example.org/ws HTTP/1.1"), ""),
        (request(Upgrade="WebSocket"), ""),
        (request(Connection="UPGRADE"), ""),
        (request(more="Connection: other\r\n"), ""),
        (request(Sec_WebSocket_Protocol=SUBPROTOCOL_JSON), SUBPROTOCOL_JSON),
        (request(Sec_WebSocket_Protocol=f"other,{SUBPROTOCOL_MSGPACK}"), SUBPROTOCOL_MSGPACK),
        (
            request(Sec_WebSocket_Protocol="other", more=f"Sec-WebSocket-Protocol: {SUBPROTOCOL_JSON}\r\n"),
            BOTH[0],
        ),
        (request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"), ""),
        (request(Origin="https://anywhere.example"), ""),
        (request(more="X-Empty:\r\nX-Padded: \t a \t\r\n"), ""),
    ],
)
def test_accepted(data: bytes, subprotocol: str) -> None:
    """A proper request is answered with 101, the RFC's own accept key and the first known subprotocol."""
    codec = server()
    assert codec.receive(data) == []
    response = codec.take()
    assert response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
    assert b"xtensions" not in response
    assert (b"Sec-WebSocket-Protocol" in response) == bool(subprotocol)
    assert codec.subprotocol == subprotocol
    assert codec.open
    assert codec.ended is None
    assert codec.request is not None
    assert codec.request.path == "/ws"


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "post": (request("POST /ws HTTP/1.1"), 405, "GET"),
    "http 1.0": (request("GET /ws HTTP/1.0"), 505, "HTTP/1.1"),
    "http 2": (request("GET /ws HTTP/2.0"), 505, "HTTP/1.1"),
    "no version": (request("GET /ws"), 400, "request line"),
    "two spaces": (request("GET  /ws HTTP/1.1"), 400, "request line"),
    "no method": (request(" /ws HTTP/1.1"), 400, "request line"),
    "control in path": (request("GET /ws\x01 HTTP/1.1"), 400, "request line"),
    "not http": (b"\x16\x03\x01\r\n\r\n", 400, "request line"),
    "target": (request("GET ws HTTP/1.1"), 400, "target"),
    "other path": (request("GET / HTTP/1.1"), 404, "/ws"),
    "plain get": (b"GET /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n", 404, "/ws"),
    "no host": (request(Host=None), 400, "Host"),
    "empty host": (request(Host=""), 400, "Host"),
    "two hosts": (request(more="Host: other\r\n"), 400, "twice"),
    "no upgrade": (request(Upgrade=None), 426, "Upgrade"),
    "upgrade to other": (request(Upgrade="h2c"), 426, "Upgrade"),
    "no connection": (request(Connection=None), 400, "Connection"),
    "connection close": (request(Connection="close"), 400, "Connection"),
    "connection part of a token": (request(Connection="xupgrade"), 400, "Connection"),
    "no key": (request(Sec_WebSocket_Key=None), 400, "Key"),
    "short key": (request(Sec_WebSocket_Key="dGhl"), 400, "Key"),
    "15 bytes": (request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAAA="[:-4] + "===="), 400, "Key"),
    "17 bytes": (request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAAA="), 400, "Key"),
    "no base64": (request(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZ!=="), 400, "Key"),
    "two keys": (request(more="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "twice"),
    "version missing": (request(Sec_WebSocket_Version=None), 426, "13"),
    "version 8": (request(Sec_WebSocket_Version="8"), 426, "13"),
    "unknown subprotocol": (request(Sec_WebSocket_Protocol="chat, v2"), 400, SUBPROTOCOL_JSON),
    "header without colon": (request(more="nonsense\r\n"), 400, "header line"),
    "space before colon": (request(more="X : a\r\n"), 400, "header line"),
    "folded header": (request(more=" folded\r\n"), 400, "header line"),
    "line feed alone": (request(more="X: a\nY: b\r\n"), 400, "header line"),
    "nul": (request(more="X: a\0\r\n"), 400, "header line"),
    "too long": (request(more=f"X: {'a' * MAX_HEAD}\r\n"), 431, str(MAX_HEAD)),
}


@pytest.mark.parametrize(("data", "status", "word"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, status: int, word: str) -> None:
    """inv 11: a wrong request gets a short plain response that says what is wrong, and the end."""
    codec = server()
    assert codec.receive(data) == []
    head, _, body = codec.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    assert word in body.decode()
    assert codec.ended is not None
    assert codec.ended.code == status
    assert not codec.open
    assert codec.receive(request()) == []
    assert codec.take() == b""


@pytest.mark.parametrize(("data", "status", "word"), REFUSED.values(), ids=REFUSED)
def test_refused_alike_byte_by_byte(data: bytes, status: int, word: str) -> None:
    """inv 11: how the request was cut into reads changes nothing."""
    whole, cut = server(), server()
    assert feed(whole, [data]) == feed(cut, [data[i : i + 1] for i in range(len(data))])
    assert whole.ended == cut.ended


def test_version_is_told() -> None:
    """A client of another version learns ours."""
    codec = server()
    codec.receive(request(Sec_WebSocket_Version="8"))
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in codec.take()


@pytest.mark.parametrize(
    ("origin", "open_"),
    [
        ("https://a.example", True),
        ("HTTPS://A.example", True),
        (None, True),
        ("https://b.example", False),
        ("null", False),
    ],
)
def test_origins(origin: str | None, open_: bool) -> None:
    """Where origins are set, pages of others are refused with 403; a client that sends none is no page."""
    codec = server(("https://a.example",))
    codec.receive(request(Origin=origin))
    assert codec.open is open_
    if not open_:
        assert codec.take().startswith(b"HTTP/1.1 403 ")


def test_largest_head_is_accepted() -> None:
    """A head of exactly the limit passes, one byte more does not."""
    room = MAX_HEAD - len(request(more="X: \r\n"))
    codec = server()
    codec.receive(request(more=f"X: {'a' * room}\r\n"))
    assert codec.open
    codec = server()
    codec.receive(request(more=f"X: {'a' * (room + 1)}\r\n"))
    assert codec.ended is not None
    assert codec.ended.code == 431


def test_endless_head_is_bounded() -> None:
    """inv 7: a client that never ends its header costs no more than the limit."""
    codec = server()
    for _ in range(MAX_HEAD // 16):
        codec.receive(b"x" * 16)
    assert codec.ended is not None
    assert codec.ended.code == 431


@given(cuts)
def test_handshake_cut_anywhere(places: list[int]) -> None:
    """The handshake and a message right behind it may be cut anywhere."""
    message = bytes.fromhex("818537fa213d7f9f4d5158")
    codec = server()
    messages, written = feed(codec, pieces(request() + message, places))
    assert messages == [b"Hello"]
    assert written.startswith(b"HTTP/1.1 101 ")


def test_response_comes_before_what_follows() -> None:
    """A ping and a close in the same read as the request are answered behind the response."""
    codec = server()
    codec.receive(request() + raw(0x89, b"?") + raw(0x88))
    written = codec.take()
    assert written.startswith(b"HTTP/1.1 101 ")
    assert written.endswith(b"\r\n\r\n\x8a\x01?\x88\x00")


def test_close_before_the_handshake() -> None:
    """A listener that leaves answers a half-sent request with 503."""
    codec = server()
    codec.receive(b"GET /ws")
    assert codec.close(1001, "going away").startswith(b"HTTP/1.1 503 ")
    assert codec.ended == (503, "going away", False)
    assert codec.close(1001) == b""


def response(
    first: str = "HTTP/1.1 101 Switching Protocols", more: str = "", key: str = "", **changed: str | None
) -> bytes:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_key(key).decode(),
    }
    merged = headers | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return ("\r\n".join([first, *lines]) + "\r\n" + more + "\r\n").encode("latin-1")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"first": "HTTP/1.1 404 Not Found"}, 404),
        ({"first": "HTTP/1.1 503"}, 503),
        ({"first": "HTTP/1.0 101 Switching Protocols"}, 0),
        ({"first": "SSH-2.0-OpenSSH"}, 0),
        ({"Upgrade": None}, 0),
        ({"Connection": "close"}, 0),
        ({"Sec_WebSocket_Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, 0),
        ({"Sec_WebSocket_Accept": None}, 0),
        ({"Sec_WebSocket_Protocol": "other"}, 0),
        ({"Sec_WebSocket_Extensions": "permessage-deflate"}, 0),
        ({"more": "bad line\r\n"}, 0),
        ({"more": f"X: {'a' * MAX_HEAD}\r\n"}, 431),
    ],
)
def test_client_refuses(changed: dict[str, str], code: int) -> None:
    """A client takes no other response than the right one."""
    client = WebSocketClient()
    sent = client.request("localhost", subprotocols=BOTH).decode()
    key = sent.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
    assert client.receive(response(key=key, **changed)) == []
    assert client.ended is not None
    assert client.ended.code == code
    assert client.ended.reason


def test_client_accepts_a_server_without_subprotocol() -> None:
    """A server may ignore the offer; JSON in text messages is meant then."""
    client = WebSocketClient()
    key = client.request("localhost", subprotocols=BOTH).decode().partition("Key: ")[2].partition("\r\n")[0]
    assert client.receive(response(key=key) + b"\x81\x02hi") == [b"hi"]
    assert client.subprotocol == ""


@pytest.mark.parametrize(
    ("host", "path", "headers"),
    [
        ("a\r\nX: y", "/ws", ()),
        ("a", "/w s", ()),
        ("a", "ws", ()),
        ("a", "/", (("X Y", "1"),)),
        ("a", "/", (("X", "1\r\n"),)),
    ],
)
def test_client_refuses_to_write_nonsense(host: str, path: str, headers: tuple[tuple[str, str], ...]) -> None:
    """What would break a header is refused before it is written."""
    with pytest.raises(ValueError):
        WebSocketClient().request(host, path, (), headers)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("soon", 0.0), ("-1", 0.0), ("9" * 20, 0.0), ("", 0.0)]
)
def test_when_to_come_back(value: str, seconds: float) -> None:
    """A refusal may say after how many seconds to come back; what is no such number says nothing."""
    client = WebSocketClient()
    client.request("localhost")
    client.receive(f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {value}\r\n\r\n".encode())
    assert client.retry_after == seconds


def test_turned_away() -> None:
    """A server that does not want a connection says so in HTTP, whatever it has read, and hears no more."""
    server = WebSocketServer()
    client = WebSocketClient()
    client.receive(server.turn_away("too many", 6.2))
    assert server.receive(client.request("localhost")) == []
    assert server.take() == b""
    assert client.ended is not None
    assert client.ended.code == 503
    assert client.retry_after == 7.0
