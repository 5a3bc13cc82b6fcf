"""The C programs of `loadtest/c`: built when first used, driven over their standard input."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
LIBRARIES = {"floor": ["-luring"], "crowd": ["-lm"]}


class MissingTool(Exception):  # noqa: N818
    """A program could not be built here; the text says what to install."""


def build(name: str) -> Path:
    """Return the built program, kept in the user's cache under the hash of its source."""
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "holdfast" / "native"
    program = cache / f"{name}-{digest}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        out = Path(folder) / name
        command = ["cc", "-O2", "-o", str(out), str(source), *LIBRARIES.get(name, [])]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        except FileNotFoundError as error:
            raise MissingTool("a C compiler is needed: install gcc") from error
        except subprocess.CalledProcessError as error:
            raise MissingTool(
                f"{name}.c does not build (liburing-dev installed?):\n{error.stderr}"
            ) from error
        out.replace(program)
    return program


class Program:
    """A running program that answers one line for each line it is told."""

    def __init__(self, name: str, *arguments: str | int | Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [build(name), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Send a command; `hear` waits for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> list[str]:
        """Return the words of the next answer."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().split()
        if not answer:
            raise RuntimeError(f"the program ended with {self._process.wait()}")
        if answer[0] == "unknown":
            raise RuntimeError(" ".join(answer))
        return answer

    def say(self, line: str) -> dict[str, float]:
        """Send a command and return the numbers of its answer, by the word before each."""
        self.tell(line)
        return self.numbers()

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the next answer, by the word before each."""
        answer = self.hear()
        if len(answer) % 2:  # the first word stands alone
            answer = answer[1:]
        return {word: float(number) for word, number in zip(answer[::2], answer[1::2], strict=True)}

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """Return utime + stime of a process, in ns resolution (the kernel's CPU clock of that process)."""
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmRSS")
