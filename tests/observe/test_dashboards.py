"""The dashboards: made from code, about metrics that exist, with queries that a real Prometheus answers."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from deploy.grafana import generate
from deploy.grafana.dashboards import DASHBOARDS
from deploy.grafana.panels import Panel, render, text
from deploy.grafana.render import draw
from deploy.grafana.sheet import sheet
from deploy.grafana.timeline import Spell, spells
from deploy.prometheus.api import query
from holdfast.client import Client
from tests.observe.test_rules import unknown

if TYPE_CHECKING:
    from deploy.local.cluster import LocalCluster
    from deploy.local.process import Running

PANELS = [
    (dashboard.name, panel) for dashboard in DASHBOARDS for row in dashboard.rows for panel in row.panels
]

TROUBLE = {
    "Refused",
    "Refused by a backlog",
    "Errors told to clients",
    "Dead letters",
    "Asked the log",
    "Failed",
    "Failed calls to Consul",
    "Closes",
    "Unknown outcomes",
}
"""Panels that are empty as long as nothing of the kind has happened."""


def test_the_files_are_what_the_code_makes() -> None:
    """`make rules` was run after the last change of the dashboards."""
    for path, content in generate.files().items():
        assert path.read_text() == content, path.name


def test_panels_lie_beside_each_other_and_ask_for_metrics_that_exist() -> None:
    """No two panels overlap; every metric and label is in the table of metrics."""
    for dashboard in DASHBOARDS:
        places: set[tuple[int, int]] = set()
        for panel in render(dashboard)["panels"]:
            grid = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(grid["x"], grid["x"] + grid["w"])
                for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not places & cells, panel["title"]
            assert max(x for x, _ in cells) < 24
            places |= cells
    for name, panel in PANELS:
        assert panel.about, panel.title
        for each in panel.queries:
            expression = text(each.expression)
            assert not unknown(expression) - {"alertname", "alertstate"}, (name, panel.title)
            assert "$namespace" in expression, (name, panel.title)


def concrete(panel: Panel) -> list[str]:
    """Return a panel's expressions as Grafana sends them."""
    return [
        text(each.expression)
        .replace("$__rate_interval", "10s")
        .replace("$namespace", ".*")
        .replace("$instance", ".*")
        for each in panel.queries
    ]


@pytest.mark.cluster
@pytest.mark.tools
@pytest.mark.timeout(90)
async def test_a_real_prometheus_answers_every_panel(watched: LocalCluster, prometheus: Running) -> None:
    """All expressions parse and give numbers while messages flow; the recorded objectives are among them."""
    info = json.loads((watched.dir / "cluster.json").read_text())
    clients = []
    for user in ("ann", "ben"):
        call = urllib.request.Request(
            f"{info['api']}/v1/tokens",
            json.dumps({"user": user}).encode(),
            {"Authorization": f"Bearer {info['api_key']}"},
        )
        token = json.load(await asyncio.to_thread(urllib.request.urlopen, call))["token"]
        access = next(node for node in info["nodes"] if node["role"] == "access")
        clients.append(Client(access["websocket"], token=token))
    async with clients[0], clients[1]:
        missing = {(name, panel.title): panel for name, panel in PANELS if panel.title not in TROUBLE}
        end = asyncio.get_running_loop().time() + 40
        while missing:
            assert asyncio.get_running_loop().time() < end, f"no numbers: {sorted(missing)}"
            for number in range(20):
                await clients[0].send("user:ben", "chat.text", {"text": str(number)})
            for place, panel in list(missing.items()):
                answers = [await asyncio.to_thread(query, prometheus.address, e) for e in concrete(panel)]
                if any(answers):
                    del missing[place]
    for dashboard in DASHBOARDS:
        now = time.time()
        picture = await asyncio.to_thread(draw, dashboard, prometheus.address, now - 30, now)
        titles = [element.text for element in ET.fromstring(picture).iter() if element.text]
        assert {panel.title for row in dashboard.rows for panel in row.panels} <= set(titles)
        assert picture.count('stroke-width="1.5"') > 10, "lines"
    pytest.importorskip("matplotlib")
    now = time.time()
    told = [Spell("HoldfastNoLogic", "page", "firing", now - 20, now - 10)]
    page = await asyncio.to_thread(
        sheet,
        "a page",
        ["cluster/Messages", "cluster/Dead letters"],
        told,
        address=prometheus.address,
        span=(now - 30, now),
        failure=(now - 25, now - 10),
    )
    assert page.startswith(b"\x89PNG")
    assert 5_000 < len(page) < 80_000
    for _, panel in PANELS:
        for expression in concrete(panel):
            query(prometheus.address, expression)
    with pytest.raises(ValueError, match="parse error"):
        query(prometheus.address, "sum by (")
    firing = query(prometheus.address, 'ALERTS{alertstate="firing"}')
    assert firing == [], "alerts of a healthy cluster"
    now = time.time()
    assert not [spell for spell in spells(prometheus.address, now - 30, now) if spell.state == "firing"]
