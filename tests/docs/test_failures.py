"""The page of failures: each has its picture, its figures, and alerts that exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from deploy.grafana.dashboards import DASHBOARDS
from deploy.local.failures import FAILURES, PAGE, PICTURES, put
from deploy.prometheus.alerts import ALERTS
from deploy.prometheus.objectives import alerts

if TYPE_CHECKING:
    from pathlib import Path

PANELS = {f"{board.name}/{panel.title}" for board in DASHBOARDS for row in board.rows for panel in row.panels}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_has_its_picture_and_figures(name: str) -> None:
    """A small PNG, shown on the page; what was seen in its run stands below it, with nothing lost."""
    picture = PICTURES / f"{name}.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 80 * 1024
    text = PAGE.read_text()
    assert f"(pictures/failures/{name}.png)" in text
    seen = text.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    acked, came, wrong = re.search(r"(\d+) messages were acked, (\d+) came; wrong: (\d+)", seen).groups()  # type: ignore[union-attr]
    assert (acked, wrong) == (came, "0")
    for alert, severity in re.findall(r"^\| \[(\w+)\]\(runbook\.md#\w+\) \| (\w+) ", seen, re.MULTILINE):
        assert severity in {one.severity for one in (*ALERTS, *alerts()) if one.name == alert}


def test_panels_are_those_of_the_dashboards() -> None:
    """What a picture shows can be found again; no title is on a dashboard twice."""
    assert {panel for failure in FAILURES.values() for panel in failure.panels} <= PANELS
    assert len(PANELS) == sum(len(row.panels) for board in DASHBOARDS for row in board.rows)


def test_figures_go_to_their_place(tmp_path: Path) -> None:
    """What stood between the marks is replaced, and nothing else; a failure without a place is told."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n")
    put("x", ["new", "lines"], page)
    put("x", ["newer"], page)
    assert page.read_text() == (
        "a\n<!-- x: begin -->\nnewer\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n"
    )
    with pytest.raises(ValueError, match="no place for z"):
        put("z", [], page)
