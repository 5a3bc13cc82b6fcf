"""Draws the dashboards without Grafana: `python -m deploy.grafana.render PROMETHEUS FOLDER [--minutes N]`.

Each dashboard becomes one SVG, from the same table of panels and the same queries, for a look where no
Grafana is. Alerts that were pending (pale) or fired are at its top, and behind every panel those that fired.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deploy.grafana.dashboards import DASHBOARDS
from deploy.grafana.panels import Dashboard, Panel, text
from deploy.grafana.timeline import Spell, spells
from deploy.prometheus.api import query_range

if TYPE_CHECKING:
    from collections.abc import Callable

COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")
STATES: Final = {"pending": "#fdd0a2", "firing": "#d62728"}
_COLUMN: Final = 46
_HEIGHT: Final = 190
_STEPS: Final = 120
_LINES: Final = 8
"""Lines of one panel, at most: the highest ones."""

_FORMS: Final = {"s": (1e-3, "ms"), "percentunit": (0.01, "%"), "bytes": (1024.0, "KiB"), "ops": (1.0, "/s")}


class Line(NamedTuple):
    """One series: its name, and (time, value) in order."""

    name: str
    points: list[tuple[float, float]]


def fetch(address: str, expression: str, legend: str, start: float, end: float) -> list[Line]:
    """Return the lines of a query. Raises ValueError, with Prometheus's words, for a wrong one."""
    step = max((end - start) / _STEPS, 1.0)
    for name, value in (
        ("$__rate_interval", f"{max(int(4 * step), 5)}s"),
        ("$namespace", ".*"),
        ("$instance", ".*"),
    ):
        expression = expression.replace(name, value)
    answer = query_range(address, expression, start, end, step)
    return [_line(series, legend) for series in answer]


def _line(series: dict[str, Any], legend: str) -> Line:
    name = legend or ", ".join(series["metric"].values())
    for label, value in series["metric"].items():
        name = name.replace("{{" + label + "}}", value)
    points = [(float(at), float(value)) for at, value in series["values"]]
    return Line(name, [point for point in points if math.isfinite(point[1])])


def draw(dashboard: Dashboard, address: str, start: float, end: float) -> str:
    """Return a dashboard as SVG."""
    told = spells(address, start, end)
    parts, y = _alerts(told, (start, end))
    fired = [(spell.begin, spell.end) for spell in told if spell.state == "firing"]
    for row in dashboard.rows:
        parts.append(f'<text x="8" y="{y + 14}" font-weight="bold">{escape(row.title)}</text>')
        y += 22
        x, wide = 0, 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y = 0, y + _HEIGHT
            lines = [
                line
                for query in panel.queries
                for line in fetch(address, text(query.expression), query.legend, start, end)
            ]
            parts.append(_panel(panel, lines, (x * _COLUMN, y), (start, end), fired))
            x += panel.width
            wide = max(wide, x)
        y += _HEIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{24 * _COLUMN}" height="{y + 8}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    )
    title = f'<text x="8" y="22" font-size="16">Holdfast: {escape(dashboard.title)}</text>'
    return "\n".join([head, title, *parts, "</svg>"]) + "\n"


def _alerts(told: list[Spell], span: tuple[float, float]) -> tuple[list[str], int]:
    """Return a line for each alert, with its spells as bars, and where the rest begins."""
    y, left, right = 34, 220.0, 24 * _COLUMN - 16.0

    def place(at: float) -> float:
        return round(left + (at - span[0]) / (span[1] - span[0]) * (right - left), 1)

    names = list(dict.fromkeys(spell.label for spell in told))
    if not names:
        return ['<text x="8" y="48" fill="#666">No alert was pending or fired.</text>'], y + 22
    parts = ['<text x="8" y="48" font-weight="bold">Alerts</text>', *_clock(span, place, 48)]
    y += 22
    for name in names:
        parts.append(f'<text x="8" y="{y + 11}">{escape(name)}</text>')
        parts.append(f'<path d="M{left} {y + 7}H{right}" stroke="#eee"/>')
        for spell in told:
            if spell.label == name:
                wide = max(place(spell.end) - place(spell.begin), 2.0)
                parts.append(
                    f'<rect x="{place(spell.begin)}" y="{y + 1}" width="{wide:.1f}" height="12" '
                    f'fill="{STATES[spell.state]}"><title>{spell.state}</title></rect>'
                )
        y += 16
    return parts, y + 6


