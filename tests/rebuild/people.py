"""Clients of a local cluster, and what they were shown."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from holdfast.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.local.cluster import LocalCluster
    from holdfast.client import Message, Reset

ROOM = "room:crowd"


class People:
    """Clients, and calls of the API."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.info: dict[str, Any] = json.loads((cluster.dir / "cluster.json").read_text())
        self.urls = [node["websocket"] for node in self.info["nodes"] if node["role"] == "access"]
        self.http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.info['api_key']}"})
        self.clients: list[Client] = []

    async def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Call the API; return status and answer."""
        async with self.http.request(method, self.info["api"] + path, json=body) as answer:
            return answer.status, json.loads(await answer.text() or "null")

    async def token(self, user: str) -> str:
        """Issue a token."""
        return str((await self.api("POST", "/v1/tokens", {"user": user}))[1]["token"])

    async def join(self, user: str, node: int, token: str = "") -> Client:
        """Connect a user."""
        client = Client(self.urls[node], token=token or await self.token(user), backoff=(0.05, 1.0))
        self.clients.append(client)
        await client.connect()
        return client

    async def close(self) -> None:
        """Close everything."""
        for client in self.clients:
            await client.close()
        await self.http.close()


async def eventually(holds: Callable[[], Any], seconds: float, why: Callable[[], Any] = str) -> None:
    """Wait until `holds()` is true."""
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"not within {seconds} s: {why()}"
        await asyncio.sleep(0.05)


class Reader:
    """What one client was shown."""

    def __init__(self, client: Client) -> None:
        self.shown: list[Any] = []
        self.resets: list[Reset] = []

        def message(message: Message) -> None:
            if message.channel == ROOM:
                self.shown.append(tuple(message.data))

        client.on("message")(message)
        client.on("reset")(self.resets.append)
