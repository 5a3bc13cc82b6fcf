"""What is asked of a channel, and what it is at that moment. Part of the log port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Query(msgspec.Struct, frozen=True, gc=False):
    """What to read of one channel.

    `after` None: no entries, just the positions. Otherwise entries with `after` < seq (< `before`), oldest
    first, at most `limit`; with `newest`, the newest `limit` instead. If `epoch` is given and is not the
    channel's, no entries are returned. `device` is `user NUL device` for a stored cursor; `member` a user
    whose membership is wanted; `user`: the channel is an inbox whose groups and revocation are wanted.
    """

    channel: str
    after: int | None = None
    before: int | None = None
    limit: int = 100
    newest: bool = False
    epoch: str = ""
    device: str = ""
    member: str = ""
    user: bool = False


class Membership(msgspec.Struct, frozen=True, gc=False):
    """A user's place in a group: who it is about (`name`: a user, or the group's channel), and from where."""

    name: str
    version: int
    epoch: str
    seq: int


class View(msgspec.Struct, frozen=True, gc=False):
    """What a channel is at this moment. A channel that was never written has epoch "" and head 0.

    `first` is the seq of the oldest entry kept (head + 1 when none is). `entries` are (seq, log entry).
    `cursor`: the stored cursor's (epoch, seq). `revoked`: tokens issued before this (Unix ms) do not hold.
    `generation` and `position` (the watermark's offset) are the shard's at that moment: whoever knows of a
    higher position of the same generation has read a store that lost writes.
    """

    epoch: str = ""
    head: int = 0
    first: int = 1
    entries: Sequence[tuple[int, bytes]] = ()
    cursor: tuple[str, int] | None = None
    membership: Membership | None = None
    groups: Sequence[Membership] = ()
    revoked: int = 0
    generation: str = ""
    position: int = -1
