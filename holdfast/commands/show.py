"""How commands answer: a table for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP: Final = "  "
_WIDEST: Final = 60


def as_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> str:
    """Return rows in columns. On a terminal (or given a `width`) the last column is cut to fit.

    Control characters are shown escaped: what a client wrote must not steer an operator's terminal.
    """
    cells = [[_plain(str(cell)) for cell in row] for row in rows]
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    widths = [max(len(row[at]) for row in [list(head), *cells]) for at in range(len(head))]
    if width is not None:
        widths[:-1] = [min(one, _WIDEST) for one in widths[:-1]]
        widths[-1] = max(width - sum(widths[:-1]) - len(_GAP) * (len(head) - 1), len(head[-1]))
    lines = [_line([name.upper() for name in head], widths, cut=False)]
    lines += [_line(row, widths, cut=width is not None) for row in cells]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], *, cut: bool) -> str:
    shown = [
        f"{cell[: room - 1]}…" if cut and len(cell) > room else cell
        for cell, room in zip(cells, widths, strict=True)
    ]
    return _GAP.join(cell.ljust(room) for cell, room in zip(shown, widths, strict=True)).rstrip()


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def when(ms: int) -> str:
    """Return a time (Unix ms) for people, in UTC; "-" for 0."""
    if not ms:
        return "-"
    return dt.datetime.fromtimestamp(ms / 1000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def say(text: str) -> None:
    """Print an answer."""
    print(text)  # noqa: T201 - this is what commands are for
