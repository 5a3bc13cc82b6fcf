"""What was installed stays in a cache outside the tree, shared by every clone on the machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.process import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


def folder() -> Path:
    """Return the cache's folder, `$XDG_CACHE_HOME/holdfast`; it exists."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(base).expanduser() / "holdfast"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name: two runs do not install the same thing at the same time."""
    with (folder() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached file or folder `name`; where it is missing, let `make` write it first.

    `make` gets a path beside the final one; what it wrote appears under `name` at once and whole, or never.
    """
    final = folder() / name
    if final.exists():
        return final
    with locked(name), tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder()) as work:
        if not final.exists():
            made = Path(work) / name
            make(made)
            made.rename(final)
    return final


def run(
    name: str,
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command that installs server `name`; return its output. Raises Unavailable when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Unavailable(name, f"`{command[0]}` cannot be run: {error.strerror}") from error
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-500:]
        raise Unavailable(name, f"`{' '.join(command)}` failed: {words}")
    return done.stdout


def program(name: str, command: str, package: str) -> str:
    """Return the path of `command`, which server `name` needs; where missing, install its Debian package.

    Raises Unavailable where that cannot be done: not root, no apt-get, no such package.
    """
    if found := shutil.which(command):
        return found
    install(name, package)
    if found := shutil.which(command):
        return found
    raise Unavailable(name, f"`{package}` is installed, but `{command}` is not on PATH")


def install(name: str, package: str) -> None:
    """Install a Debian package, which server `name` needs. Raises Unavailable where that cannot be done."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Unavailable(name, f"Debian's package {package}, or what it holds, is to be installed first")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
    with locked("apt"):
        try:
            run(name, command, environment=quiet)
        except Unavailable:  # the machine's package lists may be missing or old
            run(name, ["apt-get", "update", "-q"], environment=quiet)
            run(name, command, environment=quiet)
