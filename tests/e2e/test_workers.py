"""Several worker processes of one access service: nodes of their own behind one port."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

WORKERS = 2


@pytest.fixture
def workers(cluster, tmp_path):
    """One access service of two workers, beside the cluster's: it, its port and ready files."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {
        "CONFIG": cluster.dir / "holdfast.toml",
        "PROCESS_WORKERS": WORKERS,
        "PROCESS_NODE": "workers",
        "PROCESS_METRICS_PORT": 0,
        "PROCESS_READY_FILE": tmp_path / "ready",
        "ACCESS_WEBSOCKET_PORT": port,
        "ACCESS_TCP_PORT": 0,
        "NODELINK_PORT": 0,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.access"],
            env=inherited | {f"HOLDFAST_{name}": str(value) for name, value in own.items()},
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
        )
    yield process, port, [tmp_path / f"ready.{number}" for number in range(WORKERS)]
    process.kill()
    process.wait(20)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def told(file: Path, other_than: int = 0) -> int:
    """Return the process id in a ready file, once it is there and not the former one."""
    async with asyncio.timeout(20):
        while not file.exists() or json.loads(file.read_text())["pid"] == other_than:
            await asyncio.sleep(0.02)
    return int(json.loads(file.read_text())["pid"])


async def counted(file: Path) -> int:
    """Return how many connections a worker says that it has accepted."""
    port = json.loads(file.read_text())["metrics"]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"^holdfast_access_accepts_total\{[^}]*\} (\S+)$", text, re.MULTILINE)
    assert re.search(r"^process_open_fds \d", text, re.MULTILINE)
    return sum(int(float(value)) for value in found)


async def ended(pids: list[int]) -> None:
    async with asyncio.timeout(20):
        while any(runs(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def test_workers_share_a_port_and_are_replaced(people, workers):
    """Clients on both workers talk to each other; one that dies is started again; SIGTERM ends all.

    Each worker counts its own, on a metrics port of its own, so that their sum is right.
    """
    process, port, files = workers
    pids = [await told(file) for file in files]
    clients = []
    nodes: set[str] = set()
    for number in range(40):  # the kernel spreads by a hash of the client's port
        client = await people.join(people.name(f"w{number}"), f"ws://127.0.0.1:{port}/ws")
        clients.append(client)
        assert client.session is not None
        nodes.add(client.session.node)
    assert nodes == {"workers-0", "workers-1"}
    homes = [client.session.node for client in clients]
    for number, file in enumerate(files):
        assert await counted(file) == homes.count(f"workers-{number}")

    one = next(client for client in clients if client.session.node == "workers-0")
    two = next(client for client in clients if client.session.node == "workers-1")
    os.kill(pids[1], signal.SIGKILL)
    await one.send(f"user:{two.session.user}", "text", "after the crash")
    async with asyncio.timeout(20):
        async for message in two.messages():
            assert message.data == "after the crash"
            break
    pids[1] = await told(files[1], other_than=pids[1])
    assert await counted(files[0]) >= homes.count("workers-0")

    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    await ended(pids)


async def test_workers_end_with_their_supervisor(workers):
    """No worker outlives a supervisor that was killed."""
    process, _, files = workers
    pids = [await told(file) for file in files]
    process.kill()
    await ended(pids)
