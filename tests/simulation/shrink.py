"""From a failing plan to a small one: fewer faults, people, sends and seconds, as long as it still fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from tests.simulation.run import Result, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.plan import Plan

MOST_RUNS: Final = 150


def shrink(plan: Plan, most_runs: int = MOST_RUNS) -> Plan:
    """Return the smallest plan found that still violates one of the invariants that `plan` does."""
    wanted = {violation.invariant for violation in simulate(plan).violations}
    runs = 0
    improved = True
    while improved:
        improved = False
        for smaller in _smaller(plan):
            runs += 1
            if runs > most_runs:
                return plan
            if _fails(simulate(smaller), wanted):
                plan, improved = smaller, True
                break
    return plan


def _fails(result: Result, wanted: set[int]) -> bool:
    return any(violation.invariant in wanted for violation in result.violations)


def _smaller(plan: Plan) -> Iterator[Plan]:
    def but(**fields: object) -> Plan:
        return msgspec.structs.replace(plan, **fields)

    faults = plan.faults
    if len(faults) > 2:
        yield but(faults=faults[: len(faults) // 2])
        yield but(faults=faults[len(faults) // 2 :])
    for index in range(len(faults)):
        yield but(faults=faults[:index] + faults[index + 1 :])
    for name in plan.uses:
        yield but(uses=tuple(use for use in plan.uses if use != name))
    named = {who for fault in faults for who in fault.names}
    for count in (plan.people // 2, plan.people - 1):
        if count and not any(f"phone-{number}" in named for number in range(count + 1, plan.people + 1)):
            yield but(people=count)
    if plan.publishes:
        yield but(publishes=0)
    if plan.sends > 1:
        yield but(sends=plan.sends // 2)
    for name, least in (("access", 1), ("logic", 1), ("dispatch", 1), ("partitions", 1)):
        if getattr(plan, name) > least:
            count = getattr(plan, name) - 1
            if f"{name}-{count + 1}" not in named:
                yield but(**{name: count})
    last = max((fault.at + fault.seconds for fault in faults), default=0.0)
    if plan.seconds > 1.5 * max(last, 1.0):
        yield but(seconds=plan.seconds / 2)
