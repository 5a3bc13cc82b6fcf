"""A few panels of the dashboards on one page, as a small PNG: what a failure looks like."""

from __future__ import annotations

import importlib
import io
import itertools
from typing import TYPE_CHECKING, Any, Final

from deploy.grafana.dashboards import DASHBOARDS
from deploy.grafana.panels import text
from deploy.grafana.render import COLOURS, STATES, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.grafana.panels import Panel
    from deploy.grafana.render import Line
    from deploy.grafana.timeline import Spell

_COLUMNS: Final = 3
_INCH: Final = 100
"""Pixels."""

_LINES: Final = 6
"""Lines of one panel, at most: those that move most."""

_LIMIT: Final = "limit"
"""What a line is called that is far above all others on a small cluster: it is left out."""

_UNITS: Final = {"s": "seconds", "ops": "a second", "bytes": "bytes", "Bps": "bytes a second"}


def sheet(
    title: str,
    panels: Sequence[str],
    told: Sequence[Spell],
    *,
    address: str,
    span: tuple[float, float],
    failure: tuple[float, float],
) -> bytes:
    """Return a picture of `panels`, each as "dashboard/title", over `span`, with the alerts that were `told`.

    `address` is Prometheus's; the time of the `failure` is shaded, and counted from. Times are Unix seconds.
    Raises ImportError without matplotlib, KeyError for a panel that is not there.
    """
    importlib.import_module("matplotlib").use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    image: Any = importlib.import_module("PIL.Image")
    known = {
        f"{board.name}/{panel.title}": panel
        for board in DASHBOARDS
        for row in board.rows
        for panel in row.panels
    }
    rows = -(-len(panels) // _COLUMNS)
    names = list(dict.fromkeys(spell.label for spell in told))
    strip = 0.55 + 0.2 * max(len(names), 1)
    with pyplot.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = pyplot.figure(figsize=(11.0, strip + 2.2 * rows), dpi=_INCH, layout="constrained")
        grid = figure.add_gridspec(rows + 1, _COLUMNS, height_ratios=[strip, *[2.2] * rows])
        axes = [figure.add_subplot(grid[0, :])]
        axes[0].set_title(title, loc="left", fontsize=11, fontweight="bold")
        _strip(axes[0], names, told, failure[0])
        for number, name in enumerate(panels):
            axes.append(figure.add_subplot(grid[1 + number // _COLUMNS, number % _COLUMNS]))
            panel = known[name]
            found = [
                line
                for query in panel.queries
                for line in fetch(address, text(query.expression), query.legend, *span)
            ]
            _panel(axes[-1], panel, found, failure[0])
        for each in axes:
            each.axvspan(0.0, failure[1] - failure[0], color="#000000", alpha=0.07, linewidth=0, zorder=0)
            each.set_xlim(span[0] - failure[0], span[1] - failure[0])
        for each in axes[-min(len(panels), _COLUMNS) :]:
            each.set_xlabel("seconds since the failure began", color="#666666")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        pyplot.close(figure)
    small = io.BytesIO()
    image.open(drawn).convert("RGB").quantize(128, dither=image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def _strip(axes: Any, names: Sequence[str], told: Sequence[Spell], zero: float) -> None:
    for spell in told:
        wide = max(spell.end - spell.begin, 1.0)
        place = names.index(spell.label)
        axes.barh(place, wide, left=spell.begin - zero, height=0.7, color=STATES[spell.state])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if not told:
        axes.text(0.5, 0.5, "no alert", transform=axes.transAxes, ha="center", va="center", color="#888888")


def _panel(axes: Any, panel: Panel, found: Sequence[Line], zero: float) -> None:
    unit = _UNITS.get(panel.unit, "")
    axes.set_title(panel.title + (f" ({unit})" if unit else ""), loc="left", fontsize=9)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    found = [line for line in found if line.points and line.name != _LIMIT]
    moving = sorted(found, key=_moves, reverse=True)[:_LINES]
    for number, line in enumerate(sorted(moving, key=lambda line: line.name)):
        times = [at - zero for at, _ in line.points]
        step = min((b - a for a, b in itertools.pairwise(times)), default=0.0)
        shown: list[tuple[float, float]] = []
        for at, (_, value) in zip(times, line.points, strict=True):
            if shown and at - shown[-1][0] > 2.5 * step:
                shown.append((at, float("nan")))  # nobody answered in between
            shown.append((at, value))
        # The later, the thinner: lines that lie on each other are all seen.
        style = {"color": COLOURS[number], "linewidth": 2.6 - 0.3 * number, "label": line.name or None}
        axes.plot(*zip(*shown, strict=True), **style)
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1e-9 or not moving:
        axes.set_ylim(0, 1)
    if not moving:
        axes.text(0.5, 0.5, "nothing", transform=axes.transAxes, ha="center", va="center", color="#888888")
    elif any(line.name for line in moving):
        axes.legend(
            loc="best",
            fontsize=7,
            frameon=True,
            framealpha=0.75,
            edgecolor="none",
            borderpad=0.2,
            labelspacing=0.25,
            handlelength=1.0,
        )


def _moves(line: Line) -> tuple[float, float]:
    values = [value for _, value in line.points]
    return max(values) - min(values), max(values)
