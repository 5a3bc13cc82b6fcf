"""A storm of connections with TLS goes through HAProxy at the set rate, and no faster."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from deploy.local.balancer import start_haproxy
from deploy.local.process import Unavailable
from tests.unavailable import without

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.balancer import Balancer

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

RATE = 10
CLIENTS = 40


def started(directory: Path, node: int, checks: int) -> Balancer:
    """Return an HAProxy before one node; of one thread, because several look before they count."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        where = {"node": "a", "tcp": f"tcp://127.0.0.1:{node}", "metrics": f"http://127.0.0.1:{checks}"}
        return start_haproxy(directory, [where], {"ACCEPTS": str(RATE)})
    except Unavailable as error:
        without(error)
    finally:
        os.sched_setaffinity(0, allowed)


async def test_a_storm_is_spread_before_its_handshakes(tmp_path: Path) -> None:
    """Of forty that come at once, each second lets ten in, whether their handshakes are done or not."""
    came: list[float] = []
    kept: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(time.monotonic())
        kept.append(writer)

    async def check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(take, "127.0.0.1", 0) as node,
        await asyncio.start_server(check, "127.0.0.1", 0) as checks,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (node, checks)]
        balancer = await asyncio.to_thread(started, tmp_path, *ports)
        try:
            address = urlsplit(balancer.tcp)
            begin = time.monotonic()
            opened = await asyncio.gather(
                *(
                    asyncio.open_connection(address.hostname, address.port, ssl=balancer.ssl)
                    for _ in range(CLIENTS)
                )
            )
            async with asyncio.timeout(30.0):
                while len(came) < CLIENTS:
                    await asyncio.sleep(0.02)
            # One second's worth at once, then the rate; a slow machine is only slower.
            assert came[-1] - begin >= (CLIENTS - RATE) / RATE - 0.5
            assert sum(at < begin + 1.0 for at in came) <= 2 * RATE
        finally:
            for _, writer in opened:
                writer.close()
            for writer in kept:
                writer.close()
            await asyncio.to_thread(balancer.stop)
