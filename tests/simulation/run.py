"""One run of a plan, from its beginning to the last of what it left behind."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web_app

from tests.simulation import chance
from tests.simulation.loop import Deadlock, Livelock
from tests.simulation.world import RECALL, World

if TYPE_CHECKING:
    from tests.simulation.ledger import Violation
    from tests.simulation.plan import Plan


@dataclass(frozen=True)
class Result:
    """What a run was: `trace` is the same for the same seed."""

    plan: Plan
    violations: tuple[Violation, ...]
    trace: int
    seconds: float
    turns: int
    counts: dict[str, int]
    history: tuple[str, ...] = field(default=(), repr=False)


def simulate(plan: Plan, *, keep: bool = False) -> Result:
    """Run a plan. `keep` the history and all that is logged: it takes longer."""
    if sys.flags.hash_randomization and not _fixed_hash():
        raise RuntimeError("run with PYTHONHASHSEED=0: the order of sets follows from it")
    with chance.seeded(str(plan.seed)):
        gc.disable()
        world = World(plan, keep=keep)
        root = logging.getLogger()
        level = root.level
        root.addHandler(world._handler)
        root.setLevel(logging.DEBUG if keep else logging.ERROR)
        logging.getLogger(RECALL).setLevel(logging.DEBUG if keep else logging.WARNING)
        try:
            world.loop.run_until_complete(world.run())
        except (Deadlock, Livelock) as error:
            world.ledger.violated(7, f"{type(error).__name__}: {error}")
        finally:
            root.removeHandler(world._handler)
            root.setLevel(level)
            world.loop.close()
        ledger = world.ledger
        result = Result(
            plan,
            tuple(ledger.violations),
            hash((world.loop.trace, tuple(sorted(ledger.counts.items())))),
            world.loop.now,
            world.loop.turns,
            dict(ledger.counts),
            tuple(ledger.history),
        )
        _bury(world)
        return result


def _fixed_hash() -> bool:

    return os.environ.get("PYTHONHASHSEED") == "0"


def _bury(world: World) -> None:
    """Let go of a run: what its unfinished code does on the way out concerns nobody."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    logging.disable()
    try:
        warnings.simplefilter("ignore", RuntimeWarning)  # tasks of the dead that never had a turn
        world.loop._tasks.clear()
        world.__dict__.clear()
        for kept in vars(web_app).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()  # it would keep the runs' API servers, and with them everything
        gc.enable()
        gc.collect()
    finally:
        logging.disable(logging.NOTSET)
        sys.unraisablehook = hook
