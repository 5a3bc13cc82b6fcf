"""Consul: one development agent on loopback, without gossip to anybody.

Looked for in this order: a running server (`HF_LOCAL_CONSUL=host:port`), a program
(`HF_LOCAL_CONSUL_PROGRAM=/path`), `consul` on PATH, the cache; then it is built with Go (a few minutes).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.local import cache
from deploy.local.process import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = "1.20.6"
"""Newer ones name submodules at versions that the module registry does not have."""

_SUBMODULES: Final = ("api", "envoyextensions", "proto-public", "sdk", "troubleshoot")


def start_consul(
    directory: Path,
    port: int = 0,
    settings: Mapping[str, Any] | None = None,
    *,
    token: str = "",
    guarded: bool = True,
) -> Running:
    """Return a Consul whose HTTP API serves on loopback, with its log in `directory`.

    It keeps nothing over a restart. `settings` go before ours; where they deny strangers everything, `token`
    is asked with whether it is ready. Not `guarded`, it outlives this process. Raises Unavailable.
    """
    if given := os.environ.get("HF_LOCAL_CONSUL"):
        running = Running("consul", given, lambda: answers(given))
        running.wait_ready(10.0)
        return running
    program = find()
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    ports = {"http": int(address.rpartition(":")[2]), "server": free_port(), "serf_lan": free_port()}
    ports |= dict.fromkeys(("https", "grpc", "grpc_tls", "dns", "serf_wan"), -1)
    more = dict(settings or {})
    own = dict.fromkeys(("bind_addr", "client_addr", "advertise_addr"), "127.0.0.1") | {
        "ports": ports | more.pop("ports", {}),
        "disable_update_check": True,
        "performance": {"raft_multiplier": 1},
    }
    file = directory / "consul.json"
    file.write_text(json.dumps(own | more))
    command = [program, "agent", "-dev", f"-config-file={file}", "-log-level=warn"]
    running = Running(
        "consul",
        address,
        lambda: answers(address, token),
        command=command,
        directory=directory,
        guarded=guarded,
    )
    running.start()
    running.wait_ready()
    return running


def find() -> str:
    """Return the path of Consul; built with Go in some minutes where missing. Raises Unavailable."""
    program = os.environ.get("HF_LOCAL_CONSUL_PROGRAM") or shutil.which("consul")
    return program or str(cache.keep(f"consul-{VERSION}", _build))


def answers(address: str, token: str = "") -> bool:
    """Tell whether a Consul answers at host:port, has a leader, and its catalogue knows itself."""
    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        headers = {"X-Consul-Token": token} if token else {}
        connection.request("GET", "/v1/catalog/service/consul", headers=headers)
        response = connection.getresponse()
        return response.status == http.HTTPStatus.OK and len(json.loads(response.read())) > 0
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _build(out: Path) -> None:
    go = cache.program("consul", "go", "golang-go")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        cache.run("consul", [go, "mod", "init", "local"], directory=folder)
        module = f"github.com/hashicorp/consul@v{VERSION}"
        fetched = cache.run("consul", [go, "mod", "download", "-json", module], directory=folder)
        source = folder / "source"
        shutil.copytree(json.loads(fetched)["Dir"], source)
        for path in [source, *source.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)  # Go's module cache is read-only
        # Its own submodules come from the registry, as for whoever depends on it.
        drops = [f"-dropreplace=github.com/hashicorp/consul/{name}" for name in _SUBMODULES]
        cache.run("consul", [go, "mod", "edit", *drops], directory=source)
        cache.run(
            "consul",
            [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(out), "."],
            directory=source,
            environment={"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"},
        )
