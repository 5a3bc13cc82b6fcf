"""The API on loopback, with everything behind it in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from holdfast.auth import Verifier
from holdfast.bus.memory import MemoryBus
from holdfast.channel import partition_of
from holdfast.clock import SystemClock
from holdfast.log.port import Change, NodeUpdate, SessionInfo
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.membership.port import Node
from holdfast.settings import Api as ApiSettings
from holdfast.settings import Auth, Kafka, Settings
from services.logic.api import Api, create_api
from services.logic.api.openapi import document
from services.logic.reading import StoreReader
from tests.logic.schema import errors
from tests.logic.world import PARTITIONS, World

KEY = "a-key-of-the-api"
SECRET = "0123456789abcdef0123456789abcdef"


class Applying:
    """A producer behind which dispatch runs: what is durable is in the log a moment later."""

    def __init__(self, world: World, producer: Any) -> None:
        self.world = world
        self.producer = producer
        self.applies = True
        self.fails: Exception | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.lock = asyncio.Lock()

    def produce(self, *record: Any) -> asyncio.Future[int]:
        if self.fails is not None:
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(self.fails)
            return failed
        future: asyncio.Future[int] = self.producer.produce(*record)
        if self.applies:
            future.add_done_callback(self._apply)
        return future

    @property
    def crowded(self) -> bool:
        return bool(self.producer.crowded)

    def _apply(self, _: Any) -> None:
        task = asyncio.ensure_future(self._locked())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _locked(self) -> None:
        async with self.lock:
            await self.world.apply()
            await self.world.apply()  # what the first one told users' partitions

    async def close(self) -> None:
        await asyncio.gather(*self.tasks)


class ApiWorld(World):
    """The API, its settings, and what stands behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = MemoryRegistry()
        self.directory = MemoryDirectory(self.registry)
        self.settings = Settings(
            kafka=Kafka(partitions=PARTITIONS),
            auth=Auth(secrets=(SECRET,)),
            api=ApiSettings(keys=("another-key", KEY), body=900_000, publish_many=100),
        )
        self.calls: set[tuple[str, str]] = set()
        self.document = document()

    async def open(self) -> None:
        self.real = SystemClock()
        self.producer = Applying(self, await MemoryBus(self.broker).producer(deadline=1.0))
        self.api = Api(
            settings=self.settings,
            policies=self.policies,
            clock=self.real,
            log=self.log,
            directory=self.directory,
            metrics=self.metrics,
            reader=StoreReader(self.log, self.directory, self.alive, self.gate(), self.metrics),
            producer=self.producer,
            bus=MemoryBus(self.broker),
            outbound=self.backlog,
            alive=self.alive,
            verify=Verifier(self.settings.auth).verify,
        )
        self.server = TestServer(create_api(self.api))
        await self.server.start_server()
        self.http = aiohttp.ClientSession(self.server.make_url("/"))

    async def shut(self) -> None:
        await self.http.close()
        await self.server.close()
        await self.producer.close()

    def alive(self, incarnation: str) -> bool:
        return incarnation not in self.dead

    def node(self, name: str, role: Any = "access", **more: Any) -> None:
        self.registry.put(Node(name, f"{name}-1", role, **more))

    async def session(self, user: str, session: str, node: str = "a-1", device: str = "web") -> None:
        """Write a session, as its node does."""
        shard = partition_of(f"user:{user}", PARTITIONS)
        info = SessionInfo(session, node, device, 1000)
        assert await self.log.update(shard, NodeUpdate(node, 1, [Change("+s", user, info)])) == 1

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        key: str | None = KEY,
        raw: bytes | None = None,
    ) -> Any:
        """Make a call; check status and answer against the document; return the answer."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        data = raw if raw is not None else (None if body is None else msgspec.json.encode(body))
        async with self.http.request(method, path, data=data, headers=headers) as response:
            text = await response.read()
            assert response.status == status, text
            self.check(method, path, status, response.content_type, text)
            self.headers = response.headers
            return msgspec.json.decode(text)

    def check(self, method: str, path: str, status: int, content_type: str, text: bytes) -> None:
        """Check an answer against the OpenAPI document; an error is a problem document in any case."""
        value = msgspec.json.decode(text)
        if status >= 400:
            assert content_type == "application/problem+json"
            problem = {"$ref": "#/components/schemas/Problem"}
            assert errors(value, problem, self.document) == []
            assert value["status"] == status
        operation = self.operation(method, path)
        if operation is None:
            assert status in (404, 405)
            return
        content = operation["responses"][str(status)]["content"]
        assert list(content) == [content_type]
        assert errors(value, content[content_type]["schema"], self.document) == []
        self.calls.add((method, operation["operationId"]))

    def operation(self, method: str, path: str) -> Any:
        parts = path.split("?", maxsplit=1)[0].split("/")
        for template, operations in self.document["paths"].items():
            names = template.split("/")
            if (
                len(names) == len(parts)
                and all(n == p or (n.startswith("{") and p) for n, p in zip(names, parts, strict=True))
                and method.lower() in operations
            ):
                return operations[method.lower()]
        return None


@pytest.fixture
async def api():
    world = ApiWorld()
    await world.open()
    yield world
    await world.shut()
