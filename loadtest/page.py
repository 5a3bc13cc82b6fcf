"""Tables of measurements, and their places in `docs/performance.md`."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.target import machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Lines = Iterable[tuple[str, Sequence[str], Sequence[str]]]

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return what every measurement takes whose table has a place there; `about`: its docstring."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--runs", type=int, default=3, help="runs of everything (default 3)")
    found.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    return found


def heading(command: str, runs: int) -> str:
    """Return what stands above a table."""
    return f"`{command}` on {machine()}; medians of {runs} runs, lowest and highest beside them.\n"


def table(rows: dict[str, list[float]], words: dict[str, tuple[str, float]], command: str, runs: int) -> str:
    """Return a table of medians. `words` are a row's title and bound: below 0, one from below; 0: none."""
    lines = [
        heading(command, runs),
        "| What | Median | Spread | Bound |",
        "|---|---|---|---|",
    ]
    for name, (title, bound) in words.items():
        values = rows[name]
        median = statistics.median(values)
        digits = ",.0f" if median >= 1000 else ".1f" if median >= 20 else ".2f"
        verdict = ""
        if bound:
            reached = median <= bound if bound > 0 else median >= -bound
            sign = "≤" if bound > 0 else "≥"
            verdict = f"{sign} {abs(bound):,g}: {'reached' if reached else '**not reached**'}"
        low, high = min(values), max(values)
        lines.append(f"| {title} | {median:{digits}} | {low:{digits}} to {high:{digits}} | {verdict} |")
    return "\n".join(lines)


def compared(rows: dict[str, list[float]], lines: Lines, peer: str, command: str) -> str:
    """Return a table of ours beside a peer's. Rows that are added up are added within each run."""
    text = [
        f"`{command}`: medians, lowest and highest beside them.\n",
        f"| What | Ours | {peer} |",
        "|---|---|---|",
    ]
    for title, ours, theirs in lines:
        if all(name in rows for name in (*ours, *theirs)):
            text.append(f"| {title} | {_spread(rows, ours)} | {_spread(rows, theirs)} |")
    return "\n".join(text)


def _spread(rows: dict[str, list[float]], names: Sequence[str]) -> str:
    values = [sum(run) for run in zip(*(rows[name] for name in names), strict=True)]
    median = statistics.median(values)
    digits = ",.0f" if median >= 100 else ".1f" if median >= 10 else ".2f"
    return f"{median:{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def publish(mark: str, text: str, *, write: bool, page: Path = PAGE) -> None:
    """Print a table; write it between the page's marks of that name if asked."""
    print(text)
    if write:
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        head, _, rest = page.read_text(encoding="utf-8").partition(begin)
        page.write_text(head + begin + "\n" + text + "\n" + end + rest.partition(end)[2], encoding="utf-8")
