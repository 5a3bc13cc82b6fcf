"""What is left of a run: a table to look at, a JSON record, and plots."""

from __future__ import annotations

import importlib
import itertools
import statistics
from typing import TYPE_CHECKING, Any

import msgspec

from loadtest.run import Result, histogram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("connect", "ack", "message")

LONG = 300.0
"""Seconds of a run from which on the slope of its memory means something."""


def table(result: Result) -> str:
    """Return the table."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    counts = result.counts
    yield f"{result.title}: {result.connections:,} connections, {result.started}, {result.machine}"
    yield ""
    yield f"{'ms':<10}{'count':>12}{'p50':>10}{'p90':>10}{'p99':>10}{'p99.9':>10}{'max':>10}"
    for kind in KINDS:
        row = result.summaries[kind]
        if row["count"]:
            numbers = "".join(f"{row[name]:>10,.1f}" for name in ("p50", "p90", "p99", "p99.9", "max"))
            yield f"{kind:<10}{row['count']:>12,.0f}{numbers}"
    yield ""
    wanted = counts["expected"] + counts["published"]
    yield (
        f"{counts['sent']:,.0f} sent, {counts['acked']:,.0f} acked, {counts['published']:,.0f} published, "
        f"{counts['messages']:,.0f} of {wanted:,.0f} came; {counts['gaps']:.0f} gaps, "
        f"{counts['doubles']:.0f} doubles, {counts['recovered']:,.0f} channels resumed, "
        f"{counts['unrecovered']:,.0f} not, {counts['resets']:,.0f} resets"
    )
    yield ""
    what, many = "message", max(wanted, 0)
    if not many:
        what, many = "connect", max(result.summaries["connect"]["count"], 1)
    yield f"{'CPU':<10}{'seconds':>12}{'µs a ' + what:>16}{'memory, MiB':>14}"
    memory: dict[str, float] = {}
    for name, size in result.memory.items():
        role = name.rpartition("-")[0] or name
        memory[role] = memory.get(role, 0.0) + size / 1024**2
    for role, spent in result.cpu.items():
        held = f"{memory[role]:>14,.0f}" if role in memory else ""
        yield f"{role:<10}{spent:>12.2f}{spent / many * 1e6:>16.1f}{held}"
    yield ""
    for role, slope in slopes(result).items():
        yield f"memory of {role}: {slope:+,.0f} KiB a minute"
    if slopes(result):
        yield ""
    yield from (f"WRONG: {problem}" for problem in result.problems)
    if not result.problems:
        yield "everything came, once and in order"


def slopes(result: Result) -> dict[str, float]:
    """Return by how many KiB a minute the memory of each role grew (least squares), after the first third.

    Of runs of at least five minutes: in shorter ones it is how the processes settle.
    """
    samples = [one for one in result.samples if one.at > result.samples[-1].at / 3]
    if len(samples) < 2 or samples[-1].at < LONG:
        return {}
    minutes = [one.at / 60 for one in samples]
    return {
        role: statistics.linear_regression(minutes, [one.memory[role] / 1024 for one in samples]).slope
        for role in samples[0].memory
        if all(role in one.memory for one in samples)
    }


def write(result: Result, folder: Path) -> list[Path]:
    """Write the record, and the plots where matplotlib is there; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "result.json"
    record.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    (folder / "table.txt").write_text(table(result) + "\n", encoding="utf-8")
    return [record, folder / "table.txt", *_plots(result, folder)]


def _plots(result: Result, folder: Path) -> Iterator[Path]:
    try:
        importlib.import_module("matplotlib").use("agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return
    figure, (times, rates, cpu) = pyplot.subplots(3, 1, figsize=(9, 12), layout="constrained")
    for kind in KINDS:
        points = [(1 / max(1 - share, 1e-6), ms) for share, ms in histogram(result, kind).curve()]
        if points:
            times.plot(*zip(*points, strict=True), label=kind)
    times.set(xscale="log", yscale="log", ylabel="ms", title=f"{result.title}: how long it took")
    shares = [2, 10, 100, 1000, 10_000, 100_000]
    times.set_xticks(shares, ["50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"])
    times.legend()
    times.grid(alpha=0.3)
    samples = result.samples
    steps = [(one, two) for one, two in itertools.pairwise(samples) if two.at - one.at > 0.05]
    ends = [two.at for _, two in steps]
    for name in ("messages", "sent"):
        rate = [(two.counts[name] - one.counts[name]) / (two.at - one.at) for one, two in steps]
        rates.plot(ends, rate, label=f"{name} a second")
    rates.plot(ends, [two.counts["open"] for _, two in steps], label="open connections", linestyle=":")
    rates.set(xlabel="s", yscale="symlog")
    rates.legend()
    rates.grid(alpha=0.3)
    for role in samples[-1].cpu if samples else ():
        load = [(two.cpu.get(role, 0) - one.cpu.get(role, 0)) / (two.at - one.at) for one, two in steps]
        cpu.plot(ends, [max(value, 0.0) for value in load], label=role)
    cpu.set(xlabel="s", ylabel="cores")
    cpu.legend()
    cpu.grid(alpha=0.3)
    for kind in ("png", "svg"):
        path = folder / f"plots.{kind}"
        figure.savefig(path)
        yield path
    pyplot.close(figure)
