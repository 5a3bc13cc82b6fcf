"""What a worker must remember of a partition that comes to it: which session events were there already.

A session's event may be in the queue twice within seconds: its node did not know whether it was stored, or
its node and the sweeper of dead nodes both wrote it. Whoever takes a partition over reads back that far, so
that handlers hear of each once, and of no `connect` after its `disconnect`, across the move too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.bus.port import OffsetLost
from holdfast.clock import within
from holdfast.errors import Retry
from holdfast.records import SessionEvent, decode_inbound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.bus.port import Bus, Record
    from holdfast.clock import Clock

    from .partition import Partition

BACK_SECONDS: Final = 60.0
"""How far back is read: several times what a producer tries, and a sweeper needs to begin again."""

BACK_RECORDS: Final = 20_000
"""Records of one partition that are read back, at most."""

LONGEST: Final = 5.0
"""Seconds that reading back may take, for all partitions: after that, what was read must do."""

PAGE: Final = 2000

_log = logging.getLogger(__name__)


async def recall(bus: Bus, clock: Clock, parts: Sequence[tuple[Partition, Record]]) -> None:
    """Let each partition remember the session events before its first record. Never raises."""
    try:
        await within(clock, LONGEST, _recall(bus, parts))
    except (Retry, OffsetLost, TimeoutError) as error:
        numbers = [part.number for part, _ in parts]
        _log.warning("session events of %s may be told twice, what was is not known: %s", numbers, error)


async def _recall(bus: Bus, parts: Sequence[tuple[Partition, Record]]) -> None:
    positions: dict[int, int] = {}
    for part, first in parts:
        begin = await bus.offset_at("inbound", part.number, first.ts - int(BACK_SECONDS * 1000))
        begin = max(begin, first.offset - BACK_RECORDS)
        if begin < first.offset:
            positions[part.number] = begin
    if not positions:
        return
    left = {part.number: (part, first.offset) for part, first in parts if part.number in positions}
    reader = await bus.reader("inbound")
    try:
        reader.assign(positions)
        while left:
            fetched: Mapping[int, Sequence[Record]] = await reader.fetch(PAGE, 0.5)
            for number, records in fetched.items():
                if number in left and records:
                    part, end = left[number]
                    _remember(part, records, end)
                    if records[-1].offset >= end - 1:
                        del left[number]
                        reader.pause(number)
    finally:
        await reader.close()


def _remember(part: Partition, records: Sequence[Record], end: int) -> None:
    for record in records:
        if record.offset >= end or record.value is None:
            continue
        try:
            what = decode_inbound(record.value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(what, SessionEvent):
            part.is_late(what, record.offset)
