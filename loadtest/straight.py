"""The straight lines that costs should follow as the work grows: fitted, drawn, and put into tables."""

from __future__ import annotations

import importlib
import itertools
import statistics
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Sweep(msgspec.Struct):
    """What was measured at each point: medians of costs by name.

    Each has its `runs`, too, and as `load` the machine's load average at the end of them.
    """

    machine: str
    points: dict[int, dict[str, float]]


class Record(msgspec.Struct):
    """All sweeps by name."""

    sweeps: dict[str, Sweep] = {}


class Series(NamedTuple):
    """One line of a plot.

    `grows`: the cost of all is to be a + b·x, so that of one a/x + b; else it is to be flat.
    """

    title: str
    unit: str
    grows: bool = True


SERIES: dict[str, tuple[str, dict[str, Series]]] = {
    "connections": (
        "connections",
        {
            "accept ours": Series("our services for an accept", "µs"),
            "accept access": Series("access for an accept", "µs"),
            "accept logic": Series("logic for an accept", "µs"),
            "accept redis": Series("Redis for an accept", "µs"),
            "KiB": Series("memory of access for a connection", "KiB"),
            "redis bytes": Series("memory of Redis for a connection", "bytes"),
            "message ours": Series("our services for a message, 1,000 a second", "µs", grows=False),
            "p50": Series("the time of a message, p50", "ms", grows=False),
        },
    ),
    "channels": (
        "channels in one shard",
        {
            "first redis": Series("Redis for a channel's first record", "µs"),
            "later redis": Series("Redis for a later record", "µs"),
            "first ours": Series("dispatch's client for a first record", "µs"),
            "bytes 1": Series("a channel with 1 message", "bytes"),
            "bytes 20": Series("a channel with 20 messages", "bytes"),
        },
    ),
    "room": ("subscribers of a room", {"delivery": Series("access for a delivery", "µs")}),
    "partitions": (
        "partitions, 2,000 messages a second",
        {
            "message access": Series("access for a message", "µs", grows=False),
            "message logic": Series("logic for a message", "µs", grows=False),
            "message dispatch": Series("dispatch for a message", "µs", grows=False),
            "message redis": Series("Redis for a message", "µs", grows=False),
            "message kafka": Series("Kafka for a message", "µs", grows=False),
            "MiB access": Series("memory of access, when it has just begun", "MiB", grows=False),
            "idle access": Series("access, idle", "ms/s", grows=False),
            "idle logic": Series("logic, idle", "ms/s", grows=False),
            "idle dispatch": Series("dispatch, idle", "ms/s", grows=False),
            "idle redis": Series("Redis, idle", "ms/s", grows=False),
            "p50": Series("time of a message, p50", "ms", grows=False),
        },
    ),
    "nodes": (
        "access nodes, 2,000 messages a second",
        {
            "message access": Series("all access nodes for a message", "µs", grows=False),
            "message logic": Series("logic for a message", "µs", grows=False),
            "message dispatch": Series("dispatch for a message", "µs", grows=False),
            "message redis": Series("Redis for a message", "µs", grows=False),
            "idle node": Series("an access node, idle", "ms/s", grows=False),
            "idle dispatch": Series("dispatch, idle", "ms/s", grows=False),
            "idle redis": Series("Redis, idle", "ms/s", grows=False),
            "p50": Series("time of a message, p50", "ms", grows=False),
        },
    ),
    "beats": (
        "access nodes that beat to one shard",
        {
            "ours": Series("a node's Redis client for a beat", "µs"),
            "redis": Series("Redis for a beat", "µs"),
        },
    ),
}
"""By sweep: what its points are, and the series shown."""


class Line(NamedTuple):
    """The whole is `fixed` + `each`·x. Flat series have no slope to find: `fixed` is 0, `each` the median."""

    fixed: float
    each: float
    off: float
    """The largest relative distance of a point from it."""

    def at(self, x: float) -> float:
        """Return the cost of one of x."""
        return self.fixed / x + self.each


def fit(points: Mapping[int, float], *, grows: bool) -> Line:
    """Return the line nearest to the costs of one, by least squares of relative distances.

    Raises ValueError for fewer than two points, or one that is not above 0.
    """
    if len(points) < 2 or min(points.values()) <= 0:
        raise ValueError("two points above 0 are needed")
    fixed, each = 0.0, statistics.median(points.values())
    if grows:
        # Least squares of (fixed/x + each)/y - 1: its normal equations, with u = 1/(x·y) and v = 1/y.
        # In fractions: points that are close to each other leave nothing of a difference of floats.
        rows = [(1 / (x * Fraction(y)), 1 / Fraction(y)) for x, y in points.items()]
        uu, uv, vv = sum(u * u for u, _ in rows), sum(u * v for u, v in rows), sum(v * v for _, v in rows)
        u, v = sum(u for u, _ in rows), sum(v for _, v in rows)
        bottom = uu * vv - uv * uv
        fixed, each = float((u * vv - v * uv) / bottom), float((uu * v - uv * u) / bottom)
        if fixed < 0:  # it gets dearer with size: no straight line does, and what is off says so
            fixed, each = 0.0, float(v / vv)
        elif each < 0:
            fixed, each = float(u / uu), 0.0
    off = max(abs((fixed / x + each) / y - 1) for x, y in points.items())
    return Line(fixed, each, off)


