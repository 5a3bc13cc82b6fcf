"""What is in hand of one partition: records in order, senders with something to wait for, the commit."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from holdfast.app.app import Handler
    from holdfast.bus.port import Record
    from holdfast.records import Inbound, SessionEvent

RECENT: Final = 10_000
"""Session events of one partition that are remembered, at most; the oldest is forgotten."""


TIMED: Final = 8
"""One record in so many is timed (`Partition.timed`): a late crowd weighs as a crowd."""


class Item:
    """One inbound record until it is committed.

    `outputs` is None until the record was handled, then the futures of what it caused. `handlers` run one
    after the other; without any it is passed on, once `verdict` (None: not known yet) is there: the code it
    is refused with, or "".
    """

    __slots__ = ("attempt", "handlers", "outputs", "record", "verdict", "what")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.what: Inbound | None = None
        self.handlers: Sequence[Handler] = ()
        self.verdict: str | None = ""
        self.attempt = 0
        self.outputs: Sequence[asyncio.Future[int]] | None = None


def _durable(outputs: Sequence[asyncio.Future[int]]) -> bool:
    for output in outputs:  # noqa: SIM110 - a generator costs three times as much, for each message
        if not output.done() or output.exception() is not None:
            return False
    return True


class Lane:
    """A sender's records that wait, in order. `busy`: its first one is being handled, or will be again."""

    __slots__ = ("busy", "crowding", "part", "queue", "user")

    def __init__(self, part: Partition, user: str) -> None:
        self.part = part
        self.user = user
        self.queue: deque[Item] = deque()
        self.busy = False
        self.crowding = False


class Partition:
    """One partition for as long as it is this worker's, or until its outputs failed.

    `live` is the fence: once it is False nothing of this partition is released any more (invariant 8). The
    same partition assigned again, or handled again after a failure, is a new object.
    """

    __slots__ = (
        "closing",
        "committed",
        "items",
        "lanes",
        "live",
        "noted",
        "number",
        "paused",
        "position",
        "recent",
        "running",
        "timed",
    )

    def __init__(self, number: int, position: int | None = None, committed: int | None = None) -> None:
        self.number = number
        self.position = position
        self.committed = committed
        self.noted = ""
        self.items: deque[Item] = deque()
        self.lanes: dict[str, Lane] = {}
        self.recent: OrderedDict[str, int] = OrderedDict()
        self.live = True
        self.closing = False
        self.paused = False
        self.running = 0
        self.timed: list[int] = []

    def settle(self) -> bool:
        """Move the position past what is finished and durable; tell whether it moved.

        A failed output stops it here, for good: see `Outbox.failed`.
        """
        items = self.items
        moved = False
        while items:
            item = items[0]
            if item.outputs is None or not _durable(item.outputs):
                break
            items.popleft()
            self.position = item.record.offset + 1
            if item.record.offset % TIMED == 0:
                self.timed.append(item.record.ts)
            moved = True
        return moved

    def crowding(self, share: int) -> list[str]:
        """Return senders with so many unfinished records, until they have half of it; the worst first."""
        lanes = self.lanes.values()
        for lane in lanes:
            lane.crowding = len(lane.queue) >= (max(share // 2, 1) if lane.crowding else share)
        found = sorted((lane for lane in lanes if lane.crowding), key=lambda lane: -len(lane.queue))
        return [lane.user for lane in found]

    def busy(self) -> bool:
        """Tell whether a handler runs or something it put out is not durable yet."""
        return self.running > 0 or any(
            output for item in self.items for output in item.outputs or () if not output.done()
        )

    def again(self) -> Partition:
        """Fence this one off; return its successor, which begins at what is not durable yet."""
        self.live = False
        successor = Partition(self.number, self.position, self.committed)
        successor.recent = self.recent
        successor.paused = self.paused
        successor.noted = self.noted
        return successor

    def is_late(self, event: SessionEvent, offset: int) -> bool:
        """Tell whether an event was there before, or is a `connect` after its session's `disconnect`.

        What is remembered goes by offsets, so that a record handled again is not taken for a repetition.
        """
        recent = self.recent
        ended = recent.get(f"{event.session}/disconnect", offset)
        before = recent.setdefault(event.id, offset) < offset and not event.retry
        if before or (ended < offset and event.kind == "connect"):
            return True
        if len(recent) > RECENT:
            recent.popitem(last=False)
        return False
