"""The message paths of the design's cost table: what a message costs our services, and how long it takes.

    python -m loadtest.bench [--runs 3] [--seconds 10] [--write]

One process of each service on real servers, which share the machine with the load. CPU is utime + stime;
Redis and Kafka are shown beside ours. Just before each the C floor (`loadtest/floors.py`) has the same load.
`--write` puts the table into `docs/performance.md`.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploy.local.cluster import LocalCluster
from loadtest import centrifugo
from loadtest.floors import Relay
from loadtest.page import heading, parser, publish
from loadtest.paths import Paths
from loadtest.target import SETTINGS, Target

if TYPE_CHECKING:
    import argparse

    from loadtest.centrifugo import Centrifugo

OURS = ("access", "logic", "dispatch")


class Way(NamedTuple):
    """A path under a load. `load`: the generator's command; `bound`: in µs of ours, 0 where there is none."""

    load: str
    connections: int
    title: str
    bound: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in the records."""
        return f"{self.load} of {self.connections}"


TIMED: Final = Way("rate 1000", 200, "client to client, 1,000 messages a second")
"""The way whose time is bound, not its cost."""

WAYS: Final = (
    Way("flight 400", 200, "client to client, 400 messages on their way", 70.0),
    Way("flight 2000", 200, "client to client, 2,000 messages on their way", 40.0),
    Way("rate 5000", 200, "client to client, 5,000 messages a second", 210.0),
    TIMED,
    Way("flight 400", 1000, "client to client, 400 messages on their way"),
    Way("flight 2000", 1000, "client to client, 2,000 messages on their way"),
    Way("publish 5000", 1000, "API publish, 50 in a request, to one user each, 5,000 a second"),
    Way("publish 15000", 1000, "API publish, 50 in a request, to one user each, 15,000 a second"),
    Way("publish 0", 1000, "API publish, 50 in a request, to one user each, 64 requests at a time", 35.0),
)
"""The spike behind the bounds had 200 connections. With 1,000 each message and ack is a write of its own."""

RATE: Final = {"access.rate": 1000}
"""2,000 on their way of 200 connections: each sends more than the 100 frames a second of the default."""

PEER: Final = "peer "
"""Before the names of what is measured of a peer."""

COLUMNS = ("ours", *OURS, "floor", "redis", "kafka", "load", "rate", "p50", "p99")


async def measure(
    folder: Path, target: Target, options: argparse.Namespace, peer: Centrifugo | None = None
) -> dict[str, list[float]]:
    """Measure all ways, `runs` times; each beside the C floor, and a peer where there is one."""
    rows: dict[str, list[float]] = {}

    def note(way: Way, took: dict[str, float], prefix: str = "") -> None:
        print(way.name, prefix, {what: round(value, 1) for what, value in took.items()}, flush=True)
        for what, value in took.items():
            rows.setdefault(f"{way.name}/{prefix}{what}", []).append(value)

    crowds = dict.fromkeys(way.connections for way in WAYS)
    for run, connections in itertools.product(range(options.runs), crowds):
        name = f"bench{run}-{connections}-"
        with ExitStack() as stack:
            paths = stack.enter_context(closing(Paths(folder, target, connections, options.seconds, name)))
            floor = stack.enter_context(closing(Relay(folder / "floor", connections, options.seconds, name)))
            peers = []
            if peer is not None:
                theirs = Paths(folder / "peer", peer.target, connections, options.seconds, name)
                peers.append(stack.enter_context(closing(theirs)))
            for each in (paths, floor, *peers):
                await each.open()
            for way in WAYS:
                if way.connections != connections:
                    continue
                await asyncio.to_thread(target.settle, 10.0)
                took = {"floor": (await floor.measure(way.load))["floor"]} | await paths.measure(way.load)
                note(way, took | {"ours": sum(took[role] for role in OURS)})
                for each in peers:
                    note(way, await each.measure(way.load), PEER)
    return rows


def beside(rows: dict[str, list[float]], peer: str, command: str) -> str:
    """Return the table of ours beside a peer's: a path a line."""
    columns = (
        f"| Path | Connections | Ours | {peer} | our Redis, Kafka | its Redis | our p50, p99 | its p50, p99 "
        "| ours a second | its |"
    )
    what = f"`{command}`: medians. µs of CPU for a message; p50 and p99 in ms.\n"
    lines = [what, columns, "|---" * 10 + "|"]

    def of(way: Way, form: str, *names: str) -> str:
        return ", ".join(f"{statistics.median(rows[f'{way.name}/{name}']):{form}}" for name in names)

    lines += [
        f"| {way.title} | {way.connections:,} "
        f"| {of(way, '.0f', 'ours')} | {of(way, '.0f', PEER + 'centrifugo')} "
        f"| {of(way, '.0f', 'redis', 'kafka')} | {of(way, '.0f', PEER + 'redis')} "
        f"| {of(way, '.1f', 'p50', 'p99')} | {of(way, '.1f', PEER + 'p50', PEER + 'p99')} "
        f"| {of(way, ',.0f', 'rate')} | {of(way, ',.0f', PEER + 'rate')} |"
        for way in WAYS
    ]
    return "\n".join(lines)


def table(rows: dict[str, list[float]], command: str, runs: int) -> str:
    """Return the table: a path a line."""
    columns = (
        "| Path | Connections | µs, ours | Bound | C floor | ratio | access, logic, dispatch | Redis | Kafka "
        "| Load | a second | p50, p99 |"
    )
    lines = [heading(command, runs), columns, "|---" * 12 + "|"]
    for way in WAYS:
        values = {what: rows[f"{way.name}/{what}"] for what in COLUMNS}
        median = {what: statistics.median(each) for what, each in values.items()}
        ours = values["ours"]
        ratio = statistics.median(mine / floor for mine, floor in zip(ours, values["floor"], strict=True))
        verdict, reached = f"≤ {way.bound:g}", median["ours"] <= way.bound
        if way is TIMED:
            verdict, reached = "p50 ≤ 8, p99 ≤ 30 ms", median["p50"] <= 8 and median["p99"] <= 30
        bounded = way.bound or way is TIMED
        lines.append(
            f"| {way.title} | {way.connections:,} "
            f"| {median['ours']:.0f} ({min(ours):.0f} to {max(ours):.0f}) "
            f"| {f'{verdict}: ' + ('reached' if reached else '**not reached**') if bounded else ''} "
            f"| {median['floor']:.1f} | {ratio:.1f} | {', '.join(f'{median[role]:.0f}' for role in OURS)} "
            f"| {median['redis']:.0f} | {median['kafka']:.0f} | {median['load']:.0f} "
            f"| {median['rate']:,.0f} | {median['p50']:.1f}, {median['p99']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the page if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default 10)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            LocalCluster(
                folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS | RATE
            ) as cluster,
            centrifugo.started(folder / "centrifugo") as peer,
        ):
            rows = asyncio.run(measure(folder, Target.of_cluster(cluster.dir), options, peer))
    command = f"make bench RUNS={options.runs}"
    publish("paths", table(rows, command, options.runs), write=options.write)
    if peer is not None:
        publish("paths-peer", beside(rows, peer.name, command), write=options.write)


if __name__ == "__main__":
    main()
