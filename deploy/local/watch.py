"""Prometheus and Alertmanager beside a local cluster that runs: `python -m deploy.local.watch`, until Ctrl-C.

It prints what whoever is on call would be told, and draws the dashboards into its folder: every minute, and
a few seconds after each alert.
"""

from __future__ import annotations

import argparse
import queue
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deploy.grafana.dashboards import DASHBOARDS
from deploy.grafana.render import draw
from deploy.local import description
from deploy.local.process import Unavailable
from deploy.local.prometheus import start_alertmanager, start_prometheus
from deploy.local.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local.receiver import Notice

EVERY: Final = 60.0
"""Seconds between two drawings."""

SOON: Final = 3.0
"""Seconds from an alert to the next drawing, in which it is seen."""

SHOWN: Final = 1800.0
"""Seconds that a drawing looks back."""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.watch", description="Watch a local cluster."
    )
    parser.add_argument("--dir", type=Path, default=Path("run/cluster"), help="the cluster's folder")
    parser.add_argument("--hurry", action="store_true", help="alerts wait for seconds instead of minutes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        watch(description.read(options.dir), options.dir / "watch", hurry=options.hurry)
    except (description.NoCluster, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def watch(about: Mapping[str, Any], folder: Path, *, hurry: bool = False) -> None:
    """Watch the cluster that `about` describes, as cluster.json does, until KeyboardInterrupt.

    Raises Unavailable.
    """
    before = about.get("balancer")
    with (
        Receiver() as receiver,
        start_alertmanager(folder / "alertmanager", receiver.url) as manager,
        start_prometheus(
            folder / "prometheus",
            about["nodes"],
            alertmanager=manager.address,
            balancer=urlsplit(before["metrics"]).netloc if before else "",
            hurry=hurry,
        ) as prometheus,
    ):
        print(f"Prometheus   http://{prometheus.address}")
        print(f"Alertmanager http://{manager.address}")
        if before:
            print(f"HAProxy      {before['metrics']}")
        print(f"dashboards   {folder}/*.svg, every minute and at each alert; Ctrl-C ends it", flush=True)
        _follow(receiver, prometheus.address, folder)


def _follow(receiver: Receiver, prometheus: str, folder: Path) -> None:
    began, due = time.time(), time.monotonic() + SOON
    said: dict[tuple[str, ...], str] = {}
    while True:
        try:
            notice = receiver.notices.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            now = time.time()
            for dashboard in DASHBOARDS:
                text = draw(dashboard, prometheus, max(began - 5, now - SHOWN), now)
                (folder / f"{dashboard.name}.svg").write_text(text)
            due = time.monotonic() + EVERY
            continue
        # Alertmanager tells of a whole group again whenever something in it changes.
        one = (notice.receiver, *sorted(f"{key}={value}" for key, value in notice.labels.items()))
        if said.get(one, "resolved") != notice.status:
            said[one] = notice.status
            print(_line(notice), flush=True)
            due = min(due, time.monotonic() + SOON)


def _line(notice: Notice) -> str:
    who = {"pages": "page", "tickets": "ticket"}.get(notice.receiver, notice.receiver)
    text = f"{time.strftime('%H:%M:%S')} {who:6} {notice.status:8} {notice.name}"
    if notice.status == "firing":
        text += f": {notice.annotations['summary']} {notice.annotations['runbook']}"
    return text


if __name__ == "__main__":
    sys.exit(main())
