"""What the contract of the log port is tested with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import records
from holdfast.log.port import (
    NEW,
    WINDOW_MS,
    Batch,
    LogRecord,
    Op,
    Placed,
    Query,
    Status,
    Watermark,
)
from holdfast.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import Applied, Log


T0 = 6000 * WINDOW_MS


POLICIES = {
    "user": Policy(keep_count=5, keep_seconds=1000),
    "group": Policy(keep_seconds=2000),
    "room": Policy(keep_seconds=400),
}


class Owner:
    """A dispatcher in short: owns shard 0 and carries its watermark."""

    def __init__(self, log: Log, name: str = "d1") -> None:
        self.log = log
        self.name = name
        self.watermark = Watermark()

    async def claim(self) -> bool:
        state = await self.log.state(0)
        state = await self.log.claim(0, self.name, expected=state, generation="g1")
        self.watermark = state.watermark
        return state.owner == self.name

    async def apply(self, *batch: LogRecord, saved: int = NEW, last: Watermark | None = None) -> Applied:
        carried = self.watermark
        if last is None:
            last = Watermark(batch[-1].offset, batch[-1].ts, batch[-1].offset + 7) if batch else carried
        applied = await self.log.apply(0, Batch(self.name, carried, last, batch, saved, now_ms=last.ts))
        if applied.status is Status.APPLIED and last.offset > carried.offset:
            self.watermark = last
        return applied

    async def placed(self, *batch: LogRecord) -> Sequence[Placed]:
        applied = await self.apply(*batch)
        assert applied.status is Status.APPLIED, applied.reason
        return applied.placed


def message(
    offset: int, channel: str = "user:a", source: str = "", score: int = 0, content: int = 0, ts: int = T0
) -> LogRecord:
    body = records.message_body(id=f"m{offset}", sender="ann", type="note", data=b"1")
    entry = records.log_entry(ts, body)
    return LogRecord(offset, ts, Op.APPEND, channel, source, score, content, entry)


async def seqs(log: Log, channel: str, after: int = 0, **more: object) -> list[int]:
    (view,) = await log.read(0, [Query(channel, after, **more)])  # type: ignore[arg-type]
    return [seq for seq, _ in view.entries]
