"""A local cluster of real parts: Kafka, Redis, Consul, and processes of every service, on loopback.

    python -m deploy.local.cluster start [--detach]     what `make cluster` runs
    python -m deploy.local.cluster mend                 what `make cluster-mend` runs
    python -m deploy.local.cluster stop                 what `make cluster-stop` runs

Its folder holds `cluster.json` (process ids, ports of every node, the API's address, the keys made for it),
the settings in `holdfast.toml`, and the data and log of every process. Tests use `LocalCluster` itself.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.local import description
from deploy.local.balancer import PORTS, start_haproxy
from deploy.local.consul import start_consul
from deploy.local.kafka import start_brokers
from deploy.local.process import Running, Unavailable, free_port
from deploy.local.redis import start_redis
from deploy.local.service import ServiceProcess, settings_file, started

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local.balancer import Balancer

DEMO: Final = "services.embedded.demo:app"
_STOP_SECONDS: Final = 20.0


class LocalCluster:
    """Real servers, and so many processes of each service; `app` (module:name) has the handlers.

    `settings` are more settings, as `{"section.name": value}`. Not `guarded`, it outlives this process.
    Methods block; from a coroutine, use `asyncio.to_thread`. Nodes are named `access-0`, `logic-1` and so on,
    servers `kafka`, `redis` and `consul`. Several `brokers` are `kafka-1` and so on; from three on, topics
    have three replicas. All listen on 127.0.0.1; where `via` is another address of loopback, all look for
    each other there, on the same ports: whoever wants a hand on the links listens there, before `start`.
    With `balancer`, clients come through an HAProxy only: access nodes expect its PROXY header.
    """

    def __init__(
        self,
        directory: Path,
        *,
        access: int = 2,
        logic: int = 2,
        dispatch: int = 2,
        brokers: int = 1,
        via: str = "127.0.0.1",
        balancer: bool = False,
        app: str = "",
        settings: Mapping[str, Any] | None = None,
        guarded: bool = True,
    ) -> None:
        self.dir = directory.resolve()
        self.secret = secrets.token_urlsafe(32)
        self.api_key = secrets.token_urlsafe(24)
        self.nodes = {
            f"{role}-{number}": ServiceProcess(role, f"{role}-{number}", self.dir, {}, guarded=guarded)
            for role, count in (("access", access), ("logic", logic), ("dispatch", dispatch))
            for number in range(count)
        }
        kafka = [f"kafka-{number}" for number in range(1, brokers + 1)] if brokers > 1 else ["kafka"]
        self.server_ports = {name: free_port() for name in (*kafka, "redis", "consul")}
        self.balancer: Balancer | None = None
        self._balancer_ports = {name: free_port() for name in PORTS} if balancer else {}
        self._servers: dict[str, Running] = {}
        self._brokers = kafka
        self._via = via
        self._app = app
        self._more = dict(settings or {})
        self._guarded = guarded

    def __enter__(self) -> LocalCluster:  # noqa: PYI034 - it is not meant to be subclassed
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def kafka(self) -> Running:
        """The Kafka of this cluster; its first broker, where there are several."""
        return self.brokers[0]

    @property
    def brokers(self) -> list[Running]:
        """The brokers of this cluster's Kafka."""
        return [server for name, server in self._servers.items() if name.startswith("kafka")]

    @property
    def servers(self) -> dict[str, Running]:
        """Kafka's brokers, Redis and Consul by name, once started."""
        return self._servers

    @property
    def redis(self) -> Running:
        """The Redis of this cluster."""
        return self._servers["redis"]

    @property
    def consul(self) -> Running:
        """The Consul of this cluster."""
        return self._servers["consul"]

    def start(self) -> None:
        """Start everything and wait until it serves. Raises Unavailable, and leaves nothing running then."""
        self.dir.mkdir(parents=True, exist_ok=True)
        for name in self.server_ports:  # what an earlier cluster here left belongs to its keys
            shutil.rmtree(self.dir / name, ignore_errors=True)
        try:
            self._start_servers()
            (self.dir / "holdfast.toml").touch(mode=0o600)
            (self.dir / "holdfast.toml").write_text(self._settings())
            for node in self.nodes.values():
                node.start()
            for node in self.nodes.values():
                node.wait_ready()
            if self._balancer_ports:
                about = [node.describe() for node in self.nodes.values()]
                self.balancer = start_haproxy(
                    self.dir / "haproxy", about, ports=self._balancer_ports, guarded=self._guarded
                )
        except BaseException:
            self.stop()
            raise
        self.write()

    def stop(self) -> None:
        """Stop everything in order: the services, then what they stand on."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.stop(_STOP_SECONDS), self.nodes.values()))
            if self.balancer is not None:
                self.balancer.stop()
            list(pool.map(Running.stop, [server for server in self._servers.values() if server.ours]))
        description.remove(self.dir)

    def kill(self, node: str) -> None:
        """End a node at once, as a crash would."""
        self.nodes[node].kill()
        self.write()

    def restart(self, node: str) -> None:
        """Start a node again, under the same name and ports, and wait until it serves."""
        self.nodes[node].restart()
        self.write()

    def pause(self, node: str) -> None:
        """Freeze a node, as a machine that hangs would."""
        self.nodes[node].pause()

    def resume(self, node: str) -> None:
        """Undo `pause`."""
        self.nodes[node].resume()

    @property
    def processes(self) -> list[Running]:
        """All processes of this cluster that are ours."""
        before = [self.balancer.running] if self.balancer is not None else []
        every = [*self._servers.values(), *self.nodes.values(), *before]
        return [process for process in every if process.ours]

    def mend(self) -> list[str]:
        """Start again what has ended, and wait until it serves; return the names."""
        ended = [process for process in self.processes if not process.alive]
        for process in ended:
            process.restart()
        self.write()
        return [process.name for process in ended]

    def describe(self) -> dict[str, Any]:
        """Return what `cluster.json` holds."""
        nodes = [node.describe() for node in self.nodes.values()]
        apis = [node["api"] for node in nodes if "api" in node]
        before = {"balancer": self.balancer.describe()} if self.balancer is not None else {}
        return before | {
            "supervisor": os.getpid() if self._guarded else 0,
            "supervisor_started": started(os.getpid()) if self._guarded else "",
            "api": apis[0] if apis else "",
            "apis": apis,
            "api_key": self.api_key,
            "auth_secret": self.secret,
            "servers": {
                name: {
                    "address": server.address,
                    "pid": server.pid,
                    "started": started(server.pid),
                    "log": str(server.log) if server.ours else "",
                }
                for name, server in self._servers.items()
            },
            "nodes": nodes,
        }

    def write(self) -> None:
        """Write `cluster.json` anew."""
        description.write(self.dir, self.describe())

    def _start_servers(self) -> None:
        ports, guarded = self.server_ports, self._guarded

        def kafka() -> list[Running]:
            folder = self.dir / "kafka" if len(self._brokers) == 1 else self.dir
            numbers = [ports[name] for name in self._brokers]
            return start_brokers(folder, numbers, advertise=self._via, guarded=guarded)

        with ThreadPoolExecutor() as pool:
            starting = [
                pool.submit(kafka),
                pool.submit(lambda: [start_redis(self.dir / "redis", ports["redis"], guarded=guarded)]),
                pool.submit(lambda: [start_consul(self.dir / "consul", ports["consul"], guarded=guarded)]),
            ]
        self._servers = {
            server.name: server
            for future in starting
            if future.exception() is None
            for server in future.result()
        }
        for future in starting:
            future.result()

    def _seen(self, server: Running) -> str:
        """Return the address at which services look for a server."""
        return f"{self._via}:{server.port}" if server.ours else server.address

    def _settings(self) -> str:
        values: dict[str, Any] = {
            "process.host": "127.0.0.1",
            "process.advertise": self._via,
            "process.drain_seconds": 5.0,
            "kafka.servers": ",".join(map(self._seen, self.brokers)),
            "kafka.replication": 3 if len(self.brokers) >= 3 else 1,
            "kafka.prefix": f"local-{secrets.token_hex(4)}",
            "redis.url": f"redis://{self._seen(self.redis)}/0",
            "redis.prefix": f"local-{secrets.token_hex(4)}",
            "membership.kind": "consul",
            "consul.address": self._seen(self.consul),
            "consul.service": f"local-{secrets.token_hex(4)}",
            "auth.secrets": [self.secret],
            "nodelink.secret": secrets.token_urlsafe(24),
            "api.keys": [self.api_key],
            "logic.app": self._app,
        } | self._more
        if self._balancer_ports:
            values |= {
                "access.proxy_protocol": True,
                "access.endpoint_websocket": f"wss://127.0.0.1:{self._balancer_ports['WEBSOCKET']}/ws",
                "access.endpoint_tcp": f"tcps://127.0.0.1:{self._balancer_ports['TCP']}",
            }
        return settings_file(values)


def _start(options: argparse.Namespace) -> int:
    directory: Path = options.dir
    if description.path(directory).exists():
        print(f"{directory} has a cluster already; stop it with `make cluster-stop`", file=sys.stderr)
        return 1
    cluster = LocalCluster(
        directory,
        access=options.access,
        logic=options.logic,
        dispatch=options.dispatch,
        brokers=options.brokers,
        balancer=options.balancer,
        app=options.app,
        guarded=not options.detach,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())
    print("starting Kafka, Redis, Consul and the services …", flush=True)
    try:
        cluster.start()
    except (Unavailable, KeyboardInterrupt) as error:
        print(error, file=sys.stderr)
        return 1
    _show(cluster)
    if options.detach:
        print("it goes on by itself; stop it with `make cluster-stop`")
        return 0
    print("Ctrl-C stops it", flush=True)
    try:
        _watch(cluster, asked)
    except KeyboardInterrupt:
        print("stopping …", flush=True)
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        cluster.stop()
    return 0


def _watch(cluster: LocalCluster, asked: threading.Event) -> None:
    gone: set[str] = set()
    while True:
        if asked.wait(1.0):
            asked.clear()
            try:
                print(f"started again: {', '.join(cluster.mend()) or 'nothing, all of it runs'}", flush=True)
            except Unavailable as error:
                print(error, flush=True)
            gone.clear()
        for process in cluster.processes:
            if not process.alive and process.name not in gone:
                gone.add(process.name)
                print(f"{process.name} has ended; see {process.log}", flush=True)


def _show(cluster: LocalCluster) -> None:
    about = cluster.describe()
    for name, server in about["servers"].items():
        print(f"  {name:12} {server['address']:32} {server['log']}")
    for node in about["nodes"]:
        where = node.get("websocket") or node.get("api") or node.get("metrics")
        print(f"  {node['node']:12} {where:32} {node['log']}")
    if before := about.get("balancer"):
        print(f"  {before['name']:12} {before['websocket']:32} {before['log']}")
    print(f"addresses, process ids and keys: {description.path(cluster.dir)}", flush=True)


def _stop(options: argparse.Namespace) -> int:
    try:
        about = description.read(options.dir)
    except description.NoCluster as error:
        print(error)
        return 0
    if _runs(about["supervisor"], about["supervisor_started"]):
        _end([(about["supervisor"], about["supervisor_started"])], wait=2 * _STOP_SECONDS)
    before = [about["balancer"]] if "balancer" in about else []
    for group in (about["nodes"], before, list(about["servers"].values())):
        _end([(each["pid"], each["started"]) for each in group], wait=_STOP_SECONDS)
    description.remove(options.dir)
    print("stopped")
    return 0


def _mend(options: argparse.Namespace) -> int:
    try:
        about = description.read(options.dir)
    except description.NoCluster as error:
        print(error, file=sys.stderr)
        return 1
    if not _runs(about["supervisor"], about["supervisor_started"]):
        print("nobody is there to start it: only a cluster that was not detached is mended", file=sys.stderr)
        return 1
    os.kill(about["supervisor"], signal.SIGUSR1)
    print("asked; the shell of the cluster says what was started")
    return 0


def _runs(pid: int, start: str) -> bool:
    return pid > 0 and bool(start) and started(pid) == start


def _end(processes: list[tuple[int, str]], wait: float) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + wait
        for pid, start in processes:
            if _runs(pid, start):
                os.kill(pid, sign)
        while any(_runs(*process) for process in processes) and time.monotonic() < until:
            time.sleep(0.05)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.cluster", description="A local cluster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start it, and run until Ctrl-C")
    start.add_argument("--detach", action="store_true", help="leave it running and return")
    start.add_argument("--app", default=DEMO, help="handlers, as module:name (default: the demo's)")
    for role in ("access", "logic", "dispatch"):
        start.add_argument(f"--{role}", type=int, default=2, metavar="N", help="processes (default: 2)")
    start.add_argument("--balancer", action="store_true", help="HAProxy before access, for all clients")
    start.add_argument("--brokers", type=int, default=1, metavar="N", help="of Kafka (default: 1)")
    mend = commands.add_parser("mend", help="start again what has ended")
    stop = commands.add_parser("stop", help="stop the one that runs")
    for command, run in ((start, _start), (mend, _mend), (stop, _stop)):
        command.add_argument(
            "--dir", type=Path, default="run/cluster", help="its folder (default: run/cluster)"
        )
        command.set_defaults(run=run)
    options = parser.parse_args()
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
