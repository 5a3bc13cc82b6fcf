"""The connection plane: memory, accept and fan-out of one access process, beside the C floor in the same run.

    python -m loadtest.plane [--connections 10000] [--runs 3] [--write]

Starts a local cluster of real servers with one process of each service. CPU is utime + stime of the access
process alone, but where a column says otherwise; medians of several runs. `--write` puts the table into
`docs/performance.md`. Loopback only; takes a few minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from deploy.local.cluster import LocalCluster
from holdfast.auth import Issuer
from holdfast.settings import load
from loadtest.native import Program, cpu_seconds, resident

if TYPE_CHECKING:
    from collections.abc import Iterator

PAYLOAD = "x" * 128
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARK = ("<!-- plane: begin -->", "<!-- plane: end -->")


class Bench:
    """One local cluster, and what is measured of it."""

    def __init__(self, folder: Path, cluster: LocalCluster, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.cluster = cluster
        info = json.loads((cluster.dir / "cluster.json").read_text())
        self.access = next(node for node in info["nodes"] if node["role"] == "access")
        self.pids = {node["role"]: node["pid"] for node in info["nodes"]}
        self.pids |= {name: server["pid"] for name, server in info["servers"].items()}
        self.api = info["api"]
        self.key = info["api_key"]
        self.secret = info["auth_secret"]
        self._source = 0

    def tokens(self, count: int, prefix: str) -> Path:
        """Write a file of tokens, one user each."""
        issuer = Issuer(load(environ={"HOLDFAST_AUTH_SECRETS": self.secret}).auth)
        path = self.folder / f"tokens-{prefix}"
        path.write_text("".join(issuer.issue(f"{prefix}{number}")[0] + "\n" for number in range(count)))
        return path

    def crowd(self, count: int, channel: str, prefix: str) -> Program:
        """Start a crowd, unconnected, leaving from addresses of its own."""
        self._source += 1
        return Program("crowd", self.access["websocket"], self.tokens(count, prefix), channel, self._source)

    def accept(self, run: int) -> dict[str, float]:
        """Open idle connections; return CPU of each process in µs and memory in KiB for each of them."""
        count = self.options.connections
        crowd = self.crowd(count, "-", f"idle{run}-")
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        memory = resident(self.access["pid"])
        opened = crowd.say(f"open {count}")
        crowd.say("wait 1 2")  # let session events and heartbeats settle
        after = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        result = {f"µs {name}": (after[name] - before[name]) / count * 1e6 for name in before}
        result["KiB"] = (resident(self.access["pid"]) - memory) / count / 1024
        result["per second"] = count / opened["seconds"]
        result["failed"] = opened["failed"]
        crowd.close()
        return result

    async def fan_out(self, size: int, together: int, run: int) -> dict[str, float]:
        """Publish to a room; return CPU-s of access for a million deliveries, and the floor's."""
        channel = f"room:fan{size}-{together}-{run}"
        crowd = self.crowd(size, channel, f"fan{size}-{together}-{run}-")
        crowd.say(f"open {size}")
        deliveries = 300_000 if together > 1 else 150_000
        rounds = max(10, deliveries // size // together)
        await self._publish(crowd, channel, size, together, 3)
        crowd.say("reset")
        before = cpu_seconds(self.access["pid"])
        await self._publish(crowd, channel, size, together, rounds)
        spent = cpu_seconds(self.access["pid"]) - before
        counted = crowd.say("count")
        crowd.close()
        expected = size * rounds * together
        if counted["messages"] != expected or counted["gaps"]:
            raise RuntimeError(f"{expected} deliveries expected, counted {counted}")
        return {"ours": spent / expected * 1e6}

    async def _publish(self, crowd: Program, channel: str, size: int, together: int, rounds: int) -> None:
        seen = 0
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.key}"}) as session:
            for _ in range(rounds):
                body = {"messages": [{"channel": channel, "type": "text", "data": PAYLOAD}] * together}
                async with session.post(f"{self.api}/v1/publish", json=body) as answer:
                    answer.raise_for_status()
                seen += size * together
                done = await asyncio.to_thread(crowd.say, f"wait {seen} 20")
                if done["wait"] < seen:
                    raise RuntimeError(f"only {done['wait']:.0f} of {seen} deliveries came in 20 s")
            crowd.say("reset")
        crowd.say("count")

    def floor(self, size: int, run: int) -> dict[str, float]:
        """Return CPU-s of the C loops for a million sends of a frame as long as ours."""
        result = {}
        port = 18_500 + run
        for mode in ("send", "uring"):
            floor = Program("floor", port, mode)
            self._source += 1
            (self.folder / "none").write_text("none\n" * size)
            crowd = Program("crowd", port, self.folder / "none", "room:x", self._source)
            crowd.say(f"open {size}")
            rounds = max(10, 150_000 // size)
            for number, count in ((0, 3), (1, rounds)):
                crowd.say("reset")
                before = cpu_seconds(floor.pid)
                for done in range(count):
                    floor.say(f"fan {FRAME} 1")
                    crowd.say(f"wait {(done + 1) * size} 20")
                if number:
                    result[mode] = (cpu_seconds(floor.pid) - before) / (rounds * size) * 1e6
            crowd.close()
            floor.close()
        return result


FRAME = 285
"""Bytes of our JSON frame for PAYLOAD in a room: the floor sends as many (measured on the wire)."""


async def measure(bench: Bench) -> dict[str, list[float]]:
    """Take every measurement `runs` times; return the rows of the table with all their values."""
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)
        print(f"{name}: {value:.2f}", flush=True)  # noqa: T201

    for run in range(bench.options.runs):
        for name, value in bench.accept(run).items():
            note(f"accept {name}", value)
        for size in (1000, 10_000):
            floor = bench.floor(size, run)
            for mode, value in floor.items():
                note(f"floor {mode} {size}", value)
            for together in (1, 16):
                ours = (await bench.fan_out(size, together, run))["ours"]
                note(f"fan-out {size} x{together}", ours)
                note(f"ratio {size} x{together}", ours / floor["send"])
    return rows


