"""A local cluster of real parts: Kafka, Redis, Consul, and processes of every service, on loopback.

Its folder holds `cluster.json` (process ids, ports of every node, the API's address, the keys made for it),
the settings in `holdfast.toml`, and the data and log of every process. `python -m deploy.local` runs it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from deploy.local import description
from deploy.local.balancer import PORTS, start_haproxy
from deploy.local.consul import start_consul
from deploy.local.kafka import start_brokers
from deploy.local.process import Running, free_port
from deploy.local.redis import start_redis
from deploy.local.service import ServiceProcess, settings_file, started

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.local.balancer import Balancer

STOP_SECONDS: Final = 20.0
"""Time for a process to end by itself."""


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
            list(pool.map(lambda node: node.stop(STOP_SECONDS), self.nodes.values()))
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
