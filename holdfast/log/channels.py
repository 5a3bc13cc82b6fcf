"""What a shard keeps of its channels: headers, lists, and what was seen. Pure: part of `Shard`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from holdfast.log.port import NEW, WINDOW_MS
from holdfast.log.rules import idle_limit

if TYPE_CHECKING:
    from holdfast.log.port import Query


class Header:
    """What a channel is: its epoch, the seq that comes next, the time of its last record."""

    __slots__ = ("epoch", "keep_ms", "next", "ts")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.next = 1
        self.ts = 0
        self.keep_ms = 0

    def idle(self, now_ts: int) -> bool:
        """Tell whether the channel had no record for so long that it begins again."""
        return now_ts - self.ts > idle_limit(self.keep_ms)


class Bodies:
    """A channel's list. The entry at index i has the seq `next - len + i`."""

    __slots__ = ("entries", "until_ms")

    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.until_ms = 0


class Seen:
    """Deduplication: two maps, looked up in both, written to the current one, rotated by record time."""

    def __init__(self) -> None:
        self.window = NEW
        self.current: dict[tuple[str, str], tuple[int, int | str]] = {}
        self.previous: dict[tuple[str, str], tuple[int, int | str]] = {}

    def advance(self, ts: int) -> None:
        """Let record time move on, never back."""
        window = ts // WINDOW_MS
        if window > self.window:
            self.previous = self.current if window == self.window + 1 else {}
            self.current = {}
            self.window = window

    def get(self, channel: str, source: str) -> tuple[int, int | str] | None:
        """Return what was written of a source, if it was within the last two windows."""
        key = channel, source
        return self.current.get(key) or self.previous.get(key)

    def put(self, channel: str, source: str, score: int, content: int | str = 0) -> None:
        """Write."""
        self.current[channel, source] = (score, content)


def entries_of(
    query: Query, epoch: str, head: int, first: int, kept: tuple[bytes, ...]
) -> tuple[tuple[int, bytes], ...]:
    """Return what a query asks for of the entries kept, of which the oldest has the seq `first`."""
    if query.after is None or (query.epoch and query.epoch != epoch):
        return ()
    low = max(query.after + 1, first)
    high = head if query.before is None else min(head, query.before - 1)
    if query.newest:
        low = max(low, high - query.limit + 1)
    else:
        high = min(high, low + query.limit - 1)
    return tuple((seq, kept[seq - first]) for seq in range(low, high + 1))
