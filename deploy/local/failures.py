"""What each failure looks like: the pictures and figures of docs/failures.md.

    python -m deploy.local.failures [NAME …]        what `make failures` runs; all of them take 45 minutes

For each failure a local cluster of real parts, with HAProxy and a Prometheus that has the shipped rules,
gets some load, the failure, and the time to recover. What the dashboards show is drawn into
docs/pictures/failures, and which alerts there were is written into the page.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from deploy.grafana.sheet import sheet
from deploy.grafana.timeline import spells
from deploy.local.cluster import LocalCluster
from deploy.local.prometheus import start_prometheus
from deploy.local.talk import Talk
from deploy.prometheus import objectives
from deploy.prometheus.alerts import ALERTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.grafana.timeline import Spell

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
PAGE: Final = DOCS / "failures.md"
PICTURES: Final = DOCS / "pictures" / "failures"

BEFORE: Final = 40.0
"""Seconds of calm that are shown before a failure; the first ones after the start are not."""

AFTER: Final = 60.0
"""Seconds that are shown after its end."""

WARM: Final = 15.0


class Failure(NamedTuple):
    """One failure, of `lasts` seconds. `panels` are "dashboard/title"; `users` write `rate` a second each."""

    title: str
    breaks: Callable[[LocalCluster], object]
    mends: Callable[[LocalCluster], object]
    panels: tuple[str, ...]
    lasts: float = 90.0
    users: int = 40
    rate: float = 2.0
    settings: dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it


def _drain(cluster: LocalCluster) -> None:
    command = [sys.executable, "-m", "holdfast.cli", "drain", "access-0"]
    subprocess.run([*command, "--config", str(cluster.dir / "holdfast.toml")], check=True, timeout=30)


def _balancer(cluster: LocalCluster) -> Any:
    assert cluster.balancer is not None
    return cluster.balancer.running


def _flag(cluster: LocalCluster) -> Path:
    return cluster.dir / "slow"


def _each(cluster: LocalCluster, role: str, do: Callable[[str], None]) -> None:
    for name, node in cluster.nodes.items():
        if node.role == role:
            do(name)


FAILURES: Final = {
    "access-killed": Failure(
        "One of two access nodes is killed",
        lambda c: c.kill("access-0"),
        lambda c: c.restart("access-0"),
        (
            "access/Connections",
            "access/Accepts",
            "cluster/Messages",
            "cluster/Delivery",
            "cluster/Nodes seen",
            "pipeline/Links",
        ),
    ),
    "drain": Failure(
        "An access node is drained, at one client a second; then it is started again",
        _drain,
        lambda c: c.restart("access-0"),
        (
            "access/Connections",
            "access/Accepts",
            "cluster/Messages",
            "cluster/Delivery",
            "cluster/Send to ack",
            "cluster/Nodes seen",
        ),
        lasts=60.0,
        settings={"access.drain_rate": 1, "process.drain_seconds": 60.0},
    ),
    "storm": Failure(
        "HAProxy is killed and comes back after 5 s: 400 clients at once",
        lambda c: _balancer(c).kill(),
        lambda c: _balancer(c).restart(),
        (
            "access/Connections",
            "access/Accepts",
            "cluster/Delivery",
            "cluster/Send to ack",
            "cluster/Loop stall p99",
            "stores/Calls",
        ),
        lasts=5.0,
        users=400,
        rate=0.2,
    ),
    "dispatch-frozen": Failure(
        "One of two dispatchers hangs (SIGSTOP)",
        lambda c: c.pause("dispatch-0"),
        lambda c: c.resume("dispatch-0"),
        (
            "pipeline/Partitions",
            "stores/Backlog",
            "cluster/Delivery",
            "access/Asked the log",
            "access/Chains broken",
            "cluster/Nodes seen",
        ),
    ),
    "dispatch-gone": Failure(
        "All dispatchers are killed",
        lambda c: _each(c, "dispatch", c.kill),
        lambda c: _each(c, "dispatch", c.restart),
        (
            "cluster/Messages",
            "stores/Backlog",
            "cluster/Delivery",
            "access/Asked the log",
            "cluster/Send to ack",
            "cluster/delivery: budget burn",
        ),
        lasts=150.0,
    ),
    "logic-slow": Failure(
        "Handlers take 2 s each",
        lambda c: _flag(c).touch(),
        lambda c: _flag(c).unlink(),
        (
            "pipeline/Handled",
            "pipeline/Handlers",
            "pipeline/Age",
            "pipeline/In hand",
            "stores/Backlog",
            "cluster/Send to ack",
        ),
        lasts=360.0,
    ),
    "redis-lost": Failure(
        "Redis is killed and comes back empty after 10 s",
        lambda c: c.redis.kill(),
        lambda c: c.redis.restart(),
        (
            "stores/Failed",
            "pipeline/Rebuilding",
            "stores/Lost writes",
            "cluster/Waiting",
            "cluster/Delivery",
            "cluster/Send to ack",
        ),
        lasts=10.0,
    ),
    "redis-hangs": Failure(
        "Redis hangs (SIGSTOP)",
        lambda c: c.redis.pause(),
        lambda c: c.redis.resume(),
        (
            "cluster/Messages",
            "stores/Failed",
            "cluster/Waiting",
            "cluster/Send to ack",
            "cluster/Delivery",
            "cluster/Errors told to clients",
        ),
        lasts=150.0,
    ),
    "kafka-hangs": Failure(
        "The only broker of Kafka hangs (SIGSTOP)",
        lambda c: c.kafka.pause(),
        lambda c: c.kafka.resume(),
        (
            "cluster/Messages",
            "stores/Unknown outcomes",
            "cluster/Errors told to clients",
            "cluster/Send to ack",
            "cluster/acked: budget burn",
            "access/Connections",
        ),
        lasts=150.0,
    ),
    "consul-hangs": Failure(
        "Consul hangs (SIGSTOP)",
        lambda c: c.consul.pause(),
        lambda c: c.consul.resume(),
        (
            "cluster/Messages",
            "cluster/Delivery",
            "cluster/Nodes seen",
            "stores/Calls to Consul",
            "stores/Failed calls to Consul",
            "access/Connections",
        ),
    ),
}


async def show(name: str, folder: Path) -> tuple[bytes, list[str]]:
    """Return the picture of one failure, and the lines of the table of its alerts. Raises Unavailable."""
    failure = FAILURES[name]
    os.environ["HF_LOCAL_SLOW"] = str(folder / "cluster" / "slow")
    app = "deploy.local.sluggish:app"
    with LocalCluster(folder / "cluster", balancer=True, app=app, settings=failure.settings) as cluster:
        about = cluster.describe()
        balancer = urlsplit(about["balancer"]["metrics"]).netloc
        with start_prometheus(folder / "prometheus", about["nodes"], balancer=balancer) as prometheus:
            talk = Talk(about, users=failure.users, rate=failure.rate)
            await talk.start()
            await asyncio.sleep(WARM + BEFORE)
            broken = time.time()
            await asyncio.to_thread(failure.breaks, cluster)
            await asyncio.sleep(broken + failure.lasts - time.time())
            mended = time.time()
            await asyncio.to_thread(failure.mends, cluster)
            await asyncio.sleep(mended + AFTER - time.time())
            span = (broken - BEFORE, time.time())
            told = await asyncio.to_thread(spells, prometheus.address, *span)
            picture = sheet(
                failure.title,
                failure.panels,
                told,
                address=prometheus.address,
                span=span,
                failure=(broken, mended),
            )
            await talk.stop()
            for words in talk.wrong:
                print(words, file=sys.stderr)
            came = f"{sum(talk.acked)} messages were acked, {sum(talk.got)} came; wrong: {len(talk.wrong)}."
    return picture, [*_table(told, broken, mended), "", came]


def _table(told: Sequence[Spell], broken: float, mended: float) -> list[str]:
    """Return what the alerts did: when each was true, and when it fires or would have, had it lasted."""
    known = {(alert.name, alert.severity): alert for alert in (*ALERTS, *objectives.alerts())}
    if not told:
        return ["No alert."]
    lines = ["| Alert | | True after | Fires after | Over, after the end |", "|---|---|---|---|---|"]
    for name, severity in dict.fromkeys(spell[:2] for spell in told):
        mine = [spell for spell in told if spell[:2] == (name, severity)]
        true = min(spell.begin for spell in mine)
        fired = [spell.begin for spell in mine if spell.state == "firing"]
        last = max(spell.end for spell in mine)
        alert = known[name, severity]
        fires = (
            f"{fired[0] - broken:.0f} s"
            if fired
            else f"{_words(true - broken + _seconds(alert.hold))}, had it lasted"
        )
        over = f"{last - mended:.0f} s" if last < mended + AFTER - 5 else "later"
        over = over if last > mended else "before it"
        link = f"[{name}](runbook.md#{name.lower()})"
        lines.append(f"| {link} | {severity} | {true - broken:.0f} s | {fires} | {over} |")
    return lines


def _seconds(hold: str) -> int:
    return int(hold[:-1]) * {"s": 1, "m": 60, "h": 3600}[hold[-1]]


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def put(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Write lines between the marks of a failure in the page. Raises ValueError where it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text()
    head, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{page} has no place for {name}")
    page.write_text("\n".join([head + begin, *lines, end]) + rest.partition(end)[2])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.failures", description="Draw failures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FAILURES)} (default: all)")
    options = parser.parse_args()
    if wrong := [name for name in options.names if name not in FAILURES]:
        parser.error(f"there is no {wrong[0]}: {', '.join(FAILURES)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in options.names or FAILURES:
        with tempfile.TemporaryDirectory() as work:
            picture, lines = asyncio.run(show(name, Path(work)))
        file = PICTURES / f"{name}.png"
        file.write_bytes(picture)
        put(name, lines)
        print(f"{file} ({len(picture) // 1024} KB)", *lines, sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
