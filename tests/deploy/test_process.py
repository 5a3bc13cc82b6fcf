"""A started server obeys, comes back on its port, and never outlives who started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import Running, Unavailable, free_port
from deploy.local.redis import answers
from deploy.local.servers import start_redis

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.servers import Running as Server


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.redis
def test_restart_keeps_the_port(redis_server: Server, tmp_path: Path) -> None:
    """Killed or stopped, a server comes back under the same address with another process id."""
    if not redis_server.ours:
        pytest.skip("a Redis given by setting says nothing about starting one")
    with start_redis(tmp_path) as server:
        first, address = server.pid, server.address
        server.kill()
        assert not server.alive
        assert not answers(address)
        server.restart()
        assert server.address == address
        assert server.pid not in (0, first)
        assert answers(address)


@pytest.mark.redis
def test_pause_freezes_and_resume_goes_on(redis_server: Server, tmp_path: Path) -> None:
    """A paused server accepts and does not answer; resumed, it answers."""
    if not redis_server.ours:
        pytest.skip("a Redis given by setting says nothing about starting one")
    with start_redis(tmp_path) as server:
        server.pause()
        assert not answers(server.address)
        server.resume()
        server.wait_ready(5)


def test_dies_with_its_starter(tmp_path: Path) -> None:
    """Even when the starter is killed, what it started is gone."""
    starter = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from deploy.local.process import Running\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "folder = Path(sys.argv[1])\n"
        "running = Running('sleeper', '127.0.0.1:1', lambda: True, command=command, directory=folder)\n"
        "running.start()\n"
        "print(running.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not _gone(pid)
        process.kill()
    until = time.monotonic() + 5
    while not _gone(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert _gone(pid)


def test_leaves_no_warning_behind(tmp_path: Path) -> None:
    """A program that stopped what it started ends without a word, its guard included."""
    starter = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deploy.local.process import Running\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "folder = Path(sys.argv[1])\n"
        "running = Running('sleeper', '127.0.0.1:1', lambda: True, command=command, directory=folder)\n"
        "running.start()\n"
        "running.stop()\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", starter, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""


def test_what_is_not_ours_cannot_be_ended() -> None:
    """A server given by address can be used, not stopped, and the refusal names it."""
    given = Running("kafka", "127.0.0.1:9", lambda: True)
    given.wait_ready(1)
    for method in (given.stop, given.kill, given.pause, given.start):
        with pytest.raises(Unavailable, match="kafka"):
            method()


def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    """A server that ends at start is reported with its last words."""
    command = [sys.executable, "-c", "import sys; sys.exit('no such option')"]
    server = Running("broken", "127.0.0.1:1", lambda: False, command=command, directory=tmp_path)
    server.start()
    with pytest.raises(Unavailable, match="no such option"):
        server.wait_ready(10)


def test_free_ports_differ() -> None:
    """No port is handed out twice."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
