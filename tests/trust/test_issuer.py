"""A real issuer behind HTTPS, and access nodes that take its tokens: rotation and outage under clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from deploy.local.certificate import Authority
from holdfast.client import Client
from holdfast.observe.metrics import Metrics
from holdfast.settings import Settings
from services.embedded.cluster import Embedded, ready_settings
from tests.auth.issuer import Issuer
from tests.trust.talk import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Provider:
    """An issuer with a web server that can be taken away."""

    def __init__(self, folder: Path) -> None:
        self.issuer = Issuer()
        self.authority = Authority(folder)
        self.asked = 0
        self.port = 0
        self._pem = self.authority.issue("issuer")
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/jwks", self._jwks)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pem)
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _jwks(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=self.issuer.jwks(), content_type="application/json")


@contextlib.asynccontextmanager
async def running(provider: Provider, **auth: Any) -> AsyncIterator[tuple[Embedded, Metrics]]:
    metrics = Metrics()
    settings = ready_settings(
        Settings(),
        secret="",
        process={"host": "127.0.0.1", "drain_seconds": 2.0},
        access={"websocket_port": 0, "tcp_port": 0},
        api={"port": 0},
        kafka={"partitions": 2, "replication": 1},
        auth={
            "secrets": (),
            "jwks_url": f"https://localhost:{provider.port}/jwks",
            "tls_authority": str(provider.authority.file),
            "audience": "chat",
            "jwks_pause": 0.2,
            **auth,
        },
    )
    cluster = Embedded(settings, metrics=metrics)
    await cluster.start()
    try:
        yield cluster, metrics
    finally:
        await cluster.stop()
        await provider.stop()  # where the test did not


async def until(condition: Any, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def join(cluster: Embedded, token: str) -> Client:
    client = Client(cluster.nodes()[0].endpoints["tcp"], token=token, backoff=(0.05, 0.3))
    await client.connect(15)
    return client


async def test_rotation_and_outage(tmp_path: Path) -> None:
    """A client whose key is new gets in at its first connect; with the issuer away everybody else does."""
    provider = Provider(tmp_path)
    provider.issuer.add("one", "RS256")
    await provider.start()
    async with running(provider) as (cluster, metrics):
        await until(lambda: cluster.problems() == [])
        first = await join(cluster, provider.issuer.token("one", "alice", time.time()))
        provider.issuer.add("two", "EdDSA")
        second = await join(cluster, provider.issuer.token("two", "bob", time.time()))
        await first.send("user:bob", "n", 1)
        assert (await asyncio.wait_for(anext(second.messages()), 15)).data == 1
        await provider.stop()
        third = await join(cluster, provider.issuer.token("one", "carol", time.time()))
        assert value(metrics, "auth_jwks_keys") == 2
        for client in (first, second, third):
            await client.close()


async def test_an_issuer_that_is_away_at_the_start(tmp_path: Path) -> None:
    """Without any key a node is not ready, turns nobody away for good, and serves once the issuer answers."""
    provider = Provider(tmp_path)
    provider.issuer.add("one")
    await provider.start()
    await provider.stop()
    async with running(provider) as (cluster, metrics):
        assert "waiting for the keys of auth.jwks_url" in cluster.problems()
        joining = asyncio.ensure_future(join(cluster, provider.issuer.token("one", "alice", time.time())))
        await until(lambda: value(metrics, "access_refused", reason="key") >= 1)
        await provider.start()
        await (await joining).close()
        assert cluster.problems() == []


async def test_who_answers_in_its_place_is_not_believed(tmp_path: Path) -> None:
    """Keys come from who has the issuer's certificate, or from nobody; redirects are not followed."""
    (tmp_path / "x").mkdir()
    provider, other = Provider(tmp_path), Authority(tmp_path / "x")
    provider.issuer.add("forged")
    await provider.start()
    async with running(provider, tls_authority=str(other.file)) as (cluster, metrics):
        await until(lambda: value(metrics, "auth_jwks_fetches", outcome="failed") >= 1)
        assert cluster.problems()
        assert provider.asked == 0


async def test_refresh_with_a_key_that_is_new(tmp_path: Path) -> None:
    """A session whose next token is by a key too new to be known goes on: it is asked to try again."""
    provider = Provider(tmp_path)
    provider.issuer.add("one")
    await provider.start()
    async with running(provider) as (cluster, _):
        await until(lambda: cluster.problems() == [])
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.ports["tcp"])

        async def ask(**frame: Any) -> Any:
            payload = json.dumps(frame).encode()
            writer.write(len(payload).to_bytes(4, "big") + payload)
            size = int.from_bytes(await asyncio.wait_for(reader.readexactly(4), 5), "big")
            return json.loads(await reader.readexactly(size))

        token = provider.issuer.token("one", "alice", time.time())
        assert (await ask(t="connect", token=token))["t"] == "connected"
        provider.issuer.add("two")
        token = provider.issuer.token("two", "alice", time.time())
        answer = await ask(t="refresh", id=1, token=token)
        assert (answer["code"], answer["retry"], answer["id"]) == ("unavailable", 1.0, 1)
        async with asyncio.timeout(15):
            while (answer := await ask(t="refresh", id=2, token=token))["t"] == "error":
                assert answer["code"] == "unavailable"
                await asyncio.sleep(0.02)
        assert answer == {"t": "refreshed", "id": 2}
        writer.close()


async def test_a_call_by_a_token_whose_key_is_new(tmp_path: Path) -> None:
    """The API answers 503 with Retry-After while a key is being looked up, then 200; 401 where it is none."""
    provider = Provider(tmp_path)
    provider.issuer.add("one")
    await provider.start()
    async with running(provider) as (cluster, _), aiohttp.ClientSession() as http:
        await until(lambda: cluster.problems() == [])
        url = f"http://127.0.0.1:{cluster.ports['api']}/v1/access"

        async def ask(name: str) -> tuple[int, str | None]:
            token = provider.issuer.token(name, "alice", time.time())
            async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                return answer.status, answer.headers.get("Retry-After")

        async with asyncio.timeout(10):
            while (await ask("one"))[0] != 200:  # logic fetches for itself
                await asyncio.sleep(0.02)
        provider.issuer.add("two")
        provider.issuer.add("none", publish=False)
        assert await ask("two") == (503, "1")
        async with asyncio.timeout(15):
            while (await ask("two"))[0] != 200:
                await asyncio.sleep(0.02)
            while (await ask("none"))[0] != 401:
                await asyncio.sleep(0.02)