def _clock(span: tuple[float, float], place: Callable[[float], float], y: float) -> list[str]:
    """Return the time of day at the beginning, at the end, and where there is room, in the middle."""
    found = []
    middle = [(0.5, "middle")] if place(span[1]) - place(span[0]) > 200 else []
    for share, anchor in ((0.0, "start"), *middle, (1.0, "end")):
        at = span[0] + share * (span[1] - span[0])
        shown = time.strftime("%H:%M:%S", time.localtime(at))
        found.append(f'<text x="{place(at)}" y="{y}" text-anchor="{anchor}" fill="#666">{shown}</text>')
    return found


def _panel(
    panel: Panel,
    lines: list[Line],
    corner: tuple[int, int],
    span: tuple[float, float],
    fired: list[tuple[float, float]],
) -> str:
    lines = [line for line in lines if line.points]
    lines.sort(key=lambda line: -max(value for _, value in line.points))
    lines = lines[:_LINES]
    width, height = panel.width * _COLUMN - 8, _HEIGHT - 8
    top = max([value for line in lines for _, value in line.points] + [panel.warn or 0.0]) or 1.0
    left, right, high, low = 48.0, width - 8.0, 24.0, height - 40.0

    def place(at: float, value: float) -> tuple[float, float]:
        across = left + (at - span[0]) / (span[1] - span[0]) * (right - left)
        return round(across, 1), round(low - value / top * (low - high), 1)

    found = [
        f'<g transform="translate({corner[0] + 4},{corner[1]})"><title>{escape(panel.about)}</title>',
        f'<rect width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
        f'<text x="6" y="15">{escape(panel.title)}</text>',
    ]
    for begin, end in fired:
        across = place(begin, 0.0)[0]
        wide = max(place(end, 0.0)[0] - across, 1.0)
        found.append(
            f'<rect x="{across}" y="{high}" width="{wide:.1f}" height="{low - high}" '
            f'fill="{STATES["firing"]}" opacity="0.08"/>'
        )
    found += _clock(span, lambda at: place(at, 0.0)[0], low + 13)
    for share in (0.0, 0.5, 1.0):
        _, at = place(span[0], top * share)
        found.append(f'<path d="M{left} {at}H{right}" stroke="#eee"/>')
        shown = _number(top * share, panel.unit)
        found.append(f'<text x="{left - 4}" y="{at + 4}" text-anchor="end" fill="#666">{shown}</text>')
    if panel.warn is not None:
        _, at = place(span[0], panel.warn)
        found.append(f'<path d="M{left} {at}H{right}" stroke="red" stroke-dasharray="4"/>')
    if not lines:
        found.append(
            f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle" fill="#999">nothing</text>'
        )
    along = 6.0
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        found.append(f'<path d="{_path(line, place)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        name = escape(line.name or _number(line.points[-1][1], panel.unit))
        if along + 6.0 * len(name) < width:
            found.append(f'<text x="{along}" y="{height - 8}" fill="{colour}">{name}</text>')
        along += 6.0 * len(name) + 12
    return "\n".join([*found, "</g>"])


def _path(line: Line, place: Any) -> str:
    """Return the line, broken where there are no points."""
    between = sorted(b[0] - a[0] for a, b in zip(line.points, line.points[1:], strict=False))
    gap = 2.5 * between[0] if between else 0.0
    parts: list[str] = []
    before = -math.inf
    for at, value in line.points:
        across, up = place(at, value)
        parts.append(f"{'M' if at - before > gap else 'L'}{across} {up}")
        before = at
    return "".join(parts)


def _number(value: float, unit: str) -> str:
    one, name = _FORMS.get(unit, (1.0, ""))
    if unit == "s" and value >= 1.0:
        one, name = 1.0, "s"
    value = value / one
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{sign}{name}"
    return f"{value:.3g}{name}"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.render", description="Dashboards as SVG.")
    parser.add_argument("prometheus", help="host:port")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back (default: 30)")
    options = parser.parse_args()
    end = time.time()
    options.folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        file = options.folder / f"{dashboard.name}.svg"
        file.write_text(draw(dashboard, options.prometheus, end - options.minutes * 60, end))
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
