"""From a killed process to the one who is woken, and back: real Prometheus, real Alertmanager."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local import cache
from deploy.local.prometheus import start_alertmanager, start_prometheus
from deploy.prometheus import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.local.cluster import LocalCluster

pytestmark = [pytest.mark.tools, pytest.mark.timeout(90)]
SHIPPED = Path(generate.__file__).with_name("alertmanager.yml")


class Receiver(ThreadingHTTPServer):
    """Keeps what Alertmanager posts: (receiver, name, status, annotations)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def until(self, true: Callable[[set[tuple[str, str, str]]], bool], seconds: float) -> None:
        """Wait until what was got is as it should be."""
        end = time.monotonic() + seconds
        while not true({each[:3] for each in self.got}):
            assert time.monotonic() < end, self.got
            time.sleep(0.1)


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            name = alert["labels"]["alertname"]
            self.server.got.append((self.path[1:], name, alert["status"], alert["annotations"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
    nodes = json.loads((watched.dir / "cluster.json").read_text())["nodes"]
    manager = start_alertmanager(tmp_path / "alertmanager", receiver.url)
    with (
        manager,
        start_prometheus(
            tmp_path / "prometheus", nodes, every="500ms", alertmanager=manager.address, hurry=True
        ),
    ):
        watched.kill("dispatch-0")
        receiver.until(lambda got: ("pages", "HoldfastNoDispatch", "firing") in got, 30)
        (about,) = {json.dumps(each[3]) for each in receiver.got if each[1] == "HoldfastNoDispatch"}
        assert json.loads(about)["runbook"] == "docs/runbook.md#holdfastnodispatch"
        # What follows from it is known to Alertmanager, and wakes nobody.
        end = time.monotonic() + 30
        while "HoldfastDeliveryPolls" not in _inhibited(manager.address):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert "HoldfastDeliveryPolls" not in {each[1] for each in receiver.got}
        watched.restart("dispatch-0")
        receiver.until(lambda got: ("pages", "HoldfastNoDispatch", "resolved") in got, 40)


def _inhibited(address: str) -> set[str]:
    with urllib.request.urlopen(f"http://{address}/api/v2/alerts", timeout=5) as answer:
        return {each["labels"]["alertname"] for each in json.load(answer) if each["status"]["inhibitedBy"]}
