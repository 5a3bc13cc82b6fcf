"""`cluster.json`: what a local cluster says of itself in its folder, for as long as it runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class NoCluster(Exception):  # noqa: N818 - not an error of the program: nobody started one
    """No cluster runs in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"no cluster runs in {folder}; `make cluster` starts one")


def path(folder: Path) -> Path:
    """Return where it is, for the cluster of a folder."""
    return folder / "cluster.json"


def read(folder: Path) -> dict[str, Any]:
    """Return what the cluster of a folder says of itself. Raises NoCluster."""
    try:
        text = path(folder).read_text()
    except FileNotFoundError:
        raise NoCluster(folder) from None
    about: dict[str, Any] = json.loads(text)
    return about


def write(folder: Path, about: Mapping[str, Any]) -> None:
    """Write it anew; it holds keys, so it is for its owner only."""
    unfinished = folder / ".cluster.json"
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(about, indent=2) + "\n")
    unfinished.replace(path(folder))


def remove(folder: Path) -> None:
    """Say no more: the cluster is no longer there."""
    path(folder).unlink(missing_ok=True)
