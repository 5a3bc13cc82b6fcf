"""The generator speaks Centrifugo's protocol: tried on a server that speaks as much of it as is needed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from aiohttp import web

from loadtest import centrifugo
from loadtest.backend import Backend
from loadtest.centrifugo import KEY, SECRET, Peer
from loadtest.generators import Generators, Members
from loadtest.page import compared
from loadtest.scenario import Crowd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

USERS = 6

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None and os.environ.get("CI") != "true", reason="a C compiler is needed"
)


class Fake:
    """Answers as Centrifugo does. `lost`: publications, by number, that nobody is sent."""

    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.pongs = 0
        self.published = 0
        self._offsets: dict[str, int] = {}
        self._sockets: dict[str, web.WebSocketResponse] = {}

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one client."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            for line in message.data.split("\n"):
                for answer in await self._answers(socket, json.loads(line)):
                    await socket.send_str(answer)
        return socket

    async def batch(self, request: web.Request) -> web.Response:
        """Serve the API."""
        if request.headers["X-API-Key"] != KEY:
            raise web.HTTPUnauthorized
        commands = (await request.json())["commands"]
        for command in commands:
            await self._publish(command["publish"]["channel"], command["publish"]["data"])
        return web.json_response({"replies": [{"publish": {"offset": 1}} for _ in commands]})

    async def _answers(self, socket: web.WebSocketResponse, command: dict[str, Any]) -> list[str]:
        if not command:
            self.pongs += 1
            return []
        number = command["id"]
        if "connect" in command:
            claims = jwt.decode(command["connect"]["token"], SECRET, ["HS256"])
            (channel,) = claims["channels"]
            self._sockets[channel] = socket
            position: dict[str, Any] = {"recoverable": True, "epoch": "e"}
            if channel in self._offsets:
                position["offset"] = self._offsets[channel]
            reply = {"id": number, "connect": {"client": "c", "subs": {channel: position}, "pong": True}}
            return [compact(reply), "{}"]
        await self._publish(command["publish"]["channel"], command["publish"]["data"])
        return [compact({"id": number, "publish": {}})]

    async def _publish(self, channel: str, data: object) -> None:
        offset = self._offsets[channel] = self._offsets.get(channel, 0) + 1
        self.published += 1
        if self.published not in self.lost and channel in self._sockets:
            publication = {"data": data, "info": {"user": "u", "client": "c"}, "offset": offset}
            push = compact({"push": {"channel": channel, "pub": publication}})
            await self._sockets[channel].send_str(push)


def compact(value: object) -> str:
    """Return JSON as a server in Go writes it."""
    return json.dumps(value, separators=(",", ":"))


@pytest.fixture
async def fake() -> AsyncIterator[tuple[Fake, Peer]]:
    """A server, and how it is reached."""
    fake = Fake()
    app = web.Application()
    app.router.add_get("/connection/websocket", fake.socket)
    app.router.add_post("/api/batch", fake.batch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield fake, Peer([f"ws://{host}:{port}/connection/websocket"], [f"http://{host}:{port}"], KEY, SECRET)
    await runner.cleanup()


@needs_compiler
@pytest.mark.timeout(60)
async def test_pairs_write_to_each_other(fake: tuple[Fake, Peer], tmp_path: Path) -> None:
    """Each publication is counted once and each ack; one that is left out is a gap; pings are answered."""
    server, target = fake
    generators = Generators(tmp_path, target, [Members(Crowd("pairs", USERS, "peer"), "t")])
    try:
        assert (await generators.open())["opened"] == USERS
        await generators.each("load 300 128")
        counts = await generators.count("run 0.5")
        await generators.each("load 0 0")
        counts = await generators.count("run 0.3")
        assert counts["sent"] > USERS
        assert counts["sent"] == counts["acked"] == counts["messages"] == server.published
        assert counts["gaps"] == counts["doubles"] == counts["errors"] == counts["failed"] == 0
        assert counts["bytes"] / counts["messages"] > 128
        assert generators.times("ack").summary()["p50"] < 1000
        assert server.pongs == USERS

        server.lost = {server.published + 1}
        async with Backend(target) as backend:
            users = [f"t-pairs-{number}" for number in range(USERS)]
            await backend.publish(users, rate=1000, seconds=0.03, batch=5, size=16)
            assert (backend.published, backend.refused) == (30, 0)
        after = await asyncio.wait_for(_messages(generators, counts["messages"] + 29), 10)
        assert after["gaps"] == 1
    finally:
        generators.close()


async def _messages(generators: Generators, wanted: float) -> dict[str, float]:
    while (counts := await generators.count("run 0.05"))["messages"] < wanted:
        pass
    return counts


def test_nothing_is_started_where_no_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting there is no peer; one that names no file says which."""
    monkeypatch.delenv(centrifugo.SETTING, raising=False)
    with centrifugo.started(tmp_path / "peer") as none:
        assert none is None
    monkeypatch.setenv(centrifugo.SETTING, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"), centrifugo.started(tmp_path / "peer"):
        pass


def test_rows_are_added_up_within_a_run() -> None:
    """The median is of the sums, not the sum of medians; a line without its rows is left out."""
    rows = {"a": [1.0, 5.0, 9.0], "b": [9.0, 1.0, 2.0], "x": [50.0, 40.0, 300.0]}
    lines = [("both", ("a", "b"), ("x",)), ("none", ("a",), ("y",))]
    assert compared(rows, lines, "Peer 1", "make it").splitlines()[2:] == [
        "| What | Ours | Peer 1 |",
        "|---|---|---|",
        "| both | 10.0 (6.0 to 11.0) | 50.0 (40.0 to 300.0) |",
    ]
