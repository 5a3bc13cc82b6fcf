"""The bus port: topics of partitions of records, as Kafka has them.

Adapters: `holdfast.bus.memory`, `holdfast.bus.kafka`. Contract: `tests/contracts/test_bus.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

Topic = Literal["inbound", "outbound", "state", "dead"]
"""Logical topics; an adapter maps them to names (`holdfast.inbound`, …)."""

TOPICS: Final[tuple[Topic, ...]] = ("inbound", "outbound", "state", "dead")

MAX_RECORD: Final = 900_000
"""Bytes of a record (key, value and headers) at most: what a broker takes by default, less its framing."""


MAX_NOTE: Final = 900
"""Bytes of a note that is stored with an offset, at most; brokers take 4096 by default."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as consumed. `ts` is the broker's append time (LogAppendTime), Unix ms."""

    partition: int
    offset: int
    ts: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Producer(Protocol):
    """Writes records with acks=all, each (topic, partition) in order.

    After any failure everything that is pending fails with Retry and the adapter replaces what is beneath
    (invariant 12), so within one Producer the records of a partition are written as prefixes without gaps.
    """

    def produce(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[int]:
        """Put one record on its way; the future gives its offset once it is durable.

        The future fails with Retry when the outcome is unknown at the producer's deadline. Raises Retry at
        once, writing nothing, when the producer's buffer is full (its bound, in records and bytes), and
        Reject(`too_large`) for a record above `MAX_RECORD`. A future that nobody looks at fails in silence:
        the failure is counted.
        """

    @property
    def crowded(self) -> bool:
        """Whether half of the buffer is taken: who can wait should, before it is full."""

    async def close(self) -> None:
        """Wait for what is pending (up to the deadline), then release everything."""


class Consumer(Protocol):
    """Reads partitions. Not for concurrent use: one task calls `fetch`."""

    async def fetch(self, max_records: int, timeout: float) -> Mapping[int, Sequence[Record]]:
        """Return records by partition, at most `max_records` of each, waiting `timeout` s for the first.

        Raises OffsetLost when a position is not in the log (again and again, until a `seek`). While the bus
        is away it raises Retry or returns nothing.
        """

    def assigned(self) -> Sequence[int]:
        """Return the partitions that this consumer reads now."""

    def assign(self, positions: Mapping[int, int]) -> None:
        """Read just these partitions, each from the given offset on. Only for consumers without a group."""

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading a partition from `offset`. Records fetched before may not be returned afterwards."""

    def pause(self, partition: int) -> None:
        """Return nothing from this partition until it is resumed."""

    def resume(self, partition: int) -> None:
        """Undo `pause`."""

    async def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> None:
        """Store, for the group id, the offset to go on from. Raises Retry.

        `notes` are stored with them: words (ASCII, at most MAX_NOTE bytes) for who asks for `Bus.progress`.
        """

    async def close(self) -> None:
        """Leave the group and release everything. `on_revoked` is not called: commit before."""


class OffsetLost(Exception):  # noqa: N818
    """The position asked for is not (or no longer) in the log: `start` is its first offset, `end` its end."""

    def __init__(self, partition: int, position: int, start: int, end: int) -> None:
        super().__init__(
            f"partition {partition}: position {position} is outside the log, which spans {start} to {end}"
        )
        self.partition = partition
        self.position = position
        self.start = start
        self.end = end


class Progress(NamedTuple):
    """How far a group is in a partition: where it would go on, the log's end, and what it noted there."""

    position: int
    end: int
    note: str = ""


def between(
    committed: Mapping[int, int], notes: Mapping[int, str], ends: Mapping[int, tuple[int, int]]
) -> Mapping[int, Progress]:
    """Return what `Bus.progress` does, from what a group committed and (first offset, end offset)."""
    return {
        p: Progress(min(max(committed.get(p, start), start), end), end, notes.get(p, ""))
        for p, (start, end) in ends.items()
    }


class Bus(Protocol):
    """A connection to the message queue."""

    partitions: int

    async def start(self) -> None:
        """Connect; create missing topics where configured.

        Raises Stop when a topic breaks a promise (partition count, timestamp type), Retry while the bus is
        away.
        """

    async def close(self) -> None:
        """Release everything that is not a producer or consumer of its own."""

    async def producer(self, *, deadline: float) -> Producer:
        """Return a new producer; `deadline` (s) is when an unanswered record fails with Retry."""

    async def join_group(
        self,
        topic: Topic,
        group: str,
        *,
        on_assigned: Callable[[Sequence[int]], Awaitable[None]],
        on_revoked: Callable[[Sequence[int]], Awaitable[None]],
    ) -> Consumer:
        """Return a consumer whose partitions the group decides; it starts at the committed offsets.

        `on_revoked` ends before another member gets the partitions; both may await.
        """

    async def reader(self, topic: Topic, group: str = "") -> Consumer:
        """Return a consumer without rebalance: the caller says which partitions (`assign`).

        `group` is only where `commit` stores offsets, for `progress`.
        """

    async def ends(self, topic: Topic) -> Mapping[int, tuple[int, int]]:
        """Return (first offset, end offset) of each partition. Raises Retry."""

    async def progress(self, topic: Topic, group: str) -> Mapping[int, Progress]:
        """Return of each partition where a group would go on, and the log's end.

        The position is what the group committed last: what it has finished since then counts as unfinished.
        It is the log's first offset where the group committed nothing, or an offset that is gone since then,
        and never above the end; `end - position` is how many records the group is behind. One request to the
        group's coordinator and two to each broker, for all partitions together. Raises Retry.
        """

    async def offset_at(self, topic: Topic, partition: int, ts: int) -> int:
        """Return the first offset whose record has time `ts` (Unix ms) or later; the end where none has.

        Raises Retry.
        """

    async def healthy(self) -> bool:
        """Tell whether the bus answers now; never raises, takes at most a second."""
