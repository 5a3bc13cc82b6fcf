"""A model server, a client with its clock in hand, and what the client saw."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Self

from holdfast.client import Client, Message
from holdfast.clock import ManualClock
from holdfast.network import MemoryNetwork
from tests.client.model import ModelServer

if TYPE_CHECKING:
    from collections.abc import Coroutine


class World:
    """A model server, a client with a clock in hand, and what the client saw."""

    def __init__(self, clock: ManualClock | None = None, **more: Any) -> None:
        self.clock = clock or ManualClock()
        self.network = MemoryNetwork()
        self.server = ModelServer(self.network)
        self.client = Client(
            "tcp://model:7000",
            **{"token": "x"} | more,
            client="c1",
            network=self.network,
            clock=self.clock,
            random=random.Random(1),
        )
        self.seen: list[Message] = []
        self.events: list[tuple[str, Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        await self.server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.client.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def watch(self) -> None:
        self.client.on("message")(self.seen.append)
        for name in ("connected", "disconnected", "reset", "error", "drain"):
            self.client.on(name)(lambda value, name=name: self.events.append((name, value)))

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        return task

    def data(self, channel: str) -> list[Any]:
        return [message.data for message in self.seen if message.channel == channel]
