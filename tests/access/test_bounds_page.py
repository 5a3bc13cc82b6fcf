"""docs/bounds.md names what exists: settings, metrics with their labels, and tests."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.observe.metrics import TABLE
from holdfast.settings import all_settings

ROOT = Path(__file__).parents[2]
BLOCKS = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8").split("\n\n")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for block in BLOCKS
    if block.startswith("| What")
    for line in block.splitlines()[2:]
]


def test_every_row_is_whole() -> None:
    """What, bound, what happens, counter, test."""
    assert len(ROWS) > 30
    assert [row[0] for row in ROWS if len(row) != 5 or not (row[0] and row[1] and row[4])] == []


def test_its_settings_exist() -> None:
    """A bound that is a setting is one."""
    sections = {setting.section for setting in all_settings()}
    known = {f"{setting.section}.{setting.name}" for setting in all_settings()}
    named = {name for row in ROWS for name in re.findall(r"`([a-z]+\.[a-z_]+)`", row[1])}
    assert {name for name in named if name.partition(".")[0] in sections} - known == set()


def test_its_counters_exist() -> None:
    """A counter is a metric, with these labels."""
    known = {metric.name: set(metric.labels) for metric in TABLE}
    for row in ROWS:
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([^}]*)\})?`", row[3]):
            assert name in known, row[0]
            assert set(re.findall(r"([a-z]+)(?:=|$)", labels)) <= known[name], row[0]


def test_its_tests_exist() -> None:
    """A test is a file, and a test in it; one without a file is of the file before it."""
    for row in ROWS:
        source = ""
        for path, name in re.findall(r"`(?:([a-z0-9_/]+\.py)(?:::)?)?(test_\w+)?`", row[4]):
            if path:
                source = (ROOT / "tests" / path).read_text(encoding="utf-8")
            assert not name or f"def {name}(" in source, (row[0], name)
