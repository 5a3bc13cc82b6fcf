"""Prometheus and Alertmanager beside a local cluster that runs: `python -m deploy.local.watch`, until Ctrl-C.

It draws the dashboards into its folder every minute, and prints each alert as it fires and resolves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from deploy.grafana.dashboards import DASHBOARDS
from deploy.grafana.render import draw
from deploy.local.process import Unavailable
from deploy.local.prometheus import query, start_alertmanager, start_prometheus


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.watch", description="Watch a local cluster."
    )
    parser.add_argument("--dir", type=Path, default=Path("run/cluster"), help="the cluster's folder")
    parser.add_argument(
        "--hurry", action="store_true", help="alerts fire at once, without their waiting times"
    )
    options = parser.parse_args()
    try:
        nodes = json.loads((options.dir / "cluster.json").read_text())["nodes"]
    except OSError:
        print(f"no cluster runs in {options.dir}; start one with `make cluster`", file=sys.stderr)
        return 1
    folder = options.dir / "watch"
    try:
        manager = start_alertmanager(folder / "alertmanager", "http://127.0.0.1:9")
        with (
            manager,
            start_prometheus(
                folder / "prometheus", nodes, alertmanager=manager.address, hurry=options.hurry
            ) as prometheus,
        ):
            print(f"Prometheus   http://{prometheus.address}")
            print(f"Alertmanager http://{manager.address}")
            print(f"dashboards   {folder}/*.svg, every minute; Ctrl-C ends it", flush=True)
            _follow(prometheus.address, folder)
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _follow(address: str, folder: Path) -> None:
    firing: set[str] = set()
    drawn, began = 0.0, time.time()
    while True:
        now = {each["metric"]["alertname"] for each in query(address, 'ALERTS{alertstate="firing"}')}
        for name in sorted(now - firing):
            print(f"{time.strftime('%H:%M:%S')} fires     {name}: docs/runbook.md#{name.lower()}", flush=True)
        for name in sorted(firing - now):
            print(f"{time.strftime('%H:%M:%S')} resolved  {name}", flush=True)
        firing = now
        if time.monotonic() - drawn > 60:
            drawn = time.monotonic()
            for dashboard in DASHBOARDS:
                text = draw(dashboard, address, max(began - 5, time.time() - 1800), time.time())
                (folder / f"{dashboard.name}.svg").write_text(text)
        time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
