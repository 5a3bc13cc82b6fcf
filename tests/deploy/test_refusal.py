"""A service that cannot run with its settings says so in a line and ends as wrongly configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("HOLDFAST_REDIS_URL", "", "redis.url"),
        ("HOLDFAST_REDIS_URL", "postgres://localhost", "redis.url"),
        ("HOLDFAST_ACCESS_CONNECTIONS", "many", "access.connections"),
        ("HOLDFAST_ACCES_PORT", "1", "HOLDFAST_ACCES_PORT"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(variable: str, value: str, named: str) -> None:
    """inv 11: exit status 78, the setting's name, no traceback; whoever finds it wrong."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HOLDFAST_")}
    environment |= {"HOLDFAST_PROCESS_METRICS_PORT": "0", variable: value}
    command = [sys.executable, "-m", "services.access"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 78
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
