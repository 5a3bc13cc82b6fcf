"""What services log tells on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.run import troubles

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
