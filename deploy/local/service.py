"""One process of a service in the local cluster."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.local.process import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[2]


class ServiceProcess(Running):
    """One process of a service. Its ports stay the same over all of its starts."""

    def __init__(
        self, role: str, name: str, directory: Path, environment: Mapping[str, str], *, guarded: bool
    ) -> None:
        self.role = role
        self.ready_file = directory / f"{name}.ready.json"
        own = {
            "HOLDFAST_CONFIG": str(directory / "holdfast.toml"),
            "HOLDFAST_PROCESS_NODE": name,
            "HOLDFAST_PROCESS_READY_FILE": str(self.ready_file),
            "HOLDFAST_PROCESS_METRICS_PORT": str(free_port()),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path.cwd())]),
            "PYTHONUNBUFFERED": "1",
        }
        names = {
            "access": ("ACCESS_WEBSOCKET_PORT", "ACCESS_TCP_PORT", "NODELINK_PORT"),
            "logic": ("API_PORT",),
        }
        self.ports = {port: free_port() for port in names.get(role, ())}
        own |= {f"HOLDFAST_{port}": str(number) for port, number in self.ports.items()}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
        super().__init__(
            name,
            f"127.0.0.1:{own['HOLDFAST_PROCESS_METRICS_PORT']}",
            self.ready_file.exists,
            command=[sys.executable, "-m", f"services.{role}"],
            directory=directory,
            environment=inherited | own | dict(environment),
            guarded=guarded,
        )

    def run_from(self, root: Path) -> None:
        """Take the code of another checkout of this repository, from the next start on."""
        assert self._environment is not None
        self._environment["PYTHONPATH"] = os.pathsep.join([str(root), str(Path.cwd())])

    def run_as(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Be started by another command, from the next start on."""
        assert self._environment is not None
        self._command = command
        self._environment |= environment

    def start(self) -> None:
        """See `Running.start`; what an earlier start said of itself is forgotten."""
        if not self.alive:
            self.ready_file.unlink(missing_ok=True)
        super().start()

    def describe(self) -> dict[str, Any]:
        """Return what cluster.json says of it: what it wrote once it served, and addresses made of that."""
        told: dict[str, Any] = {"role": self.role, "node": self.name}
        if self.ready_file.exists():
            told |= json.loads(self.ready_file.read_text())
        told |= {"pid": self.pid, "started": started(self.pid), "log": str(self.log)}
        for key, form in (
            ("websocket", "ws://127.0.0.1:{}/ws"),
            ("tcp", "tcp://127.0.0.1:{}"),
            ("api", "http://127.0.0.1:{}"),
            ("metrics", "http://127.0.0.1:{}/metrics"),
        ):
            if isinstance(told.get(key), int):
                told[key] = form.format(told[key])
        return told


def settings_file(values: Mapping[str, Any]) -> str:
    """Return settings, given as `{"section.name": value}`, as the TOML file that services read."""
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
    return "".join(f"[{name}]\n" + "\n".join(lines) + "\n\n" for name, lines in sections.items())


def started(pid: int) -> str:
    """Return when a process started, in the kernel's words: with its id, that names it for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def runs(pid: int, start: str) -> bool:
    """Tell whether the process that started then is still there."""
    return pid > 0 and bool(start) and started(pid) == start
