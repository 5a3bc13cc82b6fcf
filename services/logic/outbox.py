"""Where outputs leave: one producer, and the rule that nothing follows what failed (invariant 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.records import encode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from holdfast.bus.port import Producer, Topic
    from holdfast.observe.tracing import Span
    from holdfast.records import Outbound


class Withheld(Exception):  # noqa: N818 - it is no error: what is withheld is handled again
    """An earlier output failed: this one must not be written before that one is."""


class Outbox:
    """Writes to outbound and to the dead letters until something fails, and then nothing until `reset`.

    A producer writes the records of a partition as prefixes without gaps, so a failure shows in the last
    record written to a partition: looking at that one before each write is enough to never write behind a
    gap, even in the moment between the failure and the turn of whoever waits for it.
    """

    def __init__(self, producer: Producer, partitions: int) -> None:
        self._producer = producer
        self._partitions = partitions
        self._last: dict[tuple[Topic, int], asyncio.Future[int]] = {}
        self._broken = False

    def put(self, record: Outbound, span: Span | None = None) -> asyncio.Future[int]:
        """Put a record on its way to outbound. Raises Withheld after a failure, Reject if it is too large.

        `span` is the step that caused the record, where it is followed.
        """
        channel = record.channel
        partition = partition_of(channel, self._partitions)
        if span is None:
            return self._put("outbound", partition, channel.encode(), encode(record))
        written = span.follow("logic publish", partition=str(partition))
        future = self._put("outbound", partition, channel.encode(), encode(record), written.headers)
        future.add_done_callback(written.settled)
        return future

    def put_dead(
        self, partition: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> asyncio.Future[int]:
        """Put a dead letter on its way. Raises as `put`."""
        return self._put("dead", partition, key, value, headers)

    def _put(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[int]:
        place = (topic, partition)
        last = self._last.get(place)
        if self._broken or (last is not None and last.done() and last.exception() is not None):
            self._broken = True
            raise Withheld
        try:
            future = self._producer.produce(topic, partition, key, value, headers)
        except Retry:
            self._broken = True
            raise Withheld from None
        self._last[place] = future
        return future

    @property
    def crowded(self) -> bool:
        """Whether what a handler would put out may find no room, which would break everything in hand."""
        return self._producer.crowded

    def failed(self) -> bool:
        """Tell whether something failed since the last `reset`."""
        if not self._broken:
            self._broken = any(
                last.done() and (last.cancelled() or last.exception() is not None)
                for last in self._last.values()
            )
        return self._broken

    def reset(self) -> None:
        """Write again. Whoever calls this handles everything again from the first failure on."""
        self._last.clear()
        self._broken = False

    async def close(self) -> None:
        """Wait for what is pending, up to the producer's deadline."""
        await self._producer.close()
