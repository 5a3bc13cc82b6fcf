"""The memory of processes, as the kernel counts it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Size:
    """Resident MiB of a process: when the load was under way, the most since then, and at the end."""

    start: float
    most: float
    end: float


class Memory:
    """Sizes of processes by name."""

    def __init__(self) -> None:
        self.sizes: dict[str, Size] = {}

    def look(self, processes: Mapping[str, int]) -> None:
        """Take the sizes of the processes that run; the first look is the start."""
        for name, pid in processes.items():
            size = resident(pid) if pid else 0.0
            if not size:
                continue
            known = self.sizes.setdefault(name, Size(size, size, size))
            known.most, known.end = max(known.most, size), size


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 where there is none."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages / 256
