"""Redis servers of one test: alone, with a Sentinel, or as a Cluster; and how a replica is made to lag."""

from __future__ import annotations

import binascii
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis as Client

from deploy.local.servers import Running, free_port, start_redis
from tests.unavailable import available

if TYPE_CHECKING:
    from pathlib import Path

QUICK = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
    *("--cluster-replica-validity-factor", "0"),
)


class Servers:
    """Some Redis servers of one test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.running: list[Running] = []

    def start(self, *options: str) -> Running:
        directory = self._directory / str(len(self.running))
        directory.mkdir()
        with available():
            running = start_redis(directory, options=options)
        if not running.ours:
            pytest.skip("HF_LOCAL_REDIS names a server that is not ours to stop")
        self.running.append(running)
        return running

    def sentinel(self, master: Running) -> Running:
        template = self.start()
        command, address, directory = template._command, template.address, self._directory / "sentinel"
        template.stop()
        self.running.remove(template)
        directory.mkdir()
        host, _, port = master.address.rpartition(":")
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main {host} {port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )
        running = Running(
            "sentinel",
            address,
            template._ready,
            command=[command[0], str(config), "--sentinel", "--port", address.rpartition(":")[2]],
            directory=directory,
        )
        running.start()
        running.wait_ready()
        self.running.append(running)
        return running

    def stop(self) -> None:
        for running in self.running:
            running.stop()


def client(server: Running) -> Client:
    host, _, port = server.address.rpartition(":")
    return Client(host=host, port=int(port), decode_responses=True)


def home(tag: str) -> int:
    return min(binascii.crc_hqx(tag.encode(), 0) % 16384 * 3 // 16384, 2)


def assemble(masters: list[Running], spare: Running, links: list[str]) -> None:
    """Make one Cluster of three masters, and a replica of the third."""
    bounds = [-(-16384 * number // 3) for number in range(4)]
    for number, server in enumerate(masters):
        with client(server) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    with client(masters[0]) as admin:
        for server, link in zip((*masters[1:], spare), links[1:], strict=True):
            host, _, port = server.address.rpartition(":")
            admin.execute_command("CLUSTER", "MEET", host, port, link)
    with client(masters[2]) as admin:
        third = str(admin.execute_command("CLUSTER", "MYID"))
    end = time.monotonic() + 20
    for server in (*masters, spare):
        with client(server) as admin:
            while "cluster_known_nodes:4" not in raw(admin, "CLUSTER", "INFO"):
                assert time.monotonic() < end
                time.sleep(0.05)
    with client(spare) as admin:
        admin.execute_command("CLUSTER", "REPLICATE", third)
        while admin.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < end
            time.sleep(0.05)
    for server in (*masters, spare):
        with client(server) as admin:
            while "cluster_state:ok" not in raw(admin, "CLUSTER", "INFO"):
                assert time.monotonic() < end
                time.sleep(0.05)


def raw(admin: Client, *command: str) -> str:
    return str(admin.execute_command(*command)).replace("'", "").replace(": ", ":")


def start_sentinel(servers: Servers) -> tuple[Running, Running, Running]:
    """Start a master, its replica and a Sentinel that knows both; return them."""
    master = servers.start()
    host, _, port = master.address.rpartition(":")
    replica = servers.start("--replicaof", f"{host} {port}")
    sentinel = servers.sentinel(master)
    end = time.monotonic() + 20
    with client(master) as admin:
        # The master's view: it counts a replica as in sync a little after the replica itself does.
        while admin.info("replication").get("slave0", {}).get("state") != "online":
            assert time.monotonic() < end
            time.sleep(0.05)
    with client(sentinel) as admin:
        while not admin.execute_command("SENTINEL", "REPLICAS", "main"):
            assert time.monotonic() < end
            time.sleep(0.05)
    return master, replica, sentinel


def start_cluster(servers: Servers) -> tuple[list[Running], Running]:
    """Start a Cluster of three masters, and a replica of the third; return them."""
    links = [str(free_port()) for _ in range(4)]
    *masters, spare = [servers.start(*QUICK, "--cluster-port", link) for link in links]
    assemble(masters, spare, links)
    return masters, spare


def cut_off(replica: Running, master: Running) -> None:
    """Freeze a replica so that it will never get what is written from now on."""
    replica.pause()
    with client(master) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
