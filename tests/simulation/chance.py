"""All that is random follows from the seed: the modules that services draw from are replaced for a run."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import time
from typing import TYPE_CHECKING, Any

from holdfast import ids

if TYPE_CHECKING:
    from collections.abc import Iterator

_original_init = random.Random.__init__


class _Slices:
    """Stands for `time` where code asks how long its slice already takes: sometimes, for too long."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._now = 0.0

    def perf_counter(self) -> float:
        self._now += 0.0001 if self._random.random() < 0.9 else 0.01
        return self._now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextlib.contextmanager
def seeded(seed: str) -> Iterator[None]:
    """Let `random`, `secrets`, `uuid` and `os.urandom` draw from the seed, and sets keep their order."""
    from services.access.driver import Driver

    fanout: Any = importlib.import_module("services.access.fanout")
    inflow: Any = importlib.import_module("services.access.inflow")
    outbox: Any = importlib.import_module("services.access.outbox")
    timers: Any = importlib.import_module("services.access.timers")
    turns: Any = importlib.import_module("services.access.turns")

    source = random.Random(f"{seed}/urandom")
    kept = (
        os.urandom,
        random._urandom,  # type: ignore[attr-defined]
        random.getstate(),
        fanout.time,
        timers.time,
        inflow.time,
        outbox.time,
        turns.STEPS,
    )
    slices: Any = _Slices(random.Random(f"{seed}/slices"))

    def init(self: random.Random, x: Any = None) -> None:
        _original_init(self, source.getrandbits(64) if x is None else x)

    def number(self: Driver) -> int:
        return self.number

    ids.forget()
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]
    random.Random.__init__ = init  # type: ignore[method-assign]
    random.seed(f"{seed}/module")
    fanout.time = timers.time = inflow.time = outbox.time = slices
    turns.STEPS = random.Random(f"{seed}/turns").choice((1, 4, turns.STEPS))
    Driver.__hash__ = number  # type: ignore[assignment]  # sets of connections: not by address
    try:
        yield
    finally:
        ids.forget()  # they could be guessed
        os.urandom, random._urandom = kept[0], kept[1]  # type: ignore[attr-defined]
        random.Random.__init__ = _original_init  # type: ignore[method-assign]
        random.setstate(kept[2])
        fanout.time, timers.time, inflow.time, outbox.time, turns.STEPS = kept[3:]
        Driver.__hash__ = object.__hash__  # type: ignore[method-assign]
