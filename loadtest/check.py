"""The benchmark in short: fails when a ratio to the C floor is worse than it was, by more than its noise.

    python -m loadtest.check

Half a minute. The lowest of several turns is taken on both sides: what a busy machine adds, it adds to some.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import aiohttp

from deploy.local.cluster import LocalCluster
from loadtest.floors import Floor
from loadtest.native import Program, cpu_seconds, resident
from loadtest.plane import Plane, Room
from loadtest.target import SETTINGS

SIZE: Final = 1000
TURNS: Final = 6
NOISE: Final = 1.5
"""Times the known ratio that is still taken for noise: two of several runs on a machine with four times the
work it has cores for differ by 1.3."""

KNOWN: Final = {
    "accept, times the floor's": 5.5,
    "fan-out one at a time, times the floor's": 1.2,
    "fan-out 16 at a time, times the floor's": 0.09,
    "KiB an idle connection": 1.35,
}
"""What was measured; lower it when it has become better."""


def accepts(plane: Plane) -> dict[str, float]:
    """Return the ratio of an accept to the floor's, and the memory of a connection."""
    ours: list[float] = []
    floor: list[float] = []
    held: list[Program] = []
    taken = 0.0
    plane.target.settle(5)
    for turn in range(TURNS):
        floor.append(plane.accept_floor())
        crowd = plane.crowd(plane.connections, "-", f"check{turn}-")
        held.append(crowd)
        before, memory = cpu_seconds(plane.access), resident(plane.access)
        if crowd.say(f"open {plane.connections}")["failed"]:
            raise RuntimeError("connections failed")
        crowd.say("wait 1 0.3")
        ours.append((cpu_seconds(plane.access) - before) / plane.connections * 1e6)
        if turn == 0:
            continue  # it stays: what a process takes once, its first crowd pays
        if turn == 1:
            taken = (resident(plane.access) - memory) / plane.connections / 1024
        for one in held:
            one.close()
        held.clear()
        plane.target.settle(5)
    return {"accept, times the floor's": min(ours) / min(floor), "KiB an idle connection": taken}


async def fan_out(plane: Plane) -> dict[str, float]:
    """Return the ratios of a fan-out to the floor's."""
    room, floor = Room(plane, SIZE, 0), Floor(plane.folder, SIZE, "send", plane.source())
    costs: dict[str, list[float]] = {"floor": [], "x1": [], "x16": []}
    async with aiohttp.ClientSession() as http:
        for _ in range(TURNS):
            costs["x1"].append(await room.publish(http, together=1, rounds=15))
            costs["x16"].append(await room.publish(http, together=16, rounds=5))
            costs["floor"].append(floor.send(room.frame, 15))
    room.close()
    floor.close()
    least = {name: min(values) for name, values in costs.items()}
    return {
        "fan-out one at a time, times the floor's": least["x1"] / least["floor"],
        "fan-out 16 at a time, times the floor's": least["x16"] / least["floor"],
    }


def measure(folder: Path) -> dict[str, float]:
    """Measure everything on a cluster of its own."""
    with LocalCluster(folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS) as cluster:
        plane = Plane(folder, cluster, 2000)
        return accepts(plane) | asyncio.run(fan_out(plane))


def worse(measured: dict[str, float]) -> list[str]:
    """Return what has become worse."""
    return [
        f"{name}: {measured[name]:.2f}, was {known:.2f}"
        for name, known in KNOWN.items()
        if measured[name] > known * NOISE
    ]


def main() -> int:
    """Measure and print; 1 where something has become worse."""
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder))
    for name, value in measured.items():
        print(f"{name}: {value:.2f} (known: {KNOWN[name]:.2f})")
    for line in worse(measured):
        print(f"WORSE: {line}")
    return 1 if worse(measured) else 0


if __name__ == "__main__":
    raise SystemExit(main())
