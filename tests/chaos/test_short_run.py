"""Chaos on the real thing, for two minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.schedule import KINDS
from tests.unavailable import without

ROOT = Path(__file__).resolve().parents[2]
SEED = "1"


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_reordered(tmp_path: Path) -> None:
    """inv 1-4, 6, 8-10, 12: every kind of fault on real processes and links, and every promise is kept."""
    command = [sys.executable, "-m", "chaos", "--dir", str(tmp_path / "run"), "--seed", SEED]
    command += ["--minutes", "1.2", "--baseline", "5", "--load", "0.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        without(done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["violations"] == {"lost": 0, "doubled": 0, "reordered": 0, "failed": 0}
    assert result["counts"]["delivered"] > result["counts"]["acked"] > 500
    assert result["counts"]["joined"] >= result["counts"]["left"] > 2
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert all(f"{kind.what} {kind.on}" in plan for kind in KINDS)
