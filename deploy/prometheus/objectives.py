"""Service level objectives, and alerts on how fast their error budgets burn.

Two windows each: the long one says that it matters, the short one that it goes on. A budget of 30 days burns
14.4 times too fast when 2 % of it go in an hour, 6 times when 5 % go in 6 hours, 3 times when 10 % go in a
day, just fast enough when 10 % go in three.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from deploy.prometheus.alerts import Alert


class Objective(NamedTuple):
    """Of the events `total`, the share `target` is not `bad`; both are rates over `{window}`."""

    name: str
    alert: str
    target: float
    bad: str
    total: str
    about: str


class Burn(NamedTuple):
    """One pair of windows."""

    severity: Literal["page", "ticket"]
    long: str
    short: str
    factor: float


BURNS: Final = (
    Burn("page", "1h", "5m", 14.4),
    Burn("page", "6h", "30m", 6.0),
    Burn("ticket", "1d", "2h", 3.0),
    Burn("ticket", "3d", "6h", 1.0),
)
HOLD: Final = {"page": "2m", "ticket": "15m"}
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

OBJECTIVES: Final = (
    Objective(
        "delivery",
        "HoldfastDeliverySlow",
        0.999,
        "sum by (namespace) (rate(holdfast_access_delivery_seconds_count[{window}])) "
        '- sum by (namespace) (rate(holdfast_access_delivery_seconds_bucket{{le="0.5"}}[{window}]))',
        "sum by (namespace) (rate(holdfast_access_delivery_seconds_count[{window}]))",
        "messages reach connected clients within 0.5 s of being published",
    ),
    Objective(
        "acked",
        "HoldfastSendsUnacked",
        0.9995,
        'sum by (namespace) (rate(holdfast_access_errors_total{{code="unavailable"}}[{window}]))',
        'sum by (namespace) (rate(holdfast_access_frames_in_total{{frame=~"send|request"}}[{window}]))',
        "sends are acked, and requests answered, instead of ending in `unavailable`",
    ),
    Objective(
        "connects",
        "HoldfastConnectsRefused",
        0.999,
        "sum by (namespace) "
        '(rate(holdfast_access_refused_total{{reason=~"connections|overloaded|unavailable"}}[{window}]))',
        'sum by (namespace) (rate(holdfast_access_frames_in_total{{frame="connect"}}[{window}]))',
        "connects are accepted, but for those whose client did something wrong",
    ),
)


def ratio(objective: Objective, window: str) -> str:
    """Return the name of the recorded share of bad events."""
    return f"namespace:holdfast_{objective.name}_errors:ratio_rate{window}"


def recordings() -> list[tuple[str, str]]:
    """Return (record, expression) of every window of every objective.

    Without events there is no budget to burn: the ratio is 0 then, not unknown. Bad events and no others (all
    refused before a frame came) are a ratio of 1.
    """
    found = []
    for objective in OBJECTIVES:
        for window in WINDOWS:
            bad, total = (text.format(window=window) for text in (objective.bad, objective.total))
            share = f"clamp_max(({bad}) / (({total}) > 0), 1)"
            only_bad, nothing = f"(({bad}) > 0) * 0 + 1", f"({total}) * 0"
            found.append((ratio(objective, window), f"{share} or {only_bad} or {nothing}"))
    return found


def alerts() -> list[Alert]:
    """Return the alerts on burn rates: for each objective one that pages and one that does not."""
    return [_alert(objective, severity) for objective in OBJECTIVES for severity in ("page", "ticket")]


def _alert(objective: Objective, severity: Literal["page", "ticket"]) -> Alert:
    burns = [burn for burn in BURNS if burn.severity == severity]
    pairs = []
    for burn in burns:
        allowed = f"{burn.factor:g} * {1 - objective.target:.6g}"
        pairs.append(
            f"({ratio(objective, burn.long)} > {allowed} and {ratio(objective, burn.short)} > {allowed})"
        )
    summary = (
        f"Objective in danger: {objective.target:.2%} of {objective.about}. "
        f"The error budget of 30 days burns more than {burns[-1].factor:g} times too fast."
    )
    return Alert(objective.alert, severity, HOLD[severity], " or ".join(pairs), summary)
