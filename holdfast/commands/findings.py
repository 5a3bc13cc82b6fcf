"""Findings as people read them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Final

from holdfast.commands.show import plain, tint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.doctor.finding import Finding

_INDENT: Final = " " * 10
_SIGNS: Final = {"good": "ok", "advice": "advice", "wrong": "WRONG", "unknown": "?"}
_TINTS: Final = {"good": "good", "advice": "odd", "wrong": "bad", "unknown": "odd"}


def report(findings: Sequence[Finding], *, quiet: bool = False, width: int | None = None) -> str:
    """Return findings under the names of their areas, and how many there are of each kind.

    `quiet` leaves out what is in order. On a terminal (or given a `width`) lines are folded to fit.
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    lines: list[str] = []
    shown = [one for one in findings if not quiet or one.level != "good"]
    for at, one in enumerate(shown):
        if not at or one.area != shown[at - 1].area:
            lines += ["", tint(plain(one.area), "head")] if lines else [tint(plain(one.area), "head")]
        lines += _lines(one, width or 10_000)
    return "\n".join([*lines, *([""] if lines else []), _summary(findings)])


def _lines(one: Finding, width: int) -> Iterator[str]:
    first, *more = _folded(f"{one.subject}: {one.found}", width)
    yield f"  {tint(f'{_SIGNS[one.level]:6}', _TINTS[one.level])}  {first}"
    yield from (f"{_INDENT}{line}" for line in more)
    if one.change:
        first, *more = _folded(one.change, width - 2)
        yield f"{_INDENT}→ {first}"
        yield from (f"{_INDENT}  {line}" for line in more)


def _folded(text: str, width: int) -> Sequence[str]:
    return textwrap.wrap(plain(text), max(width - len(_INDENT), 20), break_on_hyphens=False) or [""]


def _summary(findings: Sequence[Finding]) -> str:
    count = {level: sum(one.level == level for one in findings) for level in _SIGNS}
    words = [
        f"{count['wrong']} wrong" if count["wrong"] else "nothing wrong",
        f"{count['advice']} to think about" if count["advice"] else "",
        f"{count['unknown']} could not be looked at" if count["unknown"] else "",
        f"{count['good']} in order",
    ]
    return ", ".join(word for word in words if word) + "."
