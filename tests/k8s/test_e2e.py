"""The parts of `make k8s-e2e` that need no cluster: what it counts, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.kubernetes import sandbox
from deploy.tools import golang
from tests.k8s.e2e.claims import Claims
from tests.k8s.e2e.load import most_within


def test_a_run_without_claims_or_with_a_broken_one_fails() -> None:
    """Nothing seen is nothing proved."""
    held, broken = Claims(), Claims()
    for claims in (held, broken):
        claims.claim("upgrade", "rolled out", "12 s", holds=True)
    broken.claim("messages", "0 lost", 1, holds=False)
    assert (Claims().kept, held.kept, broken.kept) == (False, True, False)
    assert "FAILS" in "\n".join(broken.told())


@pytest.mark.parametrize(
    ("times", "most"), [([], 0), ([1.0], 1), ([3.0, 1.0, 2.0], 3), ([1.0, 1.5, 3.1, 3.2, 3.3, 9.0], 4)]
)
def test_the_fullest_span_is_found(times: list[float], most: int) -> None:
    """A storm between two quiet spells counts in full, wherever it lies."""
    assert most_within(times, 2.0) == most


def test_a_module_of_parts_is_built_with_parts_of_its_version() -> None:
    """Kubernetes names its parts at v0.0.0; replacements by folders of its own tree are not for us."""
    text = "require (\n\tk8s.io/api v0.0.0\n\tother.io/x v1.2.3\n)\nreplace k8s.io/api => ./staging/api\n"
    assert list(golang._replaced(text, "v1.36.3")) == ["replace k8s.io/api => k8s.io/api v0.36.3"]
    text = "replace a.io/x v0.1.0 => a.io/x v0.1.1\nreplace (\n\tb.io/y => b.io/z v1.0.0\n)\n"
    found = list(golang._replaced(text, "v2.0.0"))
    assert found == ["replace a.io/x v0.1.0 => a.io/x v0.1.1", "replace b.io/y => b.io/z v1.0.0"]


INSIDE = """
from pathlib import Path
import subprocess, sys
from deploy.kubernetes import sandbox
sandbox.set_up()
place = sandbox.GROUPS / "pids"
((place if place.is_dir() else sandbox.GROUPS) / sys.argv[1] / "pod").mkdir(parents=True)
Path("/run/there").write_text("")
Path("/var/lib/there").write_text("")
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
if sys.argv[2:]:
    Path(sys.argv[2]).write_text("ready")
    child.wait()
sys.exit(7)
"""


@pytest.fixture
def group() -> str:
    """Return the name of a control group of our own; skip where there are no namespaces to be had."""
    try:
        done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False)
    except OSError:
        pytest.skip("there is no unshare")
    if done.returncode or os.geteuid() != 0:
        pytest.skip("namespaces need root")
    return f"holdfast-test-{os.getpid()}"


def sleepers() -> set[str]:
    """Return the processes that are `sleep 1000`."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\x001000\x00":
                found.add(path.parent.name)
        except OSError:
            continue
    return found


def clean(before: set[str], group: str) -> bool:
    """Tell whether nothing is left: processes, mounts, devices, control groups."""
    links = Path("/proc/net/dev").read_text() + Path("/proc/mounts").read_text()
    stray = [path for path in ("/run/there", "/var/lib/there") if Path(path).exists()]
    return sleepers() <= before and "node0" not in links and not stray and not sandbox.left_behind(group)


def test_a_sandbox_leaves_nothing_behind(group: str) -> None:
    """Its processes, mounts, devices and control groups are gone with it, and how it ended is known."""
    before = sleepers()
    assert sandbox.run_inside([sys.executable, "-c", INSIDE, group], group) == 7
    assert clean(before, group)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_who_is_killed_leaves_no_process_behind(number: signal.Signals, group: str, tmp_path: Path) -> None:
    """By Ctrl-C or for good: the kernel ends all that was inside; Ctrl-C removes the control groups, too."""
    before = sleepers()
    flag = tmp_path / "ready"
    outside = (
        "import signal, sys; from deploy.kubernetes import sandbox\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sandbox.run_inside([sys.executable, '-c', *sys.argv[1:]], sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", outside, INSIDE, group, str(flag)])
    until = time.monotonic() + 30.0
    while not flag.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(30.0)
    while sleepers() - before and time.monotonic() < until:
        time.sleep(0.02)
    if number is signal.SIGKILL:
        sandbox.remove_groups(group)
    assert clean(before, group)
