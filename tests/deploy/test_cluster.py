"""The local cluster as its command line runs it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from deploy.local.cluster import _runs, _started

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "deploy.local.cluster"]


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_start_describe_stop(kafka_server: object, consul_server: object, tmp_path: Path) -> None:
    """Started detached, it serves where cluster.json says, and stop ends every process of it."""
    place = ["--dir", str(tmp_path)]
    start = [*COMMAND, "start", "--detach", *place, "--access", "1", "--logic", "1", "--dispatch", "1"]
    subprocess.run(start, cwd=ROOT, check=True, timeout=60)
    file = tmp_path / "cluster.json"
    about = json.loads(file.read_text())
    try:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {node["role"] for node in about["nodes"]} == {"access", "logic", "dispatch"}
        for node in about["nodes"]:
            ready = node["metrics"].replace("/metrics", "/readyz")
            with urllib.request.urlopen(ready, timeout=5) as answer:
                assert answer.status == 200
        again = subprocess.run(start, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
        assert again.returncode == 1
        assert "has a cluster already" in again.stderr
    finally:
        subprocess.run([*COMMAND, "stop", *place], cwd=ROOT, check=True, timeout=60)
    for process in [*about["nodes"], *about["servers"].values()]:
        assert not _runs(process["pid"], process["started"])
    assert not file.exists()


def test_a_reused_process_id_is_another_process() -> None:
    """A process is ended only if it is the one that was started: its id and its start time."""
    mine = _started(os.getpid())
    assert _runs(os.getpid(), mine)
    assert not _runs(os.getpid(), str(int(mine) - 1))
    assert not _runs(0, "")
