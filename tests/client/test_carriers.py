"""The client on real sockets, against an independent WebSocket server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from holdfast.client import Client, Closed
from holdfast.client.connection import parse_url

CONNECTED = {
    "t": "connected",
    "session": "s",
    "user": "ann",
    "node": "n",
    "heartbeat": 25,
    "channels": {"user:ann": {"epoch": "e", "seq": 0, "recovered": False}},
    "limits": {"frame": 65536, "rate": 100, "in_flight": 8, "subscriptions": 10, "resend": 300},
}


async def test_websocket_with_several_frames_in_one_message() -> None:
    """Frames separated by line ends are taken one by one, and the JSON subprotocol is offered."""
    asked: list[Any] = []

    async def handler(socket: ServerConnection) -> None:
        asked.append(socket.subprotocol)
        asked.append(json.loads(await socket.recv()))
        message = {"t": "message", "channel": "user:ann", "epoch": "e", "type": "t", "ts": 1, "data": "é"}
        lines = [CONNECTED, *(message | {"seq": seq, "id": str(seq)} for seq in (1, 2))]
        await socket.send("\n".join(json.dumps(line) for line in lines))
        sent = [json.loads(line) for line in str(await socket.recv()).split("\n")]
        for frame in sent:
            await socket.send(json.dumps({"t": "ack", "id": frame["id"], "message": f"m{frame['n']}"}))
        await socket.wait_closed()

    async with serve(handler, "127.0.0.1", 0, subprotocols=["holdfast.v1.json"]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client(f"ws://127.0.0.1:{port}/ws", token="tok", device="web") as client:
            messages = client.messages()
            assert [(await anext(messages)).data for _ in range(2)] == ["é", "é"]
            ids = await asyncio.gather(*(client.send("user:bob", "t", number) for number in range(3)))
            assert ids == ["m1", "m2", "m3"]
    assert asked[0] == "holdfast.v1.json"
    assert asked[1]["token"] == "tok"


@pytest.mark.parametrize(("status", "final"), [(404, True), (403, True)])
async def test_http_refusals_that_stay_are_final(status: int, final: bool) -> None:
    """A refused handshake that will not pass ends the client, with the status."""

    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(status, "no\n")

    async def handler(socket: ServerConnection) -> None:
        raise AssertionError

    async with serve(handler, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        client = Client(f"ws://127.0.0.1:{port}/ws", token="tok")
        with pytest.raises(Closed, match=f"HTTP {status}"):
            await client.connect()


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("ws://h", ("ws", "h", 80, "/ws")),
        ("wss://h/path?x=1", ("wss", "h", 443, "/path?x=1")),
        ("tcp://[::1]", ("tcp", "::1", 8001, "/ws")),
        ("ws://h:8000/ws", ("ws", "h", 8000, "/ws")),
    ],
)
def test_urls(url: str, parsed: tuple[Any, ...]) -> None:
    """URLs name the carrier; ports have the carrier's default."""
    assert tuple(parse_url(url)) == parsed


@pytest.mark.parametrize("url", ["http://h", "ws://", "h:8000"])
def test_urls_that_are_none_are_refused(url: str) -> None:
    """What is no URL of a carrier is refused with a sentence that names those there are."""
    with pytest.raises(ValueError, match="ws://"):
        Client(url, token="x")
