"""When which alert was pending or fired, from Prometheus's own record of it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from deploy.prometheus.api import query_range

_STEPS: Final = 600


class Spell(NamedTuple):
    """One alert in one state, from `begin` to `end` (Unix seconds).

    `pending`: its expression is true, and not yet for as long as the alert waits. Some names are those
    of a page and of a ticket.
    """

    name: str
    severity: Literal["page", "ticket"]
    state: Literal["pending", "firing"]
    begin: float
    end: float

    @property
    def label(self) -> str:
        """Names the alert."""
        return f"{self.name} ({self.severity})"


def spells(address: str, start: float, end: float) -> list[Spell]:
    """Return the spells of Holdfast's alerts, in the order in which the alerts began."""
    step = max((end - start) / _STEPS, 1.0)
    expression = 'max by (alertname, alertstate, severity) (ALERTS{alertname=~"Holdfast.+"})'
    found: list[Spell] = []
    for series in query_range(address, expression, start, end, step):
        about = series["metric"]
        kind = (about["alertname"], about.get("severity", ""), about["alertstate"])
        times = [float(at) for at, _ in series["values"]]
        begin = before = times[0]
        for at in [*times[1:], float("inf")]:
            if at - before > 1.5 * step:
                found.append(Spell(*kind, begin, min(before + step, end)))
                begin = at
            before = at
    first: dict[tuple[str, str], float] = {}
    for spell in found:
        first[spell[:2]] = min(spell.begin, first.get(spell[:2], spell.begin))
    return sorted(found, key=lambda spell: (first[spell[:2]], spell[:2], spell.begin))
