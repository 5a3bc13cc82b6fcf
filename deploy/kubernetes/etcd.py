"""Where an API server keeps what it is told."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

from deploy.local.process import Running
from deploy.tools import golang

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path, clients: str, peers: str, *, guarded: bool = True) -> Running:
    """Return an etcd, not started, with its data in `folder`; it listens at two URLs. Raises Unavailable."""
    command = [
        golang.etcd(),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    return Running(
        "etcd", clients, lambda: _healthy(clients), command=command, directory=folder, guarded=guarded
    )


def _healthy(clients: str) -> bool:
    try:
        with urllib.request.urlopen(f"{clients}/health", timeout=1.0) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
