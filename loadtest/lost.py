"""The two rows of the cost table that are counts: what is lost with Redis, and how often dispatch asks it.

    python -m loadtest.lost [--runs 3] [--rate 1000] [--write]

200 connections write to each other at a rate. The calls of Redis that dispatch makes are set beside the
batches that it fetched. Then Redis is killed, and two seconds later started empty, while the sends go on:
everything that was acknowledged must come to who is connected, once and in order. On a local cluster;
`--write` puts the table into `docs/performance.md`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from deploy.local.cluster import LocalCluster
from loadtest.page import heading, parser, publish
from loadtest.paths import BYTES, Paths
from loadtest.target import SETTINGS, Target

CONNECTIONS: Final = 200
AWAY_SECONDS: Final = 2.0

LONGEST: Final = 60.0
"""Seconds after the last send within which all must have come."""

STEP: Final = 0.2

TOLERANCE: Final = {"calls": 0.02}
"""A batch may be fetched on one side of a reading and applied on the other."""

CALLS: Final = "holdfast_log_call_seconds_count"
BATCHES: Final = "holdfast_dispatch_batch_count"

ROWS: Final = {
    "calls": ("Redis calls of dispatch for a batch that it fetched of a partition", "1"),
    "others": ("its other calls, a second (signs of life, claims, idle partitions)", ""),
    "acked": ("acknowledged while Redis was killed, away for 2 s and empty again", ""),
    "refused": ("refused meanwhile", ""),
    "lost": ("acknowledged and lost", "0"),
    "wrong": ("doubled or out of order", "0"),
    "seconds": ("until all had come, s after the last send", ""),
}
"""Titles and bounds."""


async def measure(
    cluster: LocalCluster, folder: Path, run: str, *, rate: float, seconds: float
) -> dict[str, float]:
    """Return a value for each row. `seconds`: of sending, before and again after Redis is back."""
    with closing(Paths(folder, Target.of_cluster(cluster.dir), CONNECTIONS, seconds, run)) as paths:
        await paths.open()
        generators = paths.generators
        await generators.each(f"load {rate} {BYTES}")
        await generators.count("run 1")  # until it flows
        before = await asyncio.to_thread(counters, cluster)
        await generators.count(f"run {seconds}")
        after = await asyncio.to_thread(counters, cluster)
        await generators.each("load 0 0")
        await paths.rest()
        await generators.each("reset")
        await generators.each(f"load {rate} {BYTES}")
        cluster.redis.kill()
        await generators.count(f"run {AWAY_SECONDS}")
        await asyncio.to_thread(cluster.redis.restart)
        await generators.count(f"run {seconds}")
        await generators.each("load 0 0")
        counts, waited = await generators.count(), 0.0
        while counts["messages"] - counts["doubles"] < counts["acked"] and waited < LONGEST:
            counts, waited = await generators.count(f"run {STEP}"), waited + STEP
    spent = {name: after[name] - before[name] for name in after}
    return {
        "calls": spent["apply"] / spent["batches"],
        "others": (spent["calls"] - spent["apply"]) / seconds,
        "acked": counts["acked"],
        "refused": counts["errors"],
        "lost": counts["acked"] - (counts["messages"] - counts["doubles"]),
        "wrong": counts["doubles"] + counts["gaps"],
        "seconds": waited,
    }


def counters(cluster: LocalCluster) -> dict[str, float]:
    """Return what dispatch has counted: its calls of the log, those that applied a batch, and the batches."""
    metrics = cluster.nodes["dispatch-0"].describe()["metrics"]
    with urllib.request.urlopen(metrics, timeout=10) as answer:  # noqa: S310 - of a process started here
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    calls = [sample for sample in samples if sample.name == CALLS]
    return {
        "calls": sum(sample.value for sample in calls),
        "apply": sum(sample.value for sample in calls if sample.labels["call"] == "apply"),
        "batches": sum(sample.value for sample in samples if sample.name == BATCHES),
    }


def table(rows: dict[str, list[float]], command: str, runs: int) -> str:
    """Return the table: a count a line."""
    lines = [heading(command, runs), "| What | Median | Spread | Bound |", "|---|---|---|---|"]
    for name, (title, bound) in ROWS.items():
        values = rows[name]
        shown = (statistics.median(values), min(values), max(values))
        median, low, high = (f"{round(value, 2):,.10g}" for value in shown)
        reached = bool(bound) and max(values) <= float(bound) + TOLERANCE.get(name, 0.0)
        verdict = f"{bound}: {'reached' if reached else '**not reached**'}" if bound else ""
        lines.append(f"| {title} | {median} | {low} to {high} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the page if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--rate", type=float, default=1000.0, help="messages a second (default 1000)")
    arguments.add_argument("--seconds", type=float, default=5.0, help="of sending, each time (default 5)")
    options = arguments.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with LocalCluster(folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS) as cluster:
            for run in range(options.runs):
                took = asyncio.run(
                    measure(cluster, folder, f"lost{run}", rate=options.rate, seconds=options.seconds)
                )
                print({what: round(value, 2) for what, value in took.items()}, flush=True)
                for what, value in took.items():
                    rows.setdefault(what, []).append(value)
    command = f"python -m loadtest.lost --runs {options.runs}"
    publish("lost", table(rows, command, options.runs), write=options.write)


if __name__ == "__main__":
    main()