def read(path: Path) -> Record:
    """Return what was recorded; an empty record where nothing was."""
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.exists() else Record()


def costs(sweep: Sweep, name: str) -> dict[int, float]:
    """Return the cost by point of one series; without what is below the noise."""
    return {x: point[name] for x, point in sorted(sweep.points.items()) if point.get(name, 0) > 0}


def tables(record: Record) -> str:
    """Return a table for each sweep: a series a row, a point a column, and the line."""
    parts = []
    for name, (what, series) in SERIES.items():
        if name not in record.sweeps:
            continue
        sweep = record.sweeps[name]
        points = sorted(sweep.points)
        lines = [
            f"**{what[0].upper() + what[1:]}**",
            "",
            f"`python -m loadtest.scaling {name}`: {sweep.machine}.",
            "",
            f"![cost by {what}](pictures/{name}.svg)",
            "",
            "| | " + " | ".join(f"{x:,}" for x in points) + " | the line, and the farthest from it |",
            "|---|" + "---|" * (len(points) + 1),
        ]
        for key, one in series.items():
            found = costs(sweep, key)
            cells = [number(found[x]) if x in found else "" for x in points]
            lines.append(f"| {one.title}, {one.unit} | {' | '.join(cells)} | {_line(found, one)} |")
        for key, title in (("runs", "runs"), ("load", "load average of the machine")):
            cells = [f"{found[x]:.0f}" if x in (found := costs(sweep, key)) else "" for x in points]
            lines.append(f"| {title} | {' | '.join(cells)} | |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(found: Mapping[int, float], one: Series) -> str:
    if len(found) < 2:
        return ""
    line = fit(found, grows=one.grows)
    text = f"{number(line.each)} {one.unit} each" if one.grows else f"flat at {number(line.each)} {one.unit}"
    if one.grows and line.fixed > 0:
        text += f", {number(line.fixed)} once"
    return f"{text}; {line.off:.0%}"


def number(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def draw(record: Record, out: Path) -> Iterator[Path]:
    """Draw every sweep as PNG and SVG into `out` (into `docs`: SVG); nothing where matplotlib is missing."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return
    # Text stays text, and what did not change is the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "holdfast"})
    for name, (what, series) in SERIES.items():
        if name not in record.sweeps:
            continue
        units = dict.fromkeys(one.unit for one in series.values())
        rows, columns = -(-len(units) // 2), min(2, len(units))
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(5.5 * columns, 4 * rows), squeeze=False, layout="constrained"
        )
        for axis, unit in itertools.zip_longest(grid.flat, units):
            if unit is None:
                axis.remove()
                continue
            for key, one in series.items():
                if one.unit == unit:
                    _draw(axis, costs(record.sweeps[name], key), one)
            points = sorted(record.sweeps[name].points)
            axis.set(xscale="log", xlabel=what, ylabel=unit)
            axis.set_xticks(points, [f"{x:,}" for x in points], fontsize=8)
            axis.minorticks_off()
            if axis.lines:  # from 0, so that what is flat looks flat; and with room for the names
                axis.set_ylim(0, 1.4 * axis.get_ylim()[1])
                axis.legend(fontsize=7, loc="upper left")
            axis.grid(alpha=0.3)
        for kind in ("svg",) if out.parent.name == "docs" else ("png", "svg"):
            path = out / f"{name}.{kind}"
            figure.savefig(path, dpi=80, metadata=dict.fromkeys(NAMED[kind]))
            if kind == "svg":  # a file that changes only where the picture does, and ends as files end
                lines = path.read_text(encoding="utf-8").splitlines()
                path.write_text("".join(line.rstrip() + "\n" for line in lines), encoding="utf-8")
            yield path
        pyplot.close(figure)


NAMED = {"svg": ("Creator", "Date", "Format", "Type"), "png": ("Software",)}
"""What matplotlib would say of itself in a file, and is not to."""


def _draw(axis: Any, found: Mapping[int, float], one: Series) -> None:
    if not found:
        return
    (drawn,) = axis.plot(found.keys(), found.values(), marker="o", label=one.title)
    if len(found) > 1:
        line = fit(found, grows=one.grows)
        xs = list(found)
        axis.plot(xs, [line.at(x) for x in xs], linestyle="--", color=drawn.get_color(), lw=0.8)
