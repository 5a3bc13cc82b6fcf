"""`holdfast dev`: the whole system in this process, on memory, with a demo page."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from holdfast import __version__, tls
from holdfast.errors import Stop
from holdfast.observe import logs
from holdfast.observe.health import HealthServer
from holdfast.observe.metrics import Metrics
from holdfast.process import make_tracing, run_loop, write_ready
from holdfast.settings import PREFIX, Settings
from holdfast.settings_load import load

from ..logic.service import load_app  # noqa: TID252 - a wheel has this package under another name
from .cluster import Embedded, ready_settings
from .routes import add_routes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.app import App

_LOCAL: Final = "127.0.0.1"
_PARTITIONS: Final = 4
_DEMO: Final = f"{__package__}.demo:app"
KEY: Final = "dev"


def run_dev(app: str | None) -> int:
    """Run until SIGINT or SIGTERM, with the handlers of `module:name` or the demo's.

    Raises Stop, naming what to change, for wrong settings, a port in use, or an app that cannot be loaded.
    """
    settings = dev_settings()
    handlers = load_app(app or settings.logic.app or _DEMO)
    for name, port in _ports(settings):
        _check_free(settings.process.host, name, port)
    logs.configure(settings.process.log_level, role="dev", node="dev")
    return run_loop(_serve(settings, handlers))


def dev_settings() -> Settings:
    """Return the settings of file and environment, with a development machine's defaults beneath."""
    settings = load()
    own: dict[str, dict[str, Any]] = {"api": {"keys": settings.api.keys or (KEY,)}}
    process: dict[str, Any] = {}
    if f"{PREFIX}PROCESS_HOST" not in os.environ:
        process["host"] = _LOCAL
    if f"{PREFIX}PROCESS_LOG_LEVEL" not in os.environ:
        process["log_level"] = "warning"
    if f"{PREFIX}PROCESS_METRICS_PORT" not in os.environ:
        process["metrics_port"] = 0  # the usual one is often a node exporter's; nobody scrapes this by heart
    if f"{PREFIX}KAFKA_PARTITIONS" not in os.environ:
        own["kafka"] = {"partitions": _PARTITIONS, "replication": 1}
    return ready_settings(settings, secret=secrets.token_urlsafe(32), process=process, **own)


def _ports(settings: Settings) -> Sequence[tuple[str, int]]:
    ports = [
        ("access.websocket_port", settings.access.websocket_port),
        ("api.port", settings.api.port),
        ("process.metrics_port", settings.process.metrics_port),
    ]
    return [*ports, ("access.tcp_port", settings.access.tcp_port)] if settings.access.tcp else ports


def _check_free(host: str, name: str, port: int) -> None:
    """Raise Stop, naming the setting, when the port is in use."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            variable = f"{PREFIX}{name}".replace(".", "_").upper()
            raise Stop(f"{name}: port {port} on {host} {what}; choose another one with {variable}") from None


async def _serve(settings: Settings, app: App) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stopping.set)
    metrics = Metrics()
    metrics.build_info.labels(__version__).set(1)
    tracing = make_tracing(settings, "dev", "dev", metrics)
    cluster = Embedded(
        settings, app=app, metrics=metrics, routes=lambda web: add_routes(web, settings), tracing=tracing
    )
    process = settings.process
    trust = tls.health_server(process)
    health = HealthServer(process.host, process.metrics_port, metrics, cluster.problems, trust)
    await health.start()
    await cluster.start()
    try:
        ports = cluster.ports | {"metrics": health.port}
        write_ready(settings, "dev", "dev", 0, ports)
        print(welcome(settings, ports), flush=True)  # noqa: T201 - this is what the command is for
        await stopping.wait()
    finally:
        await cluster.stop()
        await health.stop()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    return 0


def welcome(settings: Settings, ports: Mapping[str, int]) -> str:
    """Return what a newcomer reads first; `ports` are those that are listened on, by listener."""
    host = _LOCAL if settings.process.host in ("0.0.0.0", "::", "") else settings.process.host  # noqa: S104
    api = f"{'https' if settings.api.tls_certificate else 'http'}://{host}:{ports['api']}"
    key = settings.api.keys[0]
    command = ".venv/bin/holdfast" if Path(".venv/bin/holdfast").exists() else "holdfast"
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    return f"""
{bold}Holdfast is running in this process, on memory: what it holds is gone when it ends.{plain}

  The demo page   {bold}{api}/{plain}    open it twice, with two names
  WebSocket       ws://{host}:{ports["websocket"]}{settings.access.websocket_path}
  TCP             {f"{host}:{ports['tcp']}" if "tcp" in ports else "off"}
  HTTP API        {api}/v1/    API key: {key}
  Metrics         {"https" if settings.process.tls_certificate else "http"}://{host}:{ports["metrics"]}/metrics

  Publish to everybody in the lobby:

    curl {api}/v1/publish -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
      -d '{{"channel": "room:lobby", "type": "chat.text", "data": {{"text": "hello from curl"}}}}'

  Write your own handlers: put an App into chat.py, run `{command} dev chat:app`; see examples/ and README.md.
  Ctrl-C ends it.
"""
