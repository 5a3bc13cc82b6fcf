"""How commands answer: a table for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP: Final = "  "
_WIDEST: Final = 60
_CODES: Final = {"good": "32", "odd": "33", "bad": "31;1", "head": "1", "dim": "2"}


class Tinted(str):
    """A text that a terminal shows as `good`, `odd` or `bad`."""

    __slots__ = ("tint",)
    tint: str

    def __new__(cls, text: str, tint: str) -> Self:
        """Return the text with its tint."""
        made = super().__new__(cls, text)
        made.tint = tint
        return made


def tint(text: str, name: str) -> str:
    """Return a text in a colour, where standard output is a terminal that is to have colours."""
    if not text or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[name]}m{text}\x1b[0m"


def as_json(value: Any, *, indent: int = 2) -> str:
    """Return a value as JSON; with an `indent` below 0 on one line.

    What a terminal could take for a command is escaped, as JSON allows.
    """
    text = msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()
    return text if text.isprintable() else "".join(map(_json_char, text))


def _json_char(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    utf16 = char.encode("utf-16-be")
    return "".join(f"\\u{utf16[at : at + 2].hex()}" for at in range(0, len(utf16), 2))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> str:
    """Return rows in columns. On a terminal (or given a `width`) the last column is cut to fit.

    Control characters are shown escaped: what a client wrote must not steer an operator's terminal. A column
    of numbers stands to the right; a `head` of empty names is left out.
    """
    cells = [["" if cell is None else plain(str(cell)) for cell in row] for row in rows]
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    widths = [max(_room(row[at]) for row in [list(head), *cells]) for at in range(len(head))]
    if width is not None:
        widths[:-1] = [min(one, _WIDEST) for one in widths[:-1]]
        left = width - sum(widths[:-1]) - len(_GAP) * (len(head) - 1)
        widths[-1] = min(widths[-1], max(left, len(head[-1]), 1))
    right = [
        any(isinstance(row[at], int) for row in rows) and all(isinstance(row[at], int | None) for row in rows)
        for at in range(len(head))
    ]
    lines = []
    if any(head):
        names = [
            _fit(name.upper(), room, to_right=r) for name, room, r in zip(head, widths, right, strict=True)
        ]
        lines.append(tint(_GAP.join(names).rstrip(), "head"))
    for row, shown in zip(rows, cells, strict=True):
        parts = []
        for cell, text, room, to_right in zip(row, shown, widths, right, strict=True):
            fitted = _fit(text, room, to_right=to_right)
            parts.append(tint(fitted, cell.tint) if isinstance(cell, Tinted) else fitted)
        lines.append(_GAP.join(parts).rstrip())
    return "\n".join(lines)


def _fit(text: str, room: int, *, to_right: bool) -> str:
    """Return a text that takes `room` columns of a terminal: filled with blanks, or cut."""
    if _room(text) > room:
        while _room(text) > room - 1:
            text = text[:-1]
        text += "…"
    blanks = " " * (room - _room(text))
    return blanks + text if to_right else text + blanks


def _room(text: str) -> int:
    """Return how many columns a terminal gives to a text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def plain(text: str) -> str:
    """Return a text with its control characters escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def when(ms: int) -> str:
    """Return a time (Unix ms) for people, in UTC; "-" for 0."""
    if not ms:
        return "-"
    return dt.datetime.fromtimestamp(ms / 1000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def say(text: str) -> None:
    """Print an answer."""
    print(text)  # noqa: T201 - this is what commands are for


def note(text: str) -> None:
    """Tell an operator something that is not part of the answer."""
    print(text, file=sys.stderr)  # noqa: T201
