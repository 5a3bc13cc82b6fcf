"""What following messages costs: CPU of our services for a message, with tracing off, sampled and for each.

    python -m loadtest.tracing [--rounds 5] [--seconds 4] [--before CHECKOUT]

One process of each service, restarted with each setting in turn, round by round in one run, so that what else
the machine does it does to all of them. `--before` names a checkout of an earlier version to compare with.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from deploy.local.cluster import LocalCluster
from deploy.local.service import ROOT
from loadtest.bench import OURS
from loadtest.page import heading
from loadtest.paths import Paths
from loadtest.target import SETTINGS, Target

PATH: Final = "flight 400"
TITLES: Final = {
    "before": "a version without tracing",
    "off": "off, the default",
    "0": "on, and nothing is followed",
    "0.01": "one message in a hundred is followed",
    "1": "every message is followed",
}


class _Sink(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        """Answer that all is well."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def use(cluster: LocalCluster, variant: str, before: Path, endpoint: str) -> Target:
    """Start the services anew with a setting."""
    file = cluster.dir / "holdfast.toml"
    text = file.read_text().partition("[tracing]")[0]
    if variant not in ("before", "off"):
        text += f'[tracing]\nenabled = true\nratio = {variant}\nendpoint = "{endpoint}"\n'
    file.write_text(text)
    for node in cluster.nodes.values():
        node.stop()
        node.run_from(before if variant == "before" else ROOT)
    for node in cluster.nodes.values():
        node.start()
    for node in cluster.nodes.values():
        node.wait_ready()
    cluster.write()
    return Target.of_cluster(cluster.dir)


async def measure(folder: Path, cluster: LocalCluster, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return µs of our services for a message, by setting."""
    variants = [name for name in TITLES if name != "before" or options.before]
    rows: dict[str, list[float]] = {name: [] for name in variants}
    sink = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{sink.server_port}/v1/traces"
    for number in range(options.rounds):
        # Each one comes first and last in turn.
        for variant in variants[number % len(variants) :] + variants[: number % len(variants)]:
            target = await asyncio.to_thread(use, cluster, variant, options.before, endpoint)
            paths = Paths(folder, target, options.users, options.seconds, f"{variant}-{number}")
            try:
                await paths.open()
                took = await paths.measure(PATH)
            finally:
                paths.close()
            rows[variant].append(sum(took[role] for role in OURS))
            print(number, variant, {role: round(took[role], 1) for role in OURS}, flush=True)
    sink.shutdown()
    return rows


def table(rows: dict[str, list[float]], command: str, rounds: int) -> str:
    """Return the table: a setting a line. The difference is the median of the rounds' own differences."""
    lines = [
        heading(command, rounds),
        "| Tracing | µs, ours | Lowest, highest | against off |",
        "|---|---|---|---|",
    ]
    for name, values in rows.items():
        change = [(mine - off) / off * 100 for mine, off in zip(values, rows["off"], strict=True)]
        shown = "" if name == "off" else f"{statistics.median(change):+.0f} %"
        lines.append(
            f"| {TITLES[name]} | {statistics.median(values):.0f} "
            f"| {min(values):.0f}, {max(values):.0f} | {shown} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=500, help="connections (default 500)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="of all settings (default 5)")
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with LocalCluster(folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS) as cluster:
            rows = asyncio.run(measure(folder, cluster, options))
    print(table(rows, "python -m loadtest.tracing", options.rounds))


if __name__ == "__main__":
    main()
