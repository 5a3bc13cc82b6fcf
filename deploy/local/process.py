"""One server process: started, watched until it is ready, and ended in every way a test may want.

No process outlives the one that started it, however that ends: a small guard process holds a pipe to us and
kills what it was told of when the pipe closes. (A death signal would come when the starting *thread* ends.)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_PORTS: Final = (12_000, 32_000)
"""Below the range from which the kernel takes ports for outgoing connections: a server that is away for a
moment finds its port free when it comes back."""

_GUARD: Final = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    number = int(line)
    groups.add(number) if number > 0 else groups.discard(-number)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Unavailable(Exception):  # noqa: N818 - not an error of the program: something is not there
    """A server cannot be had on this machine: `name` is which, `why` is for a person."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} is not available: {why}")
        self.name = name
        self.why = why


class _Guard:
    """Kills the process groups it knows when this process is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def tell(self, number: int) -> None:
        with self._lock:
            if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
                self._owner = os.getpid()
                atexit.unregister(self.close)
                atexit.register(self.close)
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", _GUARD],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            pipe = self._process.stdin
            if pipe is not None:
                pipe.write(f"{number}\n")
                pipe.flush()

    def close(self) -> None:
        """Close the pipe and see the guard off: Python warns of a child that nobody waited for."""
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._process.communicate()
                self._process = None


_guard = _Guard()
_handed_out: set[int] = set()


def free_port() -> int:
    """Return a port of loopback that nothing listens on and that this function did not return before."""
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 - not a secret
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port


class Running:
    """A server: its address, its process id, and the ways to end it.

    Without a command it is someone else's server: it can be used, not stopped, and asking for that raises
    Unavailable. `ready` is asked until it says yes. All methods block; from a coroutine, use
    `asyncio.to_thread`.
    """

    def __init__(
        self,
        name: str,
        address: str,
        ready: Callable[[], bool],
        *,
        command: Sequence[str] = (),
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        guarded: bool = True,
    ) -> None:
        self.name = name
        self.address = address
        self._ready = ready
        self._command = list(command)
        self._directory = directory
        self._environment = dict(environment) if environment is not None else None
        self._guarded = guarded
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._command:
            self.stop()

    @property
    def ours(self) -> bool:
        """Whether this process started it and may end it."""
        return bool(self._command)

    @property
    def port(self) -> int:
        """The port of `address`."""
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process id; 0 while it does not run or is not ours."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """The file that takes its output, over all of its starts."""
        if self._directory is None:
            raise self._not_ours()
        return self._directory / f"{self.name}.log"

    def start(self) -> None:
        """Start the process, and do not wait; nothing happens when it runs."""
        if not self._command or self._directory is None:
            raise self._not_ours()
        if self.alive:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._guarded:
            _guard.tell(self._process.pid)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until it serves. Raises Unavailable when it ends or `timeout` seconds pass first."""
        until = time.monotonic() + timeout
        while not self._ready():
            if self._command and not self.alive:
                raise Unavailable(self.name, f"it ended at start; {self._last_words()}")
            if time.monotonic() > until:
                raise Unavailable(self.name, f"it was not ready within {timeout:g} s; {self._last_words()}")
            time.sleep(0.02)

    def stop(self, timeout: float = 15.0) -> None:
        """End it in order (SIGTERM); kill it when that takes more than `timeout` seconds."""
        process = self._process
        if process is None:
            if not self._command:
                raise self._not_ours()
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once, with its children (SIGKILL)."""
        process = self._process
        if process is None:
            if not self._command:
                raise self._not_ours()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._guarded:
            _guard.tell(-process.pid)
        self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): it takes connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def restart(self, timeout: float = 60.0) -> None:
        """Start it again on the same port and data, stopping it first where it runs, and wait for it."""
        self.stop()
        self.start()
        self.wait_ready(timeout)

    def _signal(self, number: signal.Signals) -> None:
        if not self._command:
            raise self._not_ours()
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _not_ours(self) -> Unavailable:
        return Unavailable(self.name, "it was started elsewhere and is not ours to start or end")

    def _last_words(self) -> str:
        if self._directory is None or not self.log.exists():
            return "it left no log"
        lines = self.log.read_text(errors="replace").splitlines()[-10:]
        return f"the end of {self.log}:\n" + "\n".join(lines)