BOUNDS = {
    "accept KiB": ("memory per idle connection, KiB", 2.5),
    "accept µs access": ("accept to `connected`, µs of access", 90.0),
    "ratio 1000 x1": ("fan-out to 1,000, one at a time, ratio to the C loop", 1.4),
    "ratio 10000 x1": ("fan-out to 10,000, one at a time, ratio to the C loop", 1.25),
    "ratio 1000 x16": ("fan-out to 1,000, 16 at a time, ratio to the C loop", 1.0),
    "ratio 10000 x16": ("fan-out to 10,000, 16 at a time, ratio to the C loop", 1.0),
}


def table(rows: dict[str, list[float]], options: argparse.Namespace) -> str:
    """Return the page's table."""
    lines = [
        MARK[0],
        f"`{command(options)}` on {machine()}; medians of {options.runs} runs, lowest and highest behind.\n",
        "| What | Median | Spread | Bound |",
        "|---|---|---|---|",
    ]
    for name, values in rows.items():
        title, bound = BOUNDS.get(name, (name, None))
        median = statistics.median(values)
        verdict = (
            "" if bound is None else f"≤ {bound:g}: {'reached' if median <= bound else '**not reached**'}"
        )
        lines.append(f"| {title} | {median:.2f} | {min(values):.2f} to {max(values):.2f} | {verdict} |")
    return "\n".join([*lines, MARK[1]])


def command(options: argparse.Namespace) -> str:
    """Return the command that repeats the measurement."""
    return f"python -m loadtest.plane --connections {options.connections} --runs {options.runs}"


def machine() -> str:
    """Describe where this runs."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    cores = sum(line.startswith("processor") for line in _cpuinfo())
    return f"{cores} cores ({model}), Linux {platform.release()}, CPython {platform.python_version()}"


def _cpuinfo() -> Iterator[str]:
    yield from Path("/proc/cpuinfo").read_text().splitlines()


def main() -> None:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=10_000, help="idle connections (default 10000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of everything (default 3)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = LocalCluster(Path(folder) / "cluster", access=1, logic=1, dispatch=1)
        cluster.start()
        try:
            rows = asyncio.run(measure(Bench(Path(folder), cluster, options)))
        finally:
            cluster.stop()
    text = table(rows, options)
    print(text)  # noqa: T201
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        head, _, rest = page.partition(MARK[0])
        PAGE.write_text(head + text + rest.partition(MARK[1])[2], encoding="utf-8")


if __name__ == "__main__":
    main()
