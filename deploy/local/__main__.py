"""The local cluster's command line.

python -m deploy.local start [--detach]     what `make cluster` runs
python -m deploy.local mend                 what `make cluster-mend` runs
python -m deploy.local stop                 what `make cluster-stop` runs
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from deploy.local import description
from deploy.local.cluster import STOP_SECONDS, LocalCluster
from deploy.local.process import Unavailable
from deploy.local.service import runs

DEMO: Final = "services.embedded.demo:app"


def _start(options: argparse.Namespace) -> int:
    directory: Path = options.dir
    if description.path(directory).exists():
        print(f"{directory} has a cluster already; stop it with `make cluster-stop`", file=sys.stderr)
        return 1
    cluster = LocalCluster(
        directory,
        access=options.access,
        logic=options.logic,
        dispatch=options.dispatch,
        brokers=options.brokers,
        balancer=options.balancer,
        app=options.app,
        guarded=not options.detach,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())
    print("starting Kafka, Redis, Consul and the services …", flush=True)
    try:
        cluster.start()
    except (Unavailable, KeyboardInterrupt) as error:
        print(error, file=sys.stderr)
        return 1
    _show(cluster)
    if options.detach:
        print("it goes on by itself; stop it with `make cluster-stop`")
        return 0
    print("Ctrl-C stops it", flush=True)
    try:
        _watch(cluster, asked)
    except KeyboardInterrupt:
        print("stopping …", flush=True)
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        cluster.stop()
    return 0


def _watch(cluster: LocalCluster, asked: threading.Event) -> None:
    gone: set[str] = set()
    while True:
        if asked.wait(1.0):
            asked.clear()
            try:
                print(f"started again: {', '.join(cluster.mend()) or 'nothing, all of it runs'}", flush=True)
            except Unavailable as error:
                print(error, flush=True)
            gone.clear()
        for process in cluster.processes:
            if not process.alive and process.name not in gone:
                gone.add(process.name)
                print(f"{process.name} has ended; see {process.log}", flush=True)


def _show(cluster: LocalCluster) -> None:
    about = cluster.describe()
    for name, server in about["servers"].items():
        print(f"  {name:12} {server['address']:32} {server['log']}")
    for node in about["nodes"]:
        where = node.get("websocket") or node.get("api") or node.get("metrics")
        print(f"  {node['node']:12} {where:32} {node['log']}")
    if before := about.get("balancer"):
        print(f"  {before['name']:12} {before['websocket']:32} {before['log']}")
    print(f"addresses, process ids and keys: {description.path(cluster.dir)}", flush=True)


def _stop(options: argparse.Namespace) -> int:
    try:
        about = description.read(options.dir)
    except description.NoCluster as error:
        print(error)
        return 0
    if runs(about["supervisor"], about["supervisor_started"]):
        _end([(about["supervisor"], about["supervisor_started"])], wait=2 * STOP_SECONDS)
    before = [about["balancer"]] if "balancer" in about else []
    for group in (about["nodes"], before, list(about["servers"].values())):
        _end([(each["pid"], each["started"]) for each in group], wait=STOP_SECONDS)
    description.remove(options.dir)
    print("stopped")
    return 0


def _mend(options: argparse.Namespace) -> int:
    try:
        about = description.read(options.dir)
    except description.NoCluster as error:
        print(error, file=sys.stderr)
        return 1
    if not runs(about["supervisor"], about["supervisor_started"]):
        print("nobody is there to start it: only a cluster that was not detached is mended", file=sys.stderr)
        return 1
    os.kill(about["supervisor"], signal.SIGUSR1)
    print("asked; the shell of the cluster says what was started")
    return 0


def _end(processes: list[tuple[int, str]], wait: float) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + wait
        for pid, start in processes:
            if runs(pid, start):
                os.kill(pid, sign)
        while any(runs(*process) for process in processes) and time.monotonic() < until:
            time.sleep(0.05)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="A local cluster.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start it, and run until Ctrl-C")
    start.add_argument("--detach", action="store_true", help="leave it running and return")
    start.add_argument("--app", default=DEMO, help="handlers, as module:name (default: the demo's)")
    for role in ("access", "logic", "dispatch"):
        start.add_argument(f"--{role}", type=int, default=2, metavar="N", help="processes (default: 2)")
    start.add_argument("--balancer", action="store_true", help="HAProxy before access, for all clients")
    start.add_argument("--brokers", type=int, default=1, metavar="N", help="of Kafka (default: 1)")
    mend = commands.add_parser("mend", help="start again what has ended")
    stop = commands.add_parser("stop", help="stop the one that runs")
    for command, run in ((start, _start), (mend, _mend), (stop, _stop)):
        command.add_argument(
            "--dir", type=Path, default="run/cluster", help="its folder (default: run/cluster)"
        )
        command.set_defaults(run=run)
    options = parser.parse_args()
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
