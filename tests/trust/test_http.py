"""TLS of what is HTTP: the metrics and health port, and the API, asked by a real client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from deploy.local.certificate import Authority
from holdfast import tls
from holdfast.errors import Stop
from holdfast.observe.health import HealthServer
from holdfast.observe.metrics import Metrics
from holdfast.settings import Api, Process
from tests.trust.talk import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@contextlib.asynccontextmanager
async def health(settings: Process, metrics: Metrics) -> AsyncIterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, metrics, list, tls.health_server(settings))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        await asyncio.sleep(0.05)


async def get(url: str, authority: Authority | None = None) -> tuple[int, str]:
    """Return the status and the text."""
    context = ssl.create_default_context(cafile=str(authority.file)) if authority else None
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context or True) as answer:
        return answer.status, await answer.text()


async def shown(port: int, authority: Authority) -> str:
    """Return the name in the certificate that a new connection sees."""
    context = ssl.create_default_context(cafile=str(authority.file))
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    name = str(writer.get_extra_info("peercert")["subject"][0][0][1])
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return name


async def test_metrics_and_health_by_tls_and_a_certificate_that_changes(tmp_path: Path) -> None:
    """Whole answers, large ones too; plain HTTP is none; the next connection sees the new certificate."""
    authority, metrics = Authority(tmp_path), Metrics()
    file = authority.issue("first")
    async with health(Process(tls_certificate=str(file)), metrics) as server:
        url = f"https://127.0.0.1:{server.port}"
        assert await get(f"{url}/healthz", authority) == (200, '{"alive": true}')
        assert await shown(server.port, authority) == "first"
        status, text = await get(f"{url}/metrics", authority)
        assert status == 200
        assert len(text) > 20_000, "more than one record of TLS"
        assert text.endswith("\n")
        with pytest.raises(aiohttp.ClientError):
            await get(f"http://127.0.0.1:{server.port}/healthz")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(f"{url}/healthz")
        authority.issue("second", path=file)
        tls.look(metrics)
        assert value(metrics, "tls_reloads", part="process", outcome="loaded") == 1
        assert value(metrics, "tls_expires_seconds", part="process") > 0
        assert await shown(server.port, authority) == "second"
        assert (await get(f"{url}/readyz", authority))[0] == 200


async def test_the_port_is_plain_without_a_certificate() -> None:
    """Off by default."""
    async with health(Process(), Metrics()) as server:
        assert (await get(f"http://127.0.0.1:{server.port}/readyz"))[0] == 200


async def test_a_caller_that_says_nothing_delays_nobody(tmp_path: Path) -> None:
    """inv 7: connections that never begin their handshake do not hold up one that does."""
    authority = Authority(tmp_path)
    async with health(Process(tls_certificate=str(authority.issue("shown"))), Metrics()) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
        async with asyncio.timeout(5):
            assert (await get(f"https://127.0.0.1:{server.port}/healthz", authority))[0] == 200
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize(("make", "part"), [(tls.api_server, "api"), (tls.health_server, "process")])
def test_a_certificate_that_is_not_there_is_refused_by_name(make: Any, part: str) -> None:
    """inv 11: the setting is named."""
    section = {"api": Api, "process": Process}[part](tls_certificate="/nowhere.pem")
    with pytest.raises(Stop, match=rf"{part}\.tls_certificate: cannot read /nowhere\.pem"):
        make(section)
