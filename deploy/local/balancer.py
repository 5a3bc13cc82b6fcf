"""HAProxy and Nginx before the processes of a local cluster, with the configurations that are shipped.

The programs are those on PATH; where missing, Debian's packages are installed.
"""

from __future__ import annotations

import os
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deploy.local import cache
from deploy.local.certificate import make_certificate
from deploy.local.process import Running, free_port
from deploy.local.service import started

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DEPLOY: Final = Path(__file__).resolve().parents[1]
_NGINX_STREAM: Final = "/usr/lib/nginx/modules/ngx_stream_module.so"
_DEFAULTS: Final = {"CONNECTIONS": "2000", "PER_ADDRESS": "1000", "SLOWSTART": "1s", "HARD_STOP": "5s"}
PORTS: Final = ("WEBSOCKET", "TCP", "ACCESS", "API", "OPERATIONS")


@dataclass(frozen=True, slots=True)
class Balancer:
    """A balancer that runs. Addresses are for clients, who trust `ssl`."""

    running: Running
    ssl: ssl.SSLContext
    websocket: str
    tcp: str
    api: str
    """Base URL of the whole API."""
    access: str
    """URL of /v1/access, as the world sees it."""
    operations: str
    """Base URL of its own health and metrics."""

    def describe(self) -> dict[str, Any]:
        """Return what cluster.json says of it; `authority` is the file of the certificate to believe."""
        running = self.running
        return {
            "name": running.name,
            "websocket": self.websocket,
            "tcp": self.tcp,
            "api": self.api,
            "access": self.access,
            "metrics": f"{self.operations}/metrics",
            "authority": str(running.log.parent / "tls.pem"),
            "pid": running.pid,
            "started": started(running.pid),
            "log": str(running.log),
        }

    def stop(self) -> None:
        """End it."""
        self.running.stop()


def find_haproxy() -> str:
    """Return the path of HAProxy; installed where missing. Raises Unavailable."""
    return cache.program("haproxy", "haproxy", "haproxy")


def find_nginx() -> tuple[str, str]:
    """Return the path of Nginx, and the directive that loads its streams; installed where missing.

    Raises Unavailable.
    """
    program = cache.program("nginx", "nginx", "nginx-light")
    if not Path(_NGINX_STREAM).parent.is_dir():
        return program, ""
    if not Path(_NGINX_STREAM).exists():  # Debian's, which loads what others have built in
        cache.install("nginx", "libnginx-mod-stream")
    return program, f" load_module {_NGINX_STREAM};"


def start_haproxy(
    directory: Path,
    nodes: Iterable[Mapping[str, Any]],
    settings: Mapping[str, str] | None = None,
    *,
    ports: Mapping[str, int] | None = None,
    guarded: bool = True,
) -> Balancer:
    """Return an HAProxy before `nodes`, which are as cluster.json describes them.

    `settings` are its variables, without BALANCER_; `ports` those that are chosen already, by PORTS. Not
    `guarded`, it outlives this process. Raises Unavailable.
    """
    program = find_haproxy()
    directory = directory.resolve()
    environment, ports = _environment(directory, settings or {}, "127.0.0.1:", ports or {})
    servers = directory / "servers.cfg"
    servers.write_text(haproxy_servers(nodes))
    files = ["-f", str(_DEPLOY / "haproxy" / "haproxy.cfg"), "-f", str(servers)]
    cache.run("haproxy", [program, "-c", "-dW", *files], environment=environment)
    command = [program, "-W", *files]
    return _start("haproxy", command, directory, environment, ports, access="WEBSOCKET", guarded=guarded)


def haproxy_servers(nodes: Iterable[Mapping[str, Any]]) -> str:
    """Return the second configuration file: a server for each of the nodes."""
    backends = {
        "websocket": ["backend access_websocket from access", "mode http"],
        "tcp": ["backend access_tcp from access", "mode tcp"],
        "api": ["backend api from logic"],
    }
    for node in nodes:
        check = urlsplit(node["metrics"]).port
        for key, lines in backends.items():
            if key in node:
                lines.append(f"server {node['node']} {urlsplit(node[key]).netloc} port {check}")
    return "\n".join("\n    ".join(lines) + "\n" for lines in backends.values())


def start_nginx(
    directory: Path, nodes: Iterable[Mapping[str, Any]], settings: Mapping[str, str] | None = None
) -> Balancer:
    """Return an Nginx before `nodes`, which are as cluster.json describes them.

    `settings` are its variables, without BALANCER_. Raises Unavailable.
    """
    program, modules = find_nginx()
    directory = directory.resolve()
    environment, ports = _environment(directory, settings or {}, "127.0.0.1:", {})
    template = (_DEPLOY / "nginx" / "nginx.conf.template").read_text()
    file = directory / "nginx.conf"
    file.write_text(re.sub(r"\$\{(BALANCER_\w+)\}", lambda match: environment[match[1]], template))
    nodes = list(nodes)
    for key in ("websocket", "tcp", "api"):
        lines = [
            f"server {urlsplit(node[key]).netloc} max_fails=2 fail_timeout=5s;\n"
            for node in nodes
            if key in node
        ]
        (directory / f"servers-{key}.conf").write_text("".join(lines))
    command = [program, "-e", "stderr", "-p", str(directory), "-c", str(file), "-g", f"daemon off;{modules}"]
    cache.run("nginx", [*command, "-t"], environment=environment)
    return _start("nginx", command, directory, environment, ports, access="ACCESS")


def _environment(
    directory: Path, settings: Mapping[str, str], host: str, chosen: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, int]]:
    directory.mkdir(parents=True, exist_ok=True)
    ports = {name: chosen.get(name) or free_port() for name in PORTS}
    values = {
        "CERTIFICATE": str(make_certificate(directory / "tls.pem")),
        "KEY": str(directory / "tls.pem"),
        "SOCKET": str(directory / "haproxy.sock"),
        "RUN": str(directory),
        "FILES": "5000",
        **{name: f"{host}{port}" for name, port in ports.items()},
        **_DEFAULTS,
        **settings,
    }
    return os.environ | {f"BALANCER_{name}": value for name, value in values.items()}, ports


def _start(
    name: str,
    command: list[str],
    directory: Path,
    environment: Mapping[str, str],
    ports: Mapping[str, int],
    *,
    access: str,
    guarded: bool = True,
) -> Balancer:
    operations = f"http://127.0.0.1:{ports['OPERATIONS']}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{operations}/healthz", timeout=1.0) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    running = Running(
        name,
        f"127.0.0.1:{ports['WEBSOCKET']}",
        ready,
        command=command,
        directory=directory,
        environment=environment,
        guarded=guarded,
    )
    running.start()
    running.wait_ready(10.0)
    return Balancer(
        running,
        ssl.create_default_context(cafile=str(directory / "tls.pem")),
        websocket=f"wss://127.0.0.1:{ports['WEBSOCKET']}/ws",
        tcp=f"tcps://127.0.0.1:{ports['TCP']}",
        api=f"https://127.0.0.1:{ports['API']}",
        access=f"https://127.0.0.1:{ports[access]}/v1/access",
        operations=operations,
    )
