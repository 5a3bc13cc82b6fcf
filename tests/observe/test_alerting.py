"""From a killed process to the one who is woken, and back: real Prometheus, real Alertmanager."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.local import cache
from deploy.local.prometheus import start_alertmanager, start_prometheus
from deploy.local.receiver import Receiver
from deploy.prometheus import generate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.cluster import LocalCluster
    from deploy.local.receiver import Notice

pytestmark = [pytest.mark.tools, pytest.mark.timeout(90)]
SHIPPED = Path(generate.__file__).with_name("alertmanager.yml")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class Got:
    """What a receiver took so far."""

    def __init__(self, receiver: Receiver) -> None:
        self._notices = receiver.notices
        self.all: list[Notice] = []

    def until(self, who: str, name: str, status: str, seconds: float) -> Notice:
        """Wait for a notice, and return the first one of the kind."""
        end = time.monotonic() + seconds
        while True:
            for each in self.all:
                if each[:3] == (who, name, status):
                    return each
            try:
                self.all.append(self._notices.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"no {(who, name, status)} within {seconds} s: {self.all}")


def test_the_shipped_routes_are_valid_and_name_alerts_that_exist() -> None:
    """`amtool` takes the file; pages and tickets go different ways; inhibitions are about real alerts."""
    amtool = cache.program("amtool", "amtool", "prometheus-alertmanager")
    subprocess.run([amtool, "check-config", str(SHIPPED)], check=True, capture_output=True)
    for severity, wanted in (("page", "pages"), ("ticket", "tickets")):
        command = [amtool, "config", "routes", "test", f"--config.file={SHIPPED}", f"severity={severity}"]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == wanted
    text = SHIPPED.read_text()
    known = {rule["alert"] for group in generate.groups() for rule in group["rules"] if "alert" in rule}
    sources = set(re.findall(r'alertname="(\w+)"', text))
    targets = {
        f"Holdfast{name}" for names in re.findall(r"Holdfast\(([\w|]+)\)", text) for name in names.split("|")
    }
    assert sources
    assert sources | targets <= known


@pytest.mark.cluster
def test_a_killed_dispatcher_wakes_somebody_until_it_is_back(
    watched: LocalCluster, receiver: Receiver, tmp_path: Path
) -> None:
    """The alert fires, says where the runbook is, silences what follows from it, and resolves."""
    got = Got(receiver)
    nodes = json.loads((watched.dir / "cluster.json").read_text())["nodes"]
    manager = start_alertmanager(tmp_path / "alertmanager", receiver.url)
    with (
        manager,
        start_prometheus(
            tmp_path / "prometheus", nodes, every="500ms", alertmanager=manager.address, hurry=True
        ),
    ):
        watched.kill("dispatch-0")
        told = got.until("pages", "HoldfastNoDispatch", "firing", 30)
        assert told.annotations["runbook"] == "docs/runbook.md#holdfastnodispatch"
        # What follows from it is known to Alertmanager, and wakes nobody.
        end = time.monotonic() + 30
        while "HoldfastDeliveryPolls" not in _inhibited(manager.address):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert "HoldfastDeliveryPolls" not in {each.name for each in got.all}
        watched.restart("dispatch-0")
        # What followed from it looks back further, and may be told for a moment from here on.
        got.until("pages", "HoldfastNoDispatch", "resolved", 40)


def _inhibited(address: str) -> set[str]:
    with urllib.request.urlopen(f"http://{address}/api/v2/alerts", timeout=5) as answer:
        return {each["labels"]["alertname"] for each in json.load(answer) if each["status"]["inhibitedBy"]}
