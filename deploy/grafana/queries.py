"""Expressions that panels have in common."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Query
from deploy.prometheus.alerts import JOBS

BY_NODE: Final = "{{instance}}"


def rate(metric: str, by: str = "", more: str = "") -> str:
    """Return the rate of a counter, summed up by the labels `by`."""
    group = f"sum by ({by})" if by else "sum"
    selector = ", ".join(part for part in ("SELECT", more) if part)
    return f"{group} (rate(holdfast_{metric}{{{selector}}}[$__rate_interval]))"


def total(metric: str, by: str = "", more: str = "") -> str:
    """Return a gauge, summed up by the labels `by`."""
    group = f"sum by ({by})" if by else "sum"
    selector = ", ".join(part for part in ("SELECT", more) if part)
    return f"{group} (holdfast_{metric}{{{selector}}})"


def quantiles(metric: str, more: str = "") -> tuple[Query, ...]:
    """Return the quantiles of a histogram."""
    buckets = rate(f"{metric}_bucket", "le", more)
    return tuple(
        Query(f"histogram_quantile({quantile}, {buckets})", name)
        for quantile, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )


def lines(expression: str, legend: str) -> tuple[Query, ...]:
    """Return the one query of a panel."""
    return (Query(expression, legend),)


ACCESS, LOGIC, DISPATCH = (f'job="{job}"' for job in JOBS.values())
"""Select the processes of a role. All have all metrics, which are 0 where they are of another one."""

HERE: Final = f'{ACCESS}, instance=~"$instance"'
