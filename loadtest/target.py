"""What is put under load: addresses and keys of a cluster, and its processes where they run here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import jwt
import msgspec

from deploy.local import description
from loadtest.native import cpu_seconds, resident

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TOKEN_SECONDS = 86_400

SETTINGS = {"access.rebalance_rate": 0}
"""Of the clusters that are started for a measurement: its clients stay where they were put."""


class Target(msgspec.Struct):
    """A cluster. `pids` are those of its processes by node or server name, empty where they are elsewhere."""

    websockets: list[str]
    apis: list[str]
    key: str
    secret: str
    pids: dict[str, int] = {}
    roles: dict[str, str] = {}
    dialect: str = ""
    """What the generator's clients speak; "": holdfast.v1."""

    @classmethod
    def of_cluster(cls, directory: Path) -> Self:
        """Return the local cluster of a folder. Raises NoCluster."""
        about = description.read(directory)
        nodes: list[dict[str, Any]] = about["nodes"]
        servers: dict[str, dict[str, Any]] = about["servers"]
        return cls(
            websockets=[node["websocket"] for node in nodes if "websocket" in node],
            apis=about["apis"],
            key=about["api_key"],
            secret=about["auth_secret"],
            pids={node["node"]: node["pid"] for node in nodes if node["pid"]}
            | {name: server["pid"] for name, server in servers.items() if server["pid"]},
            roles={node["node"]: node["role"] for node in nodes} | {name: name for name in servers},
        )

    def port(self, number: int = 0) -> int:
        """Return the port of a WebSocket listener on loopback."""
        port = urlsplit(self.websockets[number]).port
        assert port is not None
        return port

    def token(self, user: str) -> str:
        """Return a token signed here: thousands of calls of the API would be a load of their own.

        Without a `jti`: with one, each session reads and watches one more channel.
        """
        now = int(time.time())
        claims = {"sub": user, "iat": now, "exp": now + TOKEN_SECONDS}
        return jwt.encode(claims | self.claims(user), self.secret, "HS256")

    def claims(self, user: str) -> dict[str, Any]:
        """Return what else a user's token says."""
        del user
        return {}

    def headers(self) -> dict[str, str]:
        """Return what tells the API who calls."""
        return {"Authorization": f"Bearer {self.key}"}

    def publishing(self, messages: Sequence[tuple[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Return path and body of the request that publishes (channel, data) pairs."""
        listed = [{"channel": channel, "type": "text", "data": data} for channel, data in messages]
        return "/v1/publish", {"messages": listed}

    def taken(self, answer: dict[str, Any]) -> int:
        """Return how many messages of a request were taken, by its answer."""
        return sum("id" in result for result in answer["results"])

    def write_tokens(self, path: Path, users: Iterable[str]) -> Path:
        """Write one token a line."""
        path.touch(mode=0o600)
        path.write_text("".join(self.token(user) + "\n" for user in users))
        return path

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds by role; our services first, several processes of one added up."""
        spent: dict[str, float] = {}
        for name, pid in self.pids.items():
            spent[self.roles[name]] = spent.get(self.roles[name], 0.0) + cpu_seconds(pid)
        return spent

    def memory(self) -> dict[str, int]:
        """Return resident bytes by role, several processes of one added up."""
        held: dict[str, int] = {}
        for name, pid in self.pids.items():
            held[self.roles[name]] = held.get(self.roles[name], 0) + resident(pid)
        return held

    def settle(self, at_most: float = 20.0) -> None:
        """Wait until the services have nothing left to do, or the next measurement pays for it."""
        end = time.monotonic() + at_most
        while time.monotonic() < end:
            before = self.cpu()
            time.sleep(0.5)
            if all(after - before[role] < BUSY * 0.5 for role, after in self.cpu().items()):
                return


BUSY = 0.12
"""Share of a core above which a process is at work on something; Kafka's idle consumers take some."""


def machine() -> str:
    """Describe where this runs."""
    import platform  # noqa: PLC0415

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores ({name}), Linux {platform.release()}, CPython {platform.python_version()}"
