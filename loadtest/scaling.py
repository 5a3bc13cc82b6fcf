"""How the cost of a connection and of a message goes on as the work grows.

    python -m loadtest.scaling [room] [channels] [connections] [partitions] [nodes] [beats] [--runs 1]

Real servers on this machine, which the load shares. The record and the plots go to `run/scaling`; `--write`
puts the record and the SVGs into `docs/pictures` and the tables into `docs/capacity.md`. Sweeps and points
that are not named keep what was recorded. Small points come first, and each is recorded when it is there, so
that a run may be ended at any time. `make scaling` lets other work go first (nice).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import msgspec
import uvloop

from deploy.local.process import Unavailable
from loadtest import straight
from loadtest.native import MissingTool
from loadtest.page import publish
from loadtest.sweeps import SWEEPS, Broken
from loadtest.target import machine

ROOT = Path(__file__).parents[1]
RUN = ROOT / "run" / "scaling"
PICTURES = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "capacity.md"
RECORD = "scaling.json"


async def measure(name: str, points: list[int], runs: int, record: straight.Record, out: Path) -> None:
    """Take a sweep `runs` times, and put the medians into the record, point by point."""
    work, _ = SWEEPS[name]
    taken: dict[int, list[dict[str, float]]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            points_of_run = work(points, Path(folder))
            try:
                async for x, costs in points_of_run:
                    costs["load"] = os.getloadavg()[0]
                    taken.setdefault(x, []).append(costs)
                    print(name, x, {what: round(value, 2) for what, value in costs.items()}, flush=True)
                    medians = {what: statistics.median(one[what] for one in taken[x]) for what in costs}
                    known = record.sweeps[name].points if name in record.sweeps else {}
                    medians["runs"] = len(taken[x])
                    record.sweeps[name] = straight.Sweep(machine(), known | {x: medians})
                    write(record, out)
            except Broken as error:
                print(f"{name}: the next point is left out: {error}", flush=True)
            finally:
                await points_of_run.aclose()  # type: ignore[attr-defined]


def write(record: straight.Record, out: Path) -> None:
    """Write the record into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def main() -> int:
    """Measure, and write the record, the plots and the page if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"of {', '.join(SWEEPS)} (default: all)")
    parser.add_argument("--runs", type=int, default=1, help="runs of every point (default 1)")
    parser.add_argument("--points", type=int, nargs="+", help="other points of the one sweep that is named")
    parser.add_argument("--draw", action="store_true", help="measure nothing: draw what is recorded")
    parser.add_argument("--write", action="store_true", help="write docs/pictures and docs/capacity.md")
    options = parser.parse_args()
    if unknown := [name for name in options.sweeps if name not in SWEEPS]:
        parser.error(f"there is no sweep {unknown[0]!r}; there are {', '.join(SWEEPS)}")
    if options.points and len(options.sweeps) != 1:
        parser.error("--points are those of one sweep")
    if options.runs < 1 or any(point < 1 for point in options.points or ()):
        parser.error("--runs and --points are at least 1")
    out = PICTURES if options.write else RUN
    record = straight.read(RUN / RECORD) if (RUN / RECORD).exists() else straight.read(PICTURES / RECORD)
    try:
        for name in () if options.draw else options.sweeps or SWEEPS:
            points = sorted(options.points or SWEEPS[name][1])
            uvloop.run(measure(name, points, options.runs, record, RUN))
    except (MissingTool, Unavailable) as error:
        print(error)
        return 2
    write(record, out)
    publish("scaling", straight.tables(record), write=options.write, page=PAGE)
    for path in straight.draw(record, out):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
