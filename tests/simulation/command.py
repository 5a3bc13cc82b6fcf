"""The command: replay one seed, or search many on all cores."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.plan import CLASSES, DEFAULT, draw
from tests.simulation.run import Result, simulate
from tests.simulation.search import ROOT, search, summary
from tests.simulation.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Return 1 where an invariant was violated."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="The whole cluster in one process, from a seed."
    )
    parser.add_argument("--seed", type=int, help="replay this one; a failing one is made smaller and told")
    parser.add_argument("--seeds", type=int, default=0, help="search as many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument(
        "--faults",
        default="",
        help=f"of {','.join(CLASSES)}; all; none. As a rule {','.join(sorted(DEFAULT))}",
    )
    parser.add_argument("--no-shrink", action="store_true", help="replay it as it is")
    parser.add_argument("--again", action="store_true", help="forget how far an earlier search got")
    parser.add_argument("-v", "--verbose", action="store_true", help="the whole history, and what was logged")
    options = parser.parse_args(arguments)
    classes = chosen(options.faults)
    if options.seed is not None:
        return replay(options.seed, classes, small=not options.no_shrink, verbose=options.verbose)
    file = progress_file()
    if options.again:
        file.unlink(missing_ok=True)
    found = search(options.first, options.seeds, classes, file, _say)
    _say(f"{options.seeds} seeds, {len(found.failing)} failing, {summary(found)}")
    _say(", ".join(f"{name} {number}" for name, number in sorted(found.counts.items())))
    for seed, violation in found.failing.items():
        _say(f"  --seed {seed}: {violation}")
    return 1 if found.failing else 0


def chosen(text: str) -> frozenset[str]:
    """Return the classes of faults that a text names. Raises SystemExit for one that does not exist."""
    if text in ("", "none"):
        return DEFAULT if not text else frozenset()
    named = frozenset(text.split(","))
    if unknown := named - set(CLASSES):
        raise SystemExit(f"no such faults: {', '.join(sorted(unknown))}; there are {', '.join(CLASSES)}")
    return named


def progress_file() -> Path:
    """Return where a search keeps how far it got."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) / "holdfast" if state else ROOT / "run") / "simulation.json"


def replay(seed: int, classes: frozenset[str], *, small: bool, verbose: bool) -> int:
    """Run one seed; where it fails, find a smaller plan that does, and tell what happened in it."""
    plan = draw(seed, classes)
    began = time.monotonic()
    result = simulate(plan)
    took = time.monotonic() - began
    if result.violations and small:
        _say(f"seed {seed}: {len(result.violations)} violations, the first: {result.violations[0]}")
        _say("making it smaller")
        plan = shrink(plan)
    if verbose or result.violations:
        result = simulate(plan, keep=True)
    _report(result, took, verbose=verbose)
    return 1 if result.violations else 0


def _report(result: Result, took: float, *, verbose: bool) -> None:
    for line in result.history:
        if verbose or " DEBUG " not in line:
            _say(line)
    _say(str(result.plan))
    for fault in result.plan.faults:
        _say(f"  {fault}")
    for violation in result.violations[:20]:
        _say(str(violation))
    _say(
        f"seed {result.plan.seed}: {len(result.violations)} violations, {result.seconds:.1f} simulated s, "
        f"{took:.2f} s, {result.turns} callbacks, {result.counts}, "
        f"trace {result.trace & 0xFFFFFFFFFFFFFFFF:016x}"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
