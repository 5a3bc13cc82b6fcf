"""Makes the pictures of docs/failures.md: `python -m deploy.grafana.failures FOLDER [NAME …]`.

For each failure a local cluster of real parts gets some load, the failure, and the time to recover; what the
dashboard *cluster* shows of it is drawn. Takes a minute and a half for each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.grafana.cluster import CLUSTER
from deploy.grafana.render import draw
from deploy.local.cluster import LocalCluster
from deploy.local.prometheus import start_prometheus
from holdfast.client import Client
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

USERS: Final = 40
BEFORE: Final = 20.0
DURING: Final = 15.0
AFTER: Final = 25.0

FAILURES: Final[dict[str, tuple[Callable[[LocalCluster], None], Callable[[LocalCluster], None]]]] = {
    "access": (lambda c: c.kill("access-0"), lambda c: c.restart("access-0")),
    "logic": (lambda c: c.kill("logic-0"), lambda c: c.restart("logic-0")),
    "dispatch": (lambda c: c.kill("dispatch-0"), lambda c: c.restart("dispatch-0")),
    "redis": (lambda c: c.redis.pause(), lambda c: c.redis.resume()),
    "redis-lost": (lambda c: c.redis.kill(), lambda c: c.redis.restart()),
    "kafka": (lambda c: c.kafka.pause(), lambda c: c.kafka.resume()),
}
"""What breaks, and how it ends."""


class Load:
    """Users who write to each other, ten messages a second each."""

    def __init__(self, about: dict[str, Any]) -> None:
        nodes = [node["websocket"] for node in about["nodes"] if node["role"] == "access"]
        self._clients = [
            # Where a node is gone, its clients would go to another: here a balancer is missing, so some wait.
            Client(nodes[number % len(nodes)], token=_token(about, number), backoff=(0.2, 2.0))
            for number in range(USERS)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, and begin to write."""
        await asyncio.gather(*(client.connect() for client in self._clients))
        for number, client in enumerate(self._clients):
            self._tasks.append(asyncio.ensure_future(self._read(client)))
            self._tasks.append(asyncio.ensure_future(self._write(client, (number * 7 + 1) % USERS)))

    async def stop(self) -> None:
        """Be quiet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    async def _read(self, client: Client) -> None:
        async for _ in client.messages():
            pass

    async def _write(self, client: Client, to: int) -> None:
        while True:
            with contextlib.suppress(Retry):
                await client.send(f"user:u{to}", "chat.text", {"text": "hello"})
            await asyncio.sleep(0.1)


def _token(about: dict[str, Any], number: int) -> str:
    body = json.dumps({"user": f"u{number}"}).encode()
    headers = {"Authorization": f"Bearer {about['api_key']}"}
    with urllib.request.urlopen(urllib.request.Request(f"{about['api']}/v1/tokens", body, headers)) as answer:  # noqa: S310
        return str(json.load(answer)["token"])


async def show(name: str, folder: Path) -> str:
    """Return the picture of one failure."""
    breaks, mends = FAILURES[name]
    cluster = LocalCluster(folder / "cluster", app="services.embedded.demo:app")
    with cluster:
        about = json.loads((cluster.dir / "cluster.json").read_text())
        with start_prometheus(folder / "prometheus", about["nodes"]) as prometheus:
            load = Load(about)
            await load.start()
            began = time.time()
            await asyncio.sleep(BEFORE)
            await asyncio.to_thread(breaks, cluster)
            await asyncio.sleep(DURING)
            await asyncio.to_thread(mends, cluster)
            await asyncio.sleep(AFTER)
            picture = await asyncio.to_thread(draw, CLUSTER, prometheus.address, began, time.time())
            await load.stop()
    return picture


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.failures", description="Draw failures.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAILURES))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or FAILURES:
        with tempfile.TemporaryDirectory() as work:
            (options.folder / f"{name}.svg").write_text(asyncio.run(show(name, Path(work))))
        print(options.folder / f"{name}.svg", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
