"""A rolling upgrade, and back: processes of an earlier version beside those of this one, under traffic."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.service import ROOT
from tests.e2e.conftest import People
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from holdfast.client import Client

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

EARLIER = os.environ.get("EARLIER", "7437777f0dc42929d1e86457bedacb886bb2249e")
"""The version to begin with: any revision that git knows. By default the oldest that may run beside this one.

It is the first that reads packed entries of Redis (`holdfast/log/packing.py`), which this one writes: what
came before would give them to clients as they are. A release moves it to the release before.
"""

ROLES = ("dispatch", "logic", "access")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A checkout of the earlier version."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    with (tmp_path / "earlier.tar").open("wb") as file:
        command = ["git", "archive", EARLIER, "holdfast", "services"]
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        pytest.skip(f"git has no {EARLIER} here: {done.stderr.decode(errors='replace').strip()}")
    subprocess.run(["tar", "xf", tmp_path / "earlier.tar", "-C", folder], check=True)
    return folder


@pytest.fixture
def mixed(tmp_path: Path, earlier: Path) -> Iterator[LocalCluster]:
    """A cluster of the earlier version, two of every service."""
    cluster = LocalCluster(tmp_path / "cluster", app="tests.e2e.handlers:app")
    for node in cluster.nodes.values():
        node.run_from(earlier)
    with available():
        cluster.start()
    yield cluster
    cluster.stop()


class Talk:
    """One who sends numbers, by a handler and without one, and one who must get each once and in order."""

    def __init__(self, sender: Client, reader: Client, channel: str) -> None:
        self.sent = 0
        self.got: list[int] = []
        self._sender = sender
        self._channel = channel
        reader.on("message")(
            lambda message: self.got.append(message.data) if message.channel == channel else None
        )

    async def run(self, until: asyncio.Event) -> None:
        """Send until told to stop."""
        while not until.is_set():
            number = self.sent
            if number % 2:
                await self._sender.send(self._channel, "text", number)
            else:
                await self._sender.send(self._channel, "echo.to", {"channel": self._channel, "body": number})
            self.sent += 1
            await asyncio.sleep(0.02)


async def test_every_mixture_of_two_versions_serves(mixed: LocalCluster, earlier: Path) -> None:
    """inv 1, 3, 4, 12: processes are replaced one by one, and put back; nothing is lost, doubled or late.

    So each version reads the records, nodelink frames and shards that the other has written.
    """
    people = People(mixed)
    talks: list[Talk] = []
    room = f"room:{people.mark}"
    for here, there in ((0, 1), (1, 0)):
        sender = await people.join(people.name(f"s{here}"), here)
        reader = await people.join(people.name(f"r{there}"), there)
        talks.append(Talk(sender, reader, f"user:{people.name(f'r{there}')}"))
        watcher = await people.join(people.name(f"w{there}"), there)
        await watcher.subscribe(f"{room}-{here}")
        talks.append(Talk(sender, watcher, f"{room}-{here}"))
    enough = asyncio.Event()
    running = [asyncio.ensure_future(talk.run(enough)) for talk in talks]

    async def flowing() -> None:
        """Wait until messages that are sent from now on have arrived on every way."""
        aims = [talk.sent + 10 for talk in talks]
        async with asyncio.timeout(60):
            while any(len(talk.got) < aim for talk, aim in zip(talks, aims, strict=True)):
                assert not any(task.done() for task in running), running
                await asyncio.sleep(0.05)

    async def replace(name: str, root: Path) -> None:
        mixed.nodes[name].run_from(root)
        await asyncio.to_thread(mixed.restart, name)
        await flowing()

    await flowing()
    for number in (0, 1):
        for role in ROLES:
            await replace(f"{role}-{number}", ROOT)
    for role in reversed(ROLES):  # and back: an upgrade that is given up
        await replace(f"{role}-0", earlier)
    enough.set()
    await asyncio.gather(*running)
    async with asyncio.timeout(30):
        while any(len(talk.got) < talk.sent for talk in talks):
            await asyncio.sleep(0.05)
    for talk in talks:
        assert talk.got == list(range(talk.sent))
    await people.close()
    for node in mixed.nodes.values():
        assert "bad_frame" not in node.log.read_text(), f"{node.name} did not understand nodelink"
        assert '"dead letter' not in node.log.read_text()
