"""What a process does about its own limits."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
from holdfast.process import raise_file_limit
hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
assert raise_file_limit() == hard
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_a_process_may_open_as_many_files_as_its_hard_limit() -> None:
    """inv 7: the soft limit of shells (1024) does not bound the connections of a node."""
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=60)
