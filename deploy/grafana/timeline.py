"""When which alert was pending or fired, from Prometheus's own record of it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from deploy.prometheus.api import query_range

_STEPS: Final = 600


class Spell(NamedTuple):
    """One alert in one state, from `begin` to `end` (Unix seconds).

    `pending`: its expression is true, and not yet for as long as the alert waits.
    """

    name: str
    state: Literal["pending", "firing"]
    begin: float
    end: float


def spells(address: str, start: float, end: float) -> list[Spell]:
    """Return the spells of Holdfast's alerts, in the order in which the alerts began."""
    step = max((end - start) / _STEPS, 1.0)
    expression = 'max by (alertname, alertstate) (ALERTS{alertname=~"Holdfast.+"})'
    found: list[Spell] = []
    for series in query_range(address, expression, start, end, step):
        name, state = series["metric"]["alertname"], series["metric"]["alertstate"]
        times = [float(at) for at, _ in series["values"]]
        begin = before = times[0]
        for at in [*times[1:], float("inf")]:
            if at - before > 1.5 * step:
                found.append(Spell(name, state, begin, min(before + step, end)))
                begin = at
            before = at
    first: dict[str, float] = {}
    for spell in found:
        first[spell.name] = min(spell.begin, first.get(spell.name, spell.begin))
    return sorted(found, key=lambda spell: (first[spell.name], spell.name, spell.begin))
