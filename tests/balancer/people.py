"""Clients behind a balancer, and what they see."""

from __future__ import annotations

import asyncio
import collections
import json
import uuid
from typing import TYPE_CHECKING, Any

import aiohttp

from holdfast.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.local.balancer import Balancer
    from deploy.local.cluster import LocalCluster

PER_ADDRESS = 30
"""Connections that an access node takes of one client address."""


class Talk:
    """One sender and some receivers of one room; all of them must see all messages, once and in order."""

    def __init__(self, people: People, sender: Client, receivers: list[Client], room: str) -> None:
        self.receivers = receivers
        self.acked: list[int] = []
        self.got: list[list[int]] = [[] for _ in receivers]
        self._people = people
        self._sender = sender
        self._room = room
        self._stop = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._send())]
        self._tasks += [asyncio.ensure_future(self._receive(number)) for number in range(len(receivers))]

    async def _send(self) -> None:
        number = 0
        while not self._stop.is_set():
            await self._sender.send(self._room, "text", number)
            self.acked.append(number)
            number += 1
            await asyncio.sleep(0.005)

    async def _receive(self, number: int) -> None:
        async for message in self.receivers[number].messages():
            self.got[number].append(message.data)

    async def goes_on(self) -> None:
        """Wait until some more messages are acked."""
        count = len(self.acked) + 20
        await self._people.until(lambda: len(self.acked) >= count)

    async def end(self) -> None:
        """Stop sending, wait for what was sent, and compare."""
        self._stop.set()
        await self._tasks[0]
        await self._people.until(lambda: all(len(got) >= len(self.acked) for got in self.got))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(got == self.acked for got in self.got)


class People:
    """Clients of one test, with names of their own."""

    def __init__(self, cluster: LocalCluster, balancer: Balancer) -> None:
        self.cluster = cluster
        self.balancer = balancer
        self.mark = uuid.uuid4().hex[:8]
        self._info: dict[str, Any] = json.loads((cluster.dir / "cluster.json").read_text())
        self._clients: list[Client] = []
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self._info['api_key']}"})

    async def call(self, url: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
        """Make an HTTP call through the balancer; return the status and the body."""
        async with self._session.request(
            method, url, json=body, headers=headers or None, ssl=self.balancer.ssl
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if "json" in answer.content_type else text

    async def token(self, user: str) -> str:
        """Issue a token."""
        status, body = await self.call(self.balancer.api + "/v1/tokens", "POST", {"user": user})
        assert status == 200, body
        return str(body["token"])

    async def join(self, who: str, url: str = "", **options: Any) -> Client:
        """Connect a user through the balancer."""
        client = Client(
            url or self.balancer.websocket,
            token=await self.token(f"{who}-{self.mark}"),
            ssl=self.balancer.ssl,
            backoff=(0.05, 0.5),
            **options,
        )
        self._clients.append(client)
        await client.connect()
        return client

    async def talk(self, count: int) -> Talk:
        """Start a conversation of one sender and `count` receivers, half of them on TCP."""
        room = f"room:{self.mark}"
        urls = (self.balancer.websocket, self.balancer.tcp)
        receivers = [await self.join(f"r{number}", urls[number % 2]) for number in range(count)]
        for client in receivers:
            await client.subscribe(room)
        return Talk(self, await self.join("sender"), receivers, room)

    async def until(self, true: Callable[[], bool], seconds: float = 15.0) -> None:
        """Wait for a condition."""
        end = asyncio.get_running_loop().time() + seconds
        while not true():
            assert asyncio.get_running_loop().time() < end, f"not true within {seconds} s"
            await asyncio.sleep(0.02)

    def spread(self, clients: list[Client]) -> collections.Counter[str]:
        """Return how many of the clients each node holds."""
        names = [client.session.node for client in clients if client.session is not None]
        return collections.Counter(name.partition(".")[0] for name in names)

    async def close(self) -> None:
        """Close everything."""
        await asyncio.gather(*(client.close() for client in self._clients))
        await self._session.close()
