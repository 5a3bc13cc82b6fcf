"""The `holdfast` command of a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from holdfast import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_from_any_folder(tmp_path: Path) -> None:
    """In .venv/bin of a checkout it finds the library beside it, wherever it is called."""
    checkout, elsewhere = tmp_path / "a checkout", tmp_path / "elsewhere"
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    elsewhere.mkdir()
    (checkout / "holdfast").symlink_to(ROOT / "holdfast")
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    shutil.copy(ROOT / "deploy/local/holdfast.sh", programs / "holdfast")
    told = subprocess.run(
        [programs / "holdfast", "--version"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == f"holdfast {__version__}"
