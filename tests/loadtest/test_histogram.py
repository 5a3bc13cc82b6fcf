"""Times in buckets are what they were, to 1/64."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram, bucket_of, lowest_of

times = st.integers(0, 2**40)


@given(times)
def test_a_bucket_holds_what_is_put_into_it(value: int) -> None:
    """A time lies between the ends of its bucket, which is no wider than 1/64 of it."""
    bucket = bucket_of(value)
    low, high = lowest_of(bucket), lowest_of(bucket + 1)
    assert low <= value < high
    assert high - low <= max(1, low / 32)


@given(times, times)
def test_longer_times_never_come_into_lower_buckets(one: int, two: int) -> None:
    """Buckets are in the order of times."""
    assert (bucket_of(one) <= bucket_of(two)) or one > two


@given(st.lists(times, min_size=1, max_size=50), st.floats(0, 1))
def test_percentiles_are_those_of_the_times(values: list[int], share: float) -> None:
    """A percentile is that of the sorted times, to the width of a bucket."""
    histogram = Histogram()
    for value in values:
        histogram.add([(bucket_of(value), 1)])
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    found = histogram.percentile(share) * 1000
    assert exact - 1e-6 <= found + 1e-3 or math.isclose(found, exact, rel_tol=1 / 32)
    assert found <= exact * (1 + 1 / 32) + 1


def test_histograms_add_up() -> None:
    """Those of several generators are one."""
    one, two = Histogram([(5, 2)]), Histogram([(5, 1), (7, 1)])
    one.add(two.counts.items())
    assert one.counts == {5: 3, 7: 1}
    assert one.total == 4
