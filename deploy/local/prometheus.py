"""A Prometheus that scrapes the processes of a local cluster, and an Alertmanager, with the shipped rules.

The programs are those on PATH; where missing, Debian's packages are installed.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deploy.local import cache
from deploy.local.process import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SHIPPED: Final = Path(__file__).resolve().parents[1] / "prometheus"


def find_prometheus() -> str:
    """Return the path of Prometheus; installed where missing. Raises Unavailable."""
    return cache.program("prometheus", "prometheus", "prometheus")


def find_alertmanager() -> str:
    """Return the path of Alertmanager; installed where missing. Raises Unavailable."""
    return shutil.which("alertmanager") or cache.program(
        "alertmanager", "prometheus-alertmanager", "prometheus-alertmanager"
    )


def start_prometheus(
    directory: Path,
    nodes: Iterable[Mapping[str, Any]],
    *,
    every: str = "1s",
    port: int = 0,
    alertmanager: str = "",
    balancer: str = "",
    hurry: bool = False,
) -> Running:
    """Return a Prometheus that scrapes `nodes`, as cluster.json describes them. Raises Unavailable.

    `alertmanager` is the host:port that gets its alerts, `balancer` where HAProxy tells of itself. In a
    `hurry`, alerts wait as many seconds before they fire as the shipped ones wait minutes, but 10 at least.
    """
    program = find_prometheus()
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        target = {
            "targets": [urlsplit(node["metrics"]).netloc],
            "labels": {"namespace": "local", "pod": node["node"], "instance": node["node"]},
        }
        jobs.setdefault(f"holdfast-{node['role']}", []).append(target)
    if balancer:
        target = {"targets": [balancer], "labels": {"namespace": "local", "instance": "haproxy"}}
        jobs["haproxy"] = [target]
    rules = directory / "holdfast.rules.yml"
    text = (_SHIPPED / rules.name).read_text()
    rules.write_text(_hurried(text) if hurry else text)
    settings = {
        "global": {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every},
        "rule_files": [str(rules)],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
        },
        "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(settings, indent=1))  # which is YAML, too
    address = f"127.0.0.1:{port or free_port()}"
    command = [program, f"--config.file={file}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    running = Running("prometheus", address, lambda: ready(address), command=command, directory=directory)
    running.start()
    running.wait_ready(20.0)
    return running


def _hurried(rules: str) -> str:
    """Return rules that wait for seconds where they waited for minutes.

    Not less than 10: Prometheus takes over 5 until it has asked all processes for the first time.
    """

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[1]) * {"m": 1, "h": 60}[found[2]]
        return f'for: "{max(seconds, 10) if seconds else 0}s"'

    return re.sub(r'for: "(\d+)([mh])"', shorter, rules)


def start_alertmanager(directory: Path, receiver: str, *, port: int = 0) -> Running:
    """Return an Alertmanager with the shipped routes, which does not wait for more to tell.

    It posts to `receiver` + /pages or /tickets. Raises Unavailable.
    """
    program = find_alertmanager()
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    text = (_SHIPPED / "alertmanager.yml").read_text()
    for kind, name in (("pager", "pages"), ("tickets", "tickets")):
        text = text.replace(f"http://{kind}.example.com/holdfast", f"{receiver}/{name}")
    text = re.sub(r"group_wait: \w+", "group_wait: 1s", text)
    text = re.sub(r"group_interval: \w+", "group_interval: 1s", text)
    file = directory / "alertmanager.yml"
    file.write_text(text)
    address = f"127.0.0.1:{port or free_port()}"
    command = [program, f"--config.file={file}", f"--web.listen-address={address}"]
    command += [f"--storage.path={directory / 'data'}", "--cluster.listen-address=", "--log.level=warn"]
    running = Running("alertmanager", address, lambda: ready(address), command=command, directory=directory)
    running.start()
    running.wait_ready(20.0)
    return running


def ready(address: str) -> bool:
    """Tell whether a Prometheus or an Alertmanager serves."""
    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
