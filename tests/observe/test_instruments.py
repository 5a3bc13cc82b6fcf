"""The counters and histograms of one thread say what prometheus-client's own would."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from holdfast.observe import instruments

BUCKETS = (0.001, 0.25, 1.0, 10.0)
AMOUNTS = st.lists(st.sampled_from((*BUCKETS, 0.0, -1.0)) | st.floats(-1e6, 1e6))


def text(
    counter: type[prometheus_client.Counter],
    histogram: type[prometheus_client.Histogram],
    amounts: list[float],
) -> bytes:
    """Return what a scrape says after these amounts."""
    registry = CollectorRegistry()
    seen = histogram("seen_seconds", "seen", ("how",), registry=registry, buckets=BUCKETS)
    plain = histogram("plain_seconds", "plain", registry=registry, buckets=BUCKETS)
    sums = counter("sums", "sums", ("how",), registry=registry)
    counts = counter("counts", "counts", registry=registry)
    for amount in amounts:
        seen.labels("so").observe(amount)
        plain.observe(amount)
        sums.labels("so").inc(abs(amount))
        counts.inc()
    lines = generate_latest(registry).splitlines()
    return b"\n".join(line for line in lines if b"_created" not in line)


@given(AMOUNTS)
def test_the_same(amounts: list[float]) -> None:
    """Any amounts: the same series with the same values, on the bounds of buckets, too."""
    ours = text(instruments.Counter, instruments.Histogram, amounts)
    assert ours == text(prometheus_client.Counter, prometheus_client.Histogram, amounts)


def test_only_up() -> None:
    """A counter refuses to go down."""
    with pytest.raises(ValueError, match="up"):
        instruments.Counter("counts", "counts", registry=None).inc(-1)
