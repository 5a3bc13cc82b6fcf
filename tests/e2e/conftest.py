"""One local cluster of real servers and six service processes for all end-to-end tests."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from deploy.local.cluster import LocalCluster
from holdfast.client import Client
from tests.e2e.balancer import Balancer
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Kafka, Redis, Consul, and two processes of each service."""
    running = LocalCluster(
        tmp_path_factory.mktemp("cluster"),
        access=2,
        logic=2,
        dispatch=2,
        app="tests.e2e.handlers:app",
        settings={"access.devices": ["till=class"]},
    )
    with available():
        running.start()
    yield running
    running.stop()


class People:
    """Clients and API calls of one test, with names of its own."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.info: dict[str, Any] = json.loads((cluster.dir / "cluster.json").read_text())
        self.mark = uuid.uuid4().hex[:8]
        self._clients: list[Client] = []
        self._balancers: list[Balancer] = []
        self._session: aiohttp.ClientSession | None = None

    def nodes(self, role: str) -> list[dict[str, Any]]:
        """Return what cluster.json says of the processes of a role."""
        self.info = json.loads((self.cluster.dir / "cluster.json").read_text())
        return [node for node in self.info["nodes"] if node["role"] == role]

    def name(self, who: str) -> str:
        """Return a name that no other test has."""
        return f"{who}-{self.mark}"

    async def api(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """Call the HTTP API and return its answer."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.info['api_key']}"})
        async with self._session.request(method, self.info["api"] + path, json=body) as answer:
            text = await answer.text()
            assert answer.status == status, f"{method} {path}: {answer.status} {text}"
            return json.loads(text)

    async def forget_key(self) -> None:
        """Have the next call use the key that `info` has by then."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def token(self, user: str, **claims: Any) -> str:
        """Issue a token."""
        return str((await self.api("POST", "/v1/tokens", {"user": user, **claims}))["token"])

    async def balancer(self) -> Balancer:
        """Return a load balancer before the access nodes."""
        balancer = Balancer([urlsplit(node["websocket"]).port or 0 for node in self.nodes("access")])
        await balancer.start()
        self._balancers.append(balancer)
        return balancer

    async def join(self, user: str, where: int | str = 0, **options: Any) -> Client:
        """Connect a user to one of the access nodes, or to a URL."""
        url = where if isinstance(where, str) else self.nodes("access")[where]["websocket"]
        client = Client(url, token=await self.token(user), backoff=(0.05, 1.0), **options)
        self._clients.append(client)
        await client.connect()
        return client

    async def close(self) -> None:
        """Close everything."""
        for client in self._clients:
            await client.close()
        for balancer in self._balancers:
            await balancer.stop()
        if self._session is not None:
            await self._session.close()


@pytest.fixture
async def people(cluster: LocalCluster) -> AsyncIterator[People]:
    """The clients of this test."""
    people = People(cluster)
    yield people
    await people.close()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait for a condition, a coroutine function that returns something true, within a time limit."""

    async def wait(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        end = asyncio.get_running_loop().time() + seconds
        while True:
            found = await condition()
            if found:
                return found
            assert asyncio.get_running_loop().time() < end, f"not true within {seconds} s; last: {found!r}"
            await asyncio.sleep(0.02)

    return wait
