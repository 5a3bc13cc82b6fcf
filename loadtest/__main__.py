"""Put a cluster under load.

    python -m loadtest list
    python -m loadtest run chat --cluster              starts real servers and services for it
    python -m loadtest run chat --target run/cluster   the cluster that `make cluster` runs
    python -m loadtest run chat --target ws://HOST:8000/ws --api http://HOST:8080 --key K --secret S

Tokens are signed here, with the cluster's first secret. Results go to `run/loadtest`, or where `--out` says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.cluster import LocalCluster
from deploy.local.description import NoCluster
from deploy.local.process import Unavailable
from loadtest import report, scenario
from loadtest.native import MissingTool
from loadtest.run import Run
from loadtest.target import SETTINGS, Target

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def _cluster(options: argparse.Namespace, folder: Path) -> Iterator[LocalCluster | None]:
    if not options.cluster:
        yield None
        return
    counts = {role: getattr(options, role) for role in ("access", "logic", "dispatch")}
    with LocalCluster(folder / "cluster", **counts, settings=SETTINGS) as cluster:
        yield cluster


def _target(options: argparse.Namespace, cluster: LocalCluster | None) -> Target:
    if cluster is not None:
        return Target.of_cluster(cluster.dir)
    if options.target and options.target.startswith("ws"):
        if not (options.secret and options.key and options.api):
            raise ValueError("an address needs --api, --key and --secret")
        return Target(options.target.split(","), options.api.split(","), options.key, options.secret)
    try:
        return Target.of_cluster(Path(options.target or "run/cluster"))
    except NoCluster as error:
        raise ValueError(f"{error}, and --cluster one for this run") from None


def _say(text: str) -> None:
    if text.startswith("\r"):
        if sys.stderr.isatty():
            print(text.ljust(70), end="", file=sys.stderr, flush=True)
        return
    print(text.ljust(70) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def _run(options: argparse.Namespace) -> int:
    wanted = scenario.load(options.scenario, options.scale, options.rounds)
    name = Path(options.scenario).stem
    with tempfile.TemporaryDirectory() as folder, _cluster(options, Path(folder)) as cluster:
        run = Run(name, wanted, _target(options, cluster), Path(folder), say=_say, cluster=cluster)
        result = asyncio.run(run.run())
    print(report.table(result))
    out = Path(options.out) / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for path in report.write(result, out):
        print(path)
    return 1 if result.problems else 0


def _list(_: argparse.Namespace) -> int:
    for name in scenario.names():
        one = scenario.load(name)
        print(f"{name:10} {one.title}. {one.about}")
    return 0


def main() -> int:
    """Run the command line; 1: something was lost, doubled, out of order or refused."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="the scenarios").set_defaults(run=_list)
    run = commands.add_parser("run", help="run one")
    run.add_argument("scenario", help="its name, or a TOML file")
    run.add_argument("--target", help="a running local cluster's folder, or WebSocket addresses")
    run.add_argument("--cluster", action="store_true", help="start a cluster for it")
    for role in ("access", "logic", "dispatch"):
        run.add_argument(f"--{role}", type=int, default=2, metavar="N", help="its processes (default: 2)")
    run.add_argument("--api", help="HTTP API addresses, where --target is an address")
    run.add_argument("--key", help="API key")
    run.add_argument("--secret", help="the secret that signs tokens")
    run.add_argument("--scale", type=float, default=1.0, help="so many times the users and rates")
    run.add_argument("--rounds", type=int, default=0, help="so often the steps after the first")
    run.add_argument("--out", default="run/loadtest", help="folder of results")
    run.set_defaults(run=_run)
    options = parser.parse_args()
    try:
        return int(options.run(options))
    except (ValueError, MissingTool, Unavailable) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
