"""What a topic holds at this moment, for who looks at it and belongs to no group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.bus.port import OffsetLost
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from holdfast.bus.port import Bus, Record, Topic
    from holdfast.clock import Clock

BATCH: Final = 500
"""Records of one fetch, at most."""

PATIENCE: Final = 10.0
"""Seconds without a record until reading is given up."""


async def read(
    bus: Bus, clock: Clock, topic: Topic, spans: Mapping[int, tuple[int, int]]
) -> AsyncGenerator[Sequence[Record], None]:
    """Yield the records of each partition from the first of its two offsets to the one before the second.

    One partition's at a time, in its order; some that came later may be among them. What retention takes away
    meanwhile is passed over. Who ends early closes the generator (`contextlib.aclosing`), and with it the
    reader. Raises Retry.
    """
    left = {partition: end for partition, (start, end) in spans.items() if start < end}
    if not left:
        return
    reader = await bus.reader(topic)
    try:
        reader.assign({partition: spans[partition][0] for partition in left})
        heard = clock.monotonic()
        while left:
            try:
                batches = await reader.fetch(BATCH, 0.5)
            except OffsetLost as lost:
                reader.seek(lost.partition, lost.start)  # retention was faster
                if lost.start >= left.get(lost.partition, 0):
                    left.pop(lost.partition, None)
                continue
            now = clock.monotonic()
            if batches:
                heard = now
            elif now - heard > PATIENCE:
                raise Retry(f"{topic}: partitions {sorted(left)} cannot be read to their end")
            for partition, batch in batches.items():
                yield batch
                if batch and batch[-1].offset + 1 >= left.get(partition, 0):
                    left.pop(partition, None)
    finally:
        await reader.close()
