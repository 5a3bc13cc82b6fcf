"""Redis: one server on loopback, without persistence unless asked for.

Looked for in this order: a running server (`HF_LOCAL_REDIS=host:port`), a program
(`HF_LOCAL_REDIS_SERVER=/path`), `redis-server` on PATH; then Debian's package is installed.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from deploy.local import cache
from deploy.local.process import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def start_redis(
    directory: Path,
    port: int = 0,
    options: Sequence[str] = (),
    *,
    persist: bool = False,
    guarded: bool = True,
) -> Running:
    """Return a Redis that serves on loopback, with its log (and with `persist` its data) in `directory`.

    Without `persist` it comes back empty from a restart. `options` are further arguments. Not `guarded`, it
    outlives this process. Raises Unavailable.
    """
    if given := os.environ.get("HF_LOCAL_REDIS"):
        running = Running("redis", given, lambda: answers(given))
        running.wait_ready(10.0)
        return running
    server = find()
    directory = directory.resolve()
    address = f"127.0.0.1:{port or free_port()}"
    command = [server, "--bind", "127.0.0.1", "--port", address.rpartition(":")[2], "--dir", str(directory)]
    command += ["--daemonize", "no", "--save", "", "--maxmemory-policy", "noeviction"]
    command += ["--appendonly", "yes" if persist else "no", *options]
    running = Running(
        "redis", address, lambda: answers(address), command=command, directory=directory, guarded=guarded
    )
    running.start()
    running.wait_ready()
    return running


def find() -> str:
    """Return the path of Redis; installed where missing. Raises Unavailable."""
    return os.environ.get("HF_LOCAL_REDIS_SERVER") or cache.program("redis", "redis-server", "redis-server")


def answers(address: str) -> bool:
    """Tell whether a Redis answers at host:port and has loaded its data."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
