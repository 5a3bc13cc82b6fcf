"""A Prometheus that scrapes the processes of a local cluster, with the rules that are shipped.

`prometheus` on PATH, else Debian's package is installed.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from deploy.local import cache
from deploy.local.process import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RULES: Final = Path(__file__).resolve().parents[1] / "prometheus" / "holdfast.rules.yml"


def start_prometheus(directory: Path, nodes: Iterable[Mapping[str, Any]], *, every: str = "1s") -> Running:
    """Return a Prometheus that scrapes `nodes`, as cluster.json describes them. Raises Unavailable."""
    program = cache.program("prometheus", "prometheus", "prometheus")
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        target = {
            "targets": [urlsplit(node["metrics"]).netloc],
            "labels": {"namespace": "local", "pod": node["node"]},
        }
        jobs.setdefault(f"holdfast-{node['role']}", []).append(target)
    settings = {
        "global": {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(settings, indent=1))  # which is YAML, too
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={file}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    running = Running("prometheus", address, lambda: ready(address), command=command, directory=directory)
    running.start()
    running.wait_ready(20.0)
    return running


def ready(address: str) -> bool:
    """Tell whether a Prometheus serves queries."""
    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Return what an expression gives now. Raises ValueError, with Prometheus's words, for a wrong one."""
    connection = http.client.HTTPConnection(address, timeout=10.0)
    try:
        connection.request("GET", f"/api/v1/query?{urlencode({'query': expression})}")
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if answer["status"] != "success":
        raise ValueError(f"{expression}: {answer.get('error')}")
    return list(answer["data"]["result"])
