"""A local cluster as its operator has it: HAProxy before it, Prometheus and Alertmanager beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local.talk import Talk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--access", "2", "--logic", "1", "--dispatch", "1")


class Command:
    """A command that runs in the background as in a shell of its own, and what it has printed."""

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )

    async def says(self, pattern: str, seconds: float) -> str:
        """Wait until it has printed what matches; return the line."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.poll() is None:
                    if found := re.search(f"^.*{pattern}.*$", self._log.read_text(), re.MULTILINE):
                        return found[0]
                    await asyncio.sleep(0.05)
        pytest.fail(f"it never said {pattern}, but: {self._log.read_text()}")

    def end(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(40) == 0, self._log.read_text()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[dict[str, Command]]:
    """Those that run; they are ended in the reverse order."""
    running: dict[str, Command] = {}
    yield running
    for command in reversed(running.values()):
        command.end()


@pytest.mark.cluster
@pytest.mark.tools
@pytest.mark.timeout(120)
async def test_a_killed_access_node_is_told_of_and_mended(
    kafka_server: object, consul_server: object, commands: dict[str, Command], tmp_path: Path
) -> None:
    """inv 4: kill -9 behind HAProxy: a ticket fires and resolves, the dashboard shows it, nothing is lost."""
    place = ("--dir", str(tmp_path))
    commands["cluster"] = Command(
        "deploy.local", "start", "--balancer", *SMALL, *place, log=tmp_path / "cluster.txt"
    )
    await commands["cluster"].says("Ctrl-C stops it", 60)
    about: dict[str, Any] = json.loads((tmp_path / "cluster.json").read_text())
    commands["watch"] = Command("deploy.local.watch", "--hurry", *place, log=tmp_path / "watch.txt")
    await commands["watch"].says("dashboards", 30)
    talk = Talk(about, users=12, rate=5.0)
    await talk.start()
    await asyncio.to_thread(_until_scraped, (tmp_path / "watch.txt").read_text(), len(about["nodes"]))
    before = (tmp_path / "watch.txt").read_text()
    os.kill(next(node["pid"] for node in about["nodes"] if node["node"] == "access-0"), signal.SIGKILL)
    await commands["cluster"].says("access-0 has ended", 10)
    line = await commands["watch"].says("ticket firing +HoldfastProcessDown", 30)
    assert "docs/runbook.md#holdfastprocessdown" in line
    assert talk.online == 12, "all are with the other node"
    mend = [sys.executable, "-m", "deploy.local", "mend", *place]
    await asyncio.to_thread(subprocess.run, mend, cwd=ROOT, check=True, timeout=30)
    await commands["cluster"].says("started again: access-0", 30)
    await commands["watch"].says("ticket resolved HoldfastProcessDown", 30)
    await talk.stop(20)
    assert talk.wrong == []
    assert sum(talk.acked) == sum(talk.got) > 0
    async with asyncio.timeout(20):
        while not _drawn(tmp_path / "watch" / "cluster.svg"):
            await asyncio.sleep(0.1)
    said = (tmp_path / "watch.txt").read_text().removeprefix(before)
    assert "page   firing" not in said, "one of two nodes wakes nobody"


def _until_scraped(told: str, processes: int) -> None:
    """Wait until Prometheus has seen all processes and the balancer: what it never saw cannot be missed."""
    from time import monotonic, sleep

    from deploy.prometheus.api import query

    found = re.search(r"Prometheus +http://(\S+)", told)
    assert found
    end = monotonic() + 20
    while len(query(found[1], "up == 1")) < processes + 1:
        assert monotonic() < end
        sleep(0.1)


def _drawn(picture: Path) -> bool:
    """Tell whether the alert has a bar in the picture that is drawn a few seconds after it."""
    if not picture.exists():
        return False
    text = picture.read_text()
    return ">HoldfastProcessDown (ticket)</text>" in text and "<title>firing</title>" in text
