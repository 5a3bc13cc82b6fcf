"""A node that is added takes its share of the connections."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from holdfast.client import Client
from holdfast.settings import Access, Settings
from holdfast.testing import Cluster
from services.access.rebalance import LEAST, STEADY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable

COUNT = 60


class Balanced:
    """The cluster's network behind a balancer: each connection goes to the next node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._numbers = itertools.count()

    async def connect(self, protocol_factory: Any, host: str, port: int, **more: Any) -> Any:
        nodes = self._cluster.embedded.nodes()
        node = nodes[next(self._numbers) % len(nodes)]
        port = urlsplit(node.endpoints["websocket"]).port or port
        return await self._cluster.network.connect(protocol_factory, host, port, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster.network, name)


async def done(cluster: Cluster, work: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(work)
    while not task.done():
        await cluster.advance(0.1)
    await task


@pytest.mark.parametrize("rate", [10, 0])
async def test_scale_out(rate: int) -> None:
    """inv 4, 10: the old node sheds its surplus, and no message is lost or doubled; 0 switches it off."""
    settings = Settings(access=Access(rebalance_rate=rate))
    async with Cluster(settings=settings) as cluster:
        balanced: Any = Balanced(cluster)
        got: list[int] = []
        clients = []
        for number in range(COUNT):
            token = cluster.token(f"u{number}")
            client = Client(
                "ws://memory:1/ws", token=token, network=balanced, clock=cluster.clock, backoff=(0.05, 0.5)
            )
            client.on("message")(lambda message: got.append(message.data))
            clients.append(client)
        await done(cluster, asyncio.gather(*(client.connect() for client in clients)))
        await done(cluster, cluster.embedded.add("access", "access-2"))
        old, new = cluster.embedded.access
        await cluster.advance(STEADY_SECONDS - 2)
        assert (len(old.drivers), len(new.drivers)) == (COUNT, 0)
        for round_ in range(10):
            for number in range(COUNT):
                await cluster.publish(f"user:u{number}", "text", round_ * COUNT + number)
            await cluster.advance(1)
        if rate:
            assert len(old.drivers) <= COUNT / 2 + LEAST
            assert len(new.drivers) == COUNT - len(old.drivers)
        else:
            assert (len(old.drivers), len(new.drivers)) == (COUNT, 0)
        assert sorted(got) == list(range(10 * COUNT))
        for client in clients:
            await client.close()
