"""What services log and count tells on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.counters import COUNTED, Counters
from chaos.run import troubles
from holdfast.observe.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path


def test_errors_and_tracebacks_are_found(tmp_path: Path) -> None:
    """An error that was logged, and what is no log line at all; warnings are none."""
    (tmp_path / "logic-0.log").write_text(
        '{"ts":1,"level":"info","text":"serving"}\n'
        '{"ts":2,"level":"warning","text":"Redis is away"}\n'
        '{"ts":3,"level":"error","text":"a task failed"}\n'
        "Fatal Python error: Aborted\n"
    )
    assert [line for _, line in troubles(tmp_path, ["logic-0"])] == [
        '{"ts":3,"level":"error","text":"a task failed"}',
        "Fatal Python error: Aborted",
    ]


def test_counters_are_added_up_over_restarts() -> None:
    """A process that was started again counts from 0; what it counted before stays."""
    counters = Counters()
    counters.take("access-0", 1, 'holdfast_access_polls_total{why="break"} 2.0\n')
    counters.take("access-0", 1, 'holdfast_access_polls_total{why="break"} 3.0\n')
    counters.take("access-0", 2, 'holdfast_access_polls_total{why="quiet"} 4.0\nholdfast_other_total 9.0\n')
    assert counters.totals() == {"access_polls": 7}


def test_what_is_counted_exists() -> None:
    """The names are those of metrics that there are."""
    text = Metrics().text().decode()
    assert [name for name in COUNTED if f"holdfast_{name}_total" not in text] == []
