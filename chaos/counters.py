"""What services counted meanwhile: it tells that the faults and the load have reached what they are for."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNTED: Final = (
    "access_put_aside",
    "access_gaps",
    "access_breaks",
    "access_polls",
    "access_forgotten",
    "access_fenced",
    "access_resets",
    "logic_retries",
    "logic_rewinds",
    "logic_dead_letters",
    "dispatch_claims",
    "dispatch_rewinds",
    "dispatch_rebuilds",
    "dispatch_unjoined",
    "dispatch_apply_retries",
    "dispatch_dead_letters",
    "bus_produce_failed",
    "bus_producer_replaced",
)
"""Counters of `docs/metrics.md`; all labels of one are added up."""

_LINE: Final = re.compile(r"^holdfast_(\w+)_total(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


class Counters:
    """Counters of processes, over their restarts: what a process counted after the last look is not known."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, int], dict[str, float]] = {}

    async def look(self, processes: Mapping[str, tuple[int, str]]) -> None:
        """Read the metrics of processes, given as name to process id and host:port."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:

            async def one(name: str, pid: int, address: str) -> None:
                try:
                    async with session.get(f"http://{address}/metrics") as answer:
                        self.take(name, pid, await answer.text())
                except (OSError, TimeoutError, aiohttp.ClientError):
                    return  # it is away

            await asyncio.gather(*(one(name, *of) for name, of in processes.items()))

    def take(self, name: str, pid: int, text: str) -> None:
        """Take what a process says of itself."""
        latest = dict.fromkeys(COUNTED, 0.0)
        for counter, value in _LINE.findall(text):
            if counter in latest:
                latest[counter] += float(value)
        self._latest[name, pid] = latest

    def totals(self) -> dict[str, int]:
        """Return the sums over all processes there were, where there was anything to count."""
        sums = {name: int(sum(one[name] for one in self._latest.values())) for name in COUNTED}
        return {name: count for name, count in sums.items() if count}
