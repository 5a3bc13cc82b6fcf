"""Several worker processes of one service on one machine, each a node of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_AGAIN: Final = 1.0
"""Seconds before a worker that died is started again."""


def supervise(count: int) -> int:
    """Run `count` copies of this command, numbered by WORKER_NUMBER, until told to end.

    Signals to end, and SIGHUP, are passed on. A worker that dies is started again; one that refuses its
    settings (exit 78) ends them all, since the others would say the same. Returns the exit status.
    """
    workers = {number: _start(number) for number in range(count)}
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        for process in workers.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def pass_on(number: int, _: object) -> None:
        for process in workers.values():
            if process.poll() is None:
                process.send_signal(number)

    signal.signal(signal.SIGHUP, pass_on)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    status = 0
    while workers:
        for number, process in list(workers.items()):
            code = process.poll()
            if code is None:
                continue
            if ending or code in (0, 78):
                del workers[number]
                if code == 78 and not ending:
                    status = code
                    end()
                status = status or (max(0, code))
            else:
                print(f"worker {number} ended with {code}; starting it again", file=sys.stderr)  # noqa: T201
                time.sleep(_AGAIN)
                if not ending:
                    workers[number] = _start(number)
        time.sleep(0.05)
    return status


def end_with_supervisor() -> None:
    """Have the kernel send SIGTERM to this worker when its supervisor dies, however it does. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own command line again
        [sys.executable, *sys.orig_argv[1:]], env={**os.environ, "WORKER_NUMBER": str(number)}
    )
