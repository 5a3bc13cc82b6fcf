"""Centrifugo beside us, in the same run and under the same load: one node of it, and a Redis of its own.

Its program is not part of this project: `CENTRIFUGO=/path/to/centrifugo make bench` says where it is, and
without that nothing of it is measured. It is configured to do of what we do as much as it can: tokens are
checked, who is where is recorded (presence), each user has an inbox with a history from which a client that
comes back goes on. What it acknowledges is in Redis, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.local.process import Running, free_port
from deploy.local.redis import start_redis
from loadtest.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SETTING = "CENTRIFUGO"
"""The variable of the environment that says where the program is."""

SECRET = "a secret of a measurement on loopback"  # noqa: S105 - of a server that lives for minutes
KEY = "a key of a measurement on loopback"


class Peer(Target):
    """A node of Centrifugo, as a target."""

    dialect: str = "centrifugo"

    def claims(self, user: str) -> dict[str, Any]:
        """See `Target`: the user's inbox, to which the server subscribes who connects."""
        return {"channels": [f"user:{user}"]}

    def headers(self) -> dict[str, str]:
        """See `Target`."""
        return {"X-API-Key": self.key}

    def publishing(self, messages: Sequence[tuple[str, Any]]) -> tuple[str, dict[str, Any]]:
        """See `Target`. In parallel, or each message would wait for Redis to have the one before."""
        commands = [{"publish": {"channel": channel, "data": data}} for channel, data in messages]
        return "/api/batch", {"commands": commands, "parallel": True}

    def taken(self, answer: dict[str, Any]) -> int:
        """See `Target`."""
        return sum("publish" in reply for reply in answer["replies"])


class Centrifugo:
    """Both servers, while they run."""

    def __init__(self, name: str, server: Running, redis: Running) -> None:
        self.name = name
        self._server = server
        self._redis = redis

    def restart(self) -> None:
        """Start the server anew. Raises Unavailable."""
        self._server.restart()

    @property
    def target(self) -> Peer:
        """The server as it runs now."""
        return Peer(
            websockets=[f"ws://{self._server.address}/connection/websocket"],
            apis=[f"http://{self._server.address}"],
            key=KEY,
            secret=SECRET,
            pids={"centrifugo": self._server.pid, "redis": self._redis.pid},
            roles={"centrifugo": "centrifugo", "redis": "redis"},
        )


def configuration(port: int, redis: str) -> dict[str, Any]:
    """Return what the server is told. Redis is at host:port."""
    kept = {"history_size": 100, "history_ttl": "600s", "force_recovery": True}
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "http_api": {"key": KEY},
        "log": {"level": "warn"},
        "usage_stats": {"disabled": True},
        "engine": {"type": "redis", "redis": {"address": [f"redis://{redis}"]}},
        "client": {"token": {"hmac_secret_key": SECRET}},
        "channel": {
            "namespaces": [
                {"name": "user", "presence": True, "allow_publish_for_client": True, **kept},
                {"name": "room", "allow_subscribe_for_client": True, **kept},
            ]
        },
    }


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Centrifugo | None]:
    """Start both servers where the environment says which program; None where it does not.

    Raises FileNotFoundError where it is not there, and Unavailable.
    """
    program = os.environ.get(SETTING, "")
    if not program:
        yield None
        return
    if not Path(program).is_file():
        raise FileNotFoundError(f"{SETTING} is {program}, and there is no such file")
    folder.mkdir()
    port = free_port()
    config = folder / "centrifugo.json"
    with start_redis(folder) as redis:
        config.write_text(json.dumps(configuration(port, redis.address)))
        command = [program, "--config", str(config)]
        address = f"127.0.0.1:{port}"
        with Running(
            "centrifugo", address, lambda: _listens(port), command=command, directory=folder
        ) as server:
            server.restart()
            yield Centrifugo(f"Centrifugo {version(program)}", server, redis)


def version(path: str) -> str:
    """Return what a program says of its version: the first word of it that begins with v and a digit."""
    said = subprocess.run([path, "version"], check=True, capture_output=True, text=True)  # noqa: S603
    words = said.stdout.split()
    return next((word[1:] for word in words if word[:1] == "v" and word[1:2].isdigit()), "")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True
