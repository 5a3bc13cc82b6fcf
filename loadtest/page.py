"""Tables of measurements, and their places in `docs/performance.md`."""

from __future__ import annotations

import statistics
from pathlib import Path

from loadtest.target import machine

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


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
    for name, values in rows.items():
        title, bound = words[name]
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


def publish(mark: str, text: str, *, write: bool, page: Path = PAGE) -> None:
    """Print a table; write it between the page's marks of that name if asked."""
    print(text)
    if write:
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        head, _, rest = page.read_text(encoding="utf-8").partition(begin)
        page.write_text(head + begin + "\n" + text + "\n" + end + rest.partition(end)[2], encoding="utf-8")
