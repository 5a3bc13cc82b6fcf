"""Times in buckets whose width grows with them (HDR): any percentile, to 1/64 of its value, in a few KiB.

The buckets are those of `loadtest/c/crowd.c`: µs, by octave, 64 to each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUB_BITS: Final = 6
SUB: Final = 1 << SUB_BITS


def bucket_of(value: int) -> int:
    """Return the bucket of a time in µs."""
    octave = max(0, value.bit_length() - SUB_BITS)
    return (octave << SUB_BITS) + ((value >> (octave - 1)) - SUB if octave else value)


def lowest_of(bucket: int) -> int:
    """Return the shortest time of a bucket, in µs."""
    octave, part = divmod(bucket, SUB)
    return (part + SUB) << (octave - 1) if octave else part


class Histogram:
    """How often each time was taken. Histograms of several generators add up."""

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self.counts: dict[int, int] = {}
        self.add(counts)

    def add(self, counts: Iterable[tuple[int, int]]) -> None:
        """Add counts by bucket."""
        for bucket, count in counts:
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    @property
    def total(self) -> int:
        """How many times were taken."""
        return sum(self.counts.values())

    def percentile(self, share: float) -> float:
        """Return the ms that `share` (0 to 1) of all did not exceed, to 1/64; 0 where there are none."""
        left = share * self.total
        bucket = 0
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                break
        return (lowest_of(bucket + 1) - 1) / 1000 if self.counts else 0.0

    def curve(self) -> Iterator[tuple[float, float]]:
        """Yield (share of all that took no longer, ms), for a plot."""
        total, seen = self.total, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            yield seen / total, lowest_of(bucket + 1) / 1000

    def summary(self) -> dict[str, float]:
        """Return count and the usual percentiles in ms."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
        return {"count": self.total} | {name: self.percentile(share) for name, share in shares.items()}
