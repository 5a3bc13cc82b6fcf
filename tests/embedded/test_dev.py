"""`holdfast dev` as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import aiohttp

from holdfast.client import Client

if TYPE_CHECKING:
    from tests.embedded.conftest import Running


def environment(*ports: int) -> dict[str, str]:
    names = ("ACCESS_WEBSOCKET_PORT", "ACCESS_TCP_PORT", "API_PORT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return kept | {f"HOLDFAST_{name}": str(port) for name, port in zip(names, ports, strict=True)}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def dev(*arguments: str, env: dict[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast.cli", "dev", *arguments, env=env, stdout=pipe, stderr=pipe
    )


async def test_it_serves_and_ends_cleanly() -> None:
    """It prints where to go, two clients talk over WebSocket and TCP, and SIGTERM ends it with 0."""
    ws, tcp, api = free_ports(3)
    process = await dev("examples.chat:app", env=environment(ws, tcp, api))
    assert process.stdout is not None
    async with asyncio.timeout(40):
        printed = (await process.stdout.readuntil(b"Ctrl-C")).decode()
        assert f"http://127.0.0.1:{api}/" in printed
        async with aiohttp.ClientSession() as http:
            tokens = [await demo_token(http, f"http://127.0.0.1:{api}", name) for name in ("ann", "bob")]
        async with (
            Client(f"ws://127.0.0.1:{ws}/ws", token=tokens[0]) as ann,
            Client(f"tcp://127.0.0.1:{tcp}", token=tokens[1]) as bob,
        ):
            message_id = await ann.send("user:bob", "chat.text", {"text": " hi "})
            async for message in bob.messages():
                if message.cause == message_id:
                    assert message.data["text"] == "hi"
                    break
            assert await ann.request("chat.online", {"users": ["bob", "eve"]}) == {"bob": True, "eve": False}
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")


async def demo_token(http: aiohttp.ClientSession, api: str, user: str) -> str:
    async with http.post(f"{api}/demo/token", json={"user": user}) as answer:
        return str((await answer.json())["token"])


async def test_a_port_in_use_is_named_with_its_setting() -> None:
    """A port that is taken ends it at once with the setting to change (inv 11)."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [*free_ports(2), taken.getsockname()[1]]
        process = await dev(env=environment(*ports))
        _, errors = await process.communicate()
    assert process.returncode == 78
    assert "HOLDFAST_API_PORT" in errors.decode()
    assert str(ports[2]) in errors.decode()


async def test_an_app_that_is_not_there_is_named() -> None:
    """A wrong `module:name` ends it with a sentence and no traceback (inv 11)."""
    process = await dev("no_such_module:app", env=environment(*free_ports(3)))
    _, errors = await process.communicate()
    assert process.returncode == 78
    assert "no_such_module" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_the_page_and_its_tokens(running: Running) -> None:
    """The page is served with its parts and allows no foreign resource; tokens are for JSON callers only."""
    async with aiohttp.ClientSession() as http:
        for path, start in (("/", "<!doctype"), ("/app.js", '"use strict"'), ("/style.css", ":root")):
            async with http.get(running.api + path) as answer:
                assert (await answer.text()).startswith(start)
                assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        cases: list[tuple[dict[str, Any], int]] = [
            ({"data": '{"user": "ann"}'}, 415),
            ({"json": {"user": "a b"}}, 400),
            ({"json": ["ann"]}, 400),
            ({"json": {"user": "ann"}}, 200),
        ]
        for body, status in cases:
            async with http.post(f"{running.api}/demo/token", **body) as answer:
                assert answer.status == status, body
