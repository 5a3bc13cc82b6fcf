"""What a local cluster says of itself."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from deploy.local import description

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_written_is_read_by_its_owner_only(tmp_path: Path) -> None:
    """It holds keys; nothing unfinished is left beside it."""
    for number in (1, 2):
        description.write(tmp_path, {"api_key": number})
        assert description.read(tmp_path) == {"api_key": number}
        assert stat.S_IMODE(description.path(tmp_path).stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [description.path(tmp_path)]


def test_where_no_cluster_runs_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    """A folder without a cluster, or whose cluster has ended, is named."""
    description.write(tmp_path, {})
    description.remove(tmp_path)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(description.NoCluster, match=f"no cluster runs in {folder}; `make cluster`"):
            description.read(folder)
