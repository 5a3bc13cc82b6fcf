"""The schedule: which fault befalls whom, when and for how long. The same seed gives the same schedule."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SETTLE: Final = 6.0
"""Seconds of peace after a fault that comes by itself."""


class Kind(NamedTuple):
    """A kind of fault. `on`: whom it befalls; a cut befalls the links from `on` to `to`.

    `holds`: the shortest and longest time until it is undone (s).
    """

    what: str
    on: str
    to: str = ""
    holds: tuple[float, float] = (0.5, 8.0)

    def __str__(self) -> str:
        return f"{self.what} {self.on}" + (f" to {self.to}" if self.to else "")


class Fault(NamedTuple):
    """A fault. `target` is a name of the cluster; `at` is in seconds from the schedule's start."""

    at: float
    kind: Kind
    target: str
    to: str
    hold: float
    mode: str = ""
    alone: bool = False

    def __str__(self) -> str:
        link = f" to {self.to} ({self.mode})" if self.to else ""
        return f"{self.kind.what} {self.target}{link}"


_PAUSE: Final = (2.0, 10.0)
KINDS: Final = (
    *(Kind("kill", role) for role in ("access", "logic", "dispatch", "kafka", "consul")),
    *(Kind("pause", role, holds=_PAUSE) for role in ("access", "logic", "dispatch")),
    *(Kind("pause", server, holds=_PAUSE) for server in ("kafka", "redis", "consul")),
    *(Kind("restart", role, holds=(0.0, 1.0)) for role in ("access", "logic", "dispatch")),
    Kind("empty", "redis", holds=(0.0, 4.0)),
    Kind("rewind", "redis", holds=(0.0, 2.0)),
    Kind("flush", "redis", holds=(0.0, 0.0)),
    Kind("cut", "clients", "access"),
    Kind("cut", "dispatch", "access"),
    *(Kind("cut", role, "redis") for role in ("access", "logic", "dispatch")),
    *(Kind("cut", role, "kafka") for role in ("access", "logic", "dispatch", "kafka")),
    Kind("cut", "access", "consul"),
    Kind("cut", "dispatch", "consul"),
)
"""kill: -9, and started again after the hold. pause: SIGSTOP, and SIGCONT. restart: in good order (SIGTERM).
empty: Redis is killed and comes back with nothing. rewind: it comes back as it was a second before. flush:
FLUSHALL."""

MODES: Final = ("reset", "silent", "silent", "one way")


class Plan(NamedTuple):
    """Faults in the order of their beginnings, and when the last one is over (s)."""

    faults: list[Fault]
    seconds: float


def make(seed: int, seconds: float, names: dict[str, Sequence[str]], only: str = "") -> Plan:
    """Return a schedule of about so many seconds; `names`: the processes of each role that there are.

    `only`: the kinds of faults, by how they begin ("kill,cut access to redis"); empty: all.

    Where there is time, each kind of fault comes by itself first, with peace after it. Then (where time is
    short: from the start) they come at any time, each kind at least once, several at a time.
    """
    random = Random(seed)  # noqa: S311 - not a secret
    wanted = tuple(filter(None, only.split(",")))
    kinds = [kind for kind in KINDS if names.get(kind.on) and (not kind.to or _links(kind, names))]
    kinds = [kind for kind in kinds if not wanted or str(kind).startswith(wanted)]
    if not kinds or not seconds:
        return Plan([], 0.0)
    alone = sum(kind.holds[1] / 2 + SETTLE for kind in kinds)
    faults: list[Fault] = []
    at = 0.0
    if seconds >= 2 * alone:
        for kind in kinds:
            fault = _draw(random, kind, at, names)._replace(alone=True)
            faults.append(fault)
            at += fault.hold + SETTLE
    deck = random.sample(kinds, len(kinds))
    left = max(seconds - at, 0.0)
    pace = min(4.0, left / len(kinds))
    busy: dict[str, float] = {}
    while deck or at < seconds - pace:
        deck = deck or random.sample(kinds, len(kinds))
        fault = _draw(random, deck.pop(), at, names)
        # One broker of three may be away, not two; and nobody can be killed who is paused.
        whom = fault.kind.on if fault.kind.on == "kafka" else f"{fault.target} {fault.to}"
        fault = fault._replace(at=max(at, busy.get(whom, 0.0)))
        busy[whom] = fault.at + fault.hold + 1.0
        faults.append(fault)
        at += random.uniform(0.5, 1.5) * pace
    faults.sort()
    return Plan(faults, max((fault.at + fault.hold for fault in faults), default=0.0))


def _links(kind: Kind, names: dict[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(one, other) for one in names[kind.on] for other in names.get(kind.to, ()) if one != other]


def _draw(random: Random, kind: Kind, at: float, names: dict[str, Sequence[str]]) -> Fault:
    hold = round(random.uniform(*kind.holds), 2)
    at = round(at, 2)
    if not kind.to:
        return Fault(at, kind, random.choice(list(names[kind.on])), "", hold)
    source, target = random.choice(_links(kind, names))
    return Fault(at, kind, source, target, hold, random.choice(MODES))


def roles(names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return names by role: `access-0` is of role `access`; `clients` are all clients."""
    found: dict[str, list[str]] = {"clients": ["clients"]}
    for name in names:
        found.setdefault(name.partition("-")[0], []).append(name)
    return dict(found)


def told(plan: Plan) -> Iterator[str]:
    """Yield a plan in words, a fault a line."""
    for fault in plan.faults:
        yield f"{fault.at:8.2f}  {fault}, {fault.hold:.1f} s"
