"""Many seeds on all cores, with a file that says how far it got."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.simulation.plan import draw
from tests.simulation.run import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
SAVE_EVERY: Final = 5.0


class Found(msgspec.Struct):
    """What a search has found. `code` tells of which sources; `failing`: seed to its first violation."""

    code: str
    faults: str
    next: int = 0
    seconds: float = 0.0
    simulated: float = 0.0
    counts: dict[str, int] = {}
    failing: dict[int, str] = {}


class One(msgspec.Struct):
    """One seed's outcome."""

    seed: int
    trace: int
    simulated: float
    counts: dict[str, int]
    violations: list[str]


def run(job: tuple[int, frozenset[str]]) -> One:
    """Run one seed."""
    seed, classes = job
    result = simulate(draw(seed, classes))
    return One(seed, result.trace, result.seconds, result.counts, [str(one) for one in result.violations])


def sources() -> str:
    """Return a checksum of everything that a run depends on."""
    digest = hashlib.blake2b(digest_size=12)
    for folder in ("holdfast", "services", "tests/simulation"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def many(seeds: Sequence[int], classes: frozenset[str], workers: int | None = None) -> Iterator[One]:
    """Yield the outcome of each seed, in order."""
    count = workers or os.cpu_count() or 1
    jobs = ((seed, classes) for seed in seeds)
    if count == 1:
        yield from map(run, jobs)
        return
    # Forked: the imports are there, and the order of sets is this process's. Replaced now and then, so that
    # what runs leave behind does not grow.
    context = multiprocessing.get_context("fork")
    with context.Pool(count, _ignore_interrupt, maxtasksperchild=200) as pool:
        yield from pool.imap(run, jobs, chunksize=5)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def search(
    first: int, count: int, classes: frozenset[str], file: Path | None, tell: Callable[[str], object]
) -> Found:
    """Run `count` seeds from `first` on, but those that `file` says were run with the same sources."""
    found = Found(sources(), ",".join(sorted(classes)), first)
    if file is not None and file.exists():
        before = msgspec.json.decode(file.read_bytes(), type=Found)
        if (before.code, before.faults) == (found.code, found.faults) and before.next >= first:
            found = before
            tell(f"going on at seed {found.next}, after {len(found.failing)} failing ones")
    began = saved = time.monotonic()
    offset = found.seconds
    try:
        for one in many(range(found.next, first + count), classes):
            found.next = one.seed + 1
            found.simulated += one.simulated
            for name, number in one.counts.items():
                found.counts[name] = found.counts.get(name, 0) + number
            if one.violations:
                found.failing[one.seed] = one.violations[0]
                tell(f"seed {one.seed}: {one.violations[0]}")
            now = time.monotonic()
            found.seconds = offset + now - began
            if file is not None and now - saved > SAVE_EVERY:
                saved = now
                _save(file, found)
                tell(f"{found.next - first} seeds, {len(found.failing)} failing, {summary(found)}")
    except KeyboardInterrupt:
        tell(f"stopped before seed {found.next}; the same command goes on there")
    if file is not None:
        _save(file, found)
    return found


def _save(file: Path, found: Found) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.encode(found))
    unfinished.replace(file)


def summary(found: Found) -> str:
    """Return the numbers of a search."""
    took = max(found.seconds, 0.001)
    return f"{found.simulated:.0f} simulated s in {took:.0f} s ({found.simulated / took:.0f} a second)"
