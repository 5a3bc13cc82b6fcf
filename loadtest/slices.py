"""The longest slices of work on the loop of an access process: while a crowd comes, is written to, and goes.

    python -m loadtest.slices [--connections 10000] [--runs 3] [--write]

A slice is the CPU that the loop's thread spends in one turn of the loop, the kernel's part of it included; on
a busy machine its time by the clock is longer. The process measured runs with a callback in each of its turns
(`python -m loadtest.slices serve`, in the place of `services.access`), so it is never idle.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from deploy.local.cluster import LocalCluster
from loadtest.page import parser, publish, table
from loadtest.plane import Plane, Room
from loadtest.target import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WHERE = "LOADTEST_SLICES"
"""Names the file that the process measured writes to when it is sent SIGUSR2."""

BOUND = 10.0

ROWS = {
    "connect": "all connect, 256 on their way at a time, and subscribe to a room",
    "one": "messages to the room, one at a time",
    "many": "messages to the room, 16 at a time",
    "idle": "idle, 5 s",
    "leave": "all hang up at once",
    "cut": "all are reset at once",
}


def serve() -> None:
    """Be an access process whose turns are timed."""
    import uvloop  # noqa: PLC0415

    from holdfast.process import main as run  # noqa: PLC0415
    from services.access.service import build  # noqa: PLC0415

    make = uvloop.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loop = make()
        last, longest = time.thread_time(), 0.0

        def turn() -> None:
            nonlocal last, longest
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now
            loop.call_soon(turn)

        def tell(*_: object) -> None:
            nonlocal longest
            place = Path(os.environ[WHERE])
            place.with_suffix(".new").write_text(json.dumps(longest * 1e3), encoding="utf-8")
            place.with_suffix(".new").replace(place)
            longest = 0.0

        signal.signal(signal.SIGUSR2, tell)
        loop.call_soon(turn)
        return loop

    uvloop.new_event_loop = new_event_loop  # type: ignore[assignment]
    sys.argv = sys.argv[:1]
    run("access", build)


class Longest:
    """Asks the process measured for its longest slice."""

    def __init__(self, plane: Plane, place: Path) -> None:
        self._plane = plane
        self._place = place

    def ask(self) -> float:
        """Return the longest slice since the last call, in ms."""
        self._place.unlink(missing_ok=True)
        os.kill(self._plane.access, signal.SIGUSR2)
        end = time.monotonic() + 10
        while not self._place.exists():
            if time.monotonic() > end:
                raise RuntimeError("the access process does not tell of its slices")
            time.sleep(0.01)
        return float(json.loads(self._place.read_text(encoding="utf-8")))

    def of(self, work: Callable[[], object], rest: float = 2.0) -> float:
        """Return the longest slice during some work and `rest` seconds more, in ms."""
        self.ask()
        work()
        time.sleep(rest)
        return self.ask()

    async def during(self, work: Awaitable[object]) -> float:
        """Return the longest slice during some work, in ms."""
        await asyncio.to_thread(self.ask)
        await work
        return await asyncio.to_thread(self.ask)


async def once(plane: Plane, longest: Longest, size: int, run: int) -> dict[str, float]:
    """Return the longest slice of each kind of work, in ms."""
    rooms: list[Room] = []
    found = {"connect": await asyncio.to_thread(longest.of, lambda: rooms.append(Room(plane, size, 2 * run)))}
    (room,) = rooms
    async with aiohttp.ClientSession() as http:
        found["one"] = await longest.during(room.publish(http, together=1, rounds=8))
        found["many"] = await longest.during(room.publish(http, together=16, rounds=3))
    found["idle"] = await asyncio.to_thread(longest.of, lambda: None, 5.0)
    found["leave"] = await asyncio.to_thread(longest.of, room.leave, 5.0)
    room.close()
    other = await asyncio.to_thread(Room, plane, size, 2 * run + 1)
    found["cut"] = await asyncio.to_thread(longest.of, other.close, 5.0)
    return found


def main() -> None:
    """Measure, print, and write the page if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--connections", type=int, default=10_000, help="of the room (default 10000)")
    options = arguments.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = LocalCluster(folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS)
        place = folder / "longest.json"
        cluster.nodes["access-0"].run_as(
            [sys.executable, "-m", "loadtest.slices", "serve"], {WHERE: str(place)}
        )
        with cluster:
            plane = Plane(folder, cluster, options.connections)
            for run in range(options.runs):
                plane.fresh()
                found = asyncio.run(once(plane, Longest(plane, place), options.connections, run))
                print({kind: round(value, 1) for kind, value in found.items()}, flush=True)
                for kind, value in found.items():
                    rows.setdefault(kind, []).append(value)
    words = {kind: (f"{words}, ms", BOUND) for kind, words in ROWS.items()}
    command = f"python -m loadtest.slices --runs {options.runs}"
    publish("slices", table(rows, words, command, options.runs), write=options.write)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main()
