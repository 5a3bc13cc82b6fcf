"""The instruments of one thread say what prometheus-client's own would."""

from __future__ import annotations

from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from holdfast.observe import instruments

BUCKETS = (0.001, 0.25, 1.0, 10.0)
AMOUNTS = st.lists(st.sampled_from((*BUCKETS, 0.0, -1.0)) | st.floats(-1e6, 1e6))


def scrape(made_by: Any, amounts: list[float]) -> bytes:
    """Return what a scrape says after these amounts, with instruments of a module."""
    registry = CollectorRegistry()
    labelled = {"labelnames": ("how",), "registry": registry}
    seen = made_by.Histogram("seen_seconds", "seen", buckets=BUCKETS, **labelled).labels("so")
    plain = made_by.Histogram("plain_seconds", "plain", buckets=BUCKETS, registry=registry)
    sums = made_by.Counter("sums", "sums", **labelled).labels("so")
    counts = made_by.Counter("counts", "counts", registry=registry)
    levels = made_by.Gauge("levels", "levels", **labelled).labels("so")
    last = made_by.Gauge("last", "last", registry=registry)
    for amount in amounts:
        seen.observe(amount)
        plain.observe(amount)
        sums.inc(abs(amount))
        counts.inc()
        levels.inc(amount)
        levels.dec(amount / 2)
        last.inc()
        last.set(amount)
        last.dec()
    lines = generate_latest(registry).splitlines()
    return b"\n".join(line for line in lines if b"_created" not in line)


@given(AMOUNTS)
def test_the_same(amounts: list[float]) -> None:
    """Any amounts: the same series with the same values, on the bounds of buckets, too."""
    assert scrape(instruments, amounts) == scrape(prometheus_client, amounts)


def test_only_up() -> None:
    """A counter refuses to go down."""
    with pytest.raises(ValueError, match="up"):
        instruments.Counter("counts", "counts", registry=None).inc(-1)
