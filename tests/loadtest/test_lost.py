"""The table of what is lost says so when something is."""

from __future__ import annotations

import pytest

from loadtest.lost import ROWS, table


@pytest.mark.parametrize(
    ("name", "values", "verdict"),
    [
        ("lost", [0.0, 0.0], "0: reached"),
        ("lost", [0.0, 1.0, 0.0], "0: **not reached**"),
        ("wrong", [0.0, 2.0], "0: **not reached**"),
        ("calls", [0.99, 1.01], "1: reached"),
        ("calls", [1.0, 2.0], "1: **not reached**"),
        ("acked", [7000.0], ""),
    ],
)
def test_one_run_that_loses_is_enough(name: str, values: list[float], verdict: str) -> None:
    """The bound is held to by the worst run, not by the median."""
    rows = {row: [0.0] for row in ROWS} | {name: values}
    (line,) = (
        line for line in table(rows, "make it", 1).splitlines() if line.startswith(f"| {ROWS[name][0]} ")
    )
    assert line.split("|")[4].strip() == verdict
