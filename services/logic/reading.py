"""What handlers and the API read: who is online, and what was said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.app.context import Online
from holdfast.channel import partition_of
from holdfast.log.port import Query
from holdfast.protocol.frames import Message
from holdfast.records import message_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.log.port import Log, SessionInfo, View
    from holdfast.membership.port import Directory
    from holdfast.observe.metrics import Metrics

    from .gate import Gate

PAGE: Final = 100
"""Entries of one read of the log, at most."""

HISTORY_BYTES: Final = 4 * 1024 * 1024
"""Bytes of entries after which an answer of history ends."""

_decode_message = msgspec.json.Decoder(Message).decode


class StoreReader:
    """Reads presence and history from the log. Implements `holdfast.app.Reader`.

    `alive` tells whether an incarnation lives: sessions of dead ones are not online (invariant 6).
    """

    def __init__(
        self,
        log: Log,
        directory: Directory,
        alive: Callable[[str], bool],
        gate: Gate,
        metrics: Metrics,
        *,
        reads: int = 16,
    ) -> None:
        self._log = log
        self._directory = directory
        self._alive = alive
        self._gate = gate
        self._metrics = metrics
        self._places = asyncio.Semaphore(reads)

    async def sessions(self, users: Sequence[str]) -> Sequence[Sequence[SessionInfo]]:
        """Return the live sessions of each user, one call per shard. Raises Retry."""
        shards: dict[int, list[int]] = {}
        for index, user in enumerate(users):
            shards.setdefault(self.shard_of(user), []).append(index)
        answers = await asyncio.gather(
            *(
                self._log.sessions(shard, [users[index] for index in indexes])
                for shard, indexes in shards.items()
            )
        )
        found: list[Sequence[SessionInfo]] = [()] * len(users)
        for indexes, answer in zip(shards.values(), answers, strict=True):
            for index, sessions in zip(indexes, answer, strict=True):
                found[index] = [session for session in sessions if self._alive(session.node)]
        return found

    async def presence(self, users: Sequence[str]) -> Sequence[Sequence[Online]]:
        """See `holdfast.app.Reader`. `node` is the name of the node, where the directory knows it."""
        names = {node.incarnation: node.name for node in self._directory.nodes("access")}
        return [
            [
                Online(session.session, names.get(session.node, session.node), session.device, session.since)
                for session in sessions
            ]
            for sessions in await self.sessions(users)
        ]

    @property
    def crowded(self) -> bool:
        """Whether a read of history would have to wait for a place."""
        return self._places.locked()

    async def view(self, channel: str, after: int | None, before: int | None, limit: int) -> View:
        """Return a channel's positions and entries: after `after`, else the newest. Raises Retry.

        At most `logic.history_reads` at the same time, the others wait. Entries end early, with what is
        farthest from where the reading began missing, once they have HISTORY_BYTES.
        """
        if self._places.locked():
            self._metrics.logic_history_waits.inc()
        async with self._places:
            return await self._view(channel, after, before, limit)

    async def _view(self, channel: str, after: int | None, before: int | None, limit: int) -> View:
        newest = after is None
        shard = partition_of(channel, self._log.partitions)
        first: View | None = None
        entries: list[tuple[int, bytes]] = []
        size = 0
        while True:
            page = min(limit - len(entries), PAGE)
            query = Query(
                channel,
                after=after or 0,
                before=before,
                limit=page,
                newest=newest,
                epoch=first.epoch if first else "",
            )
            (view,) = await self._log.read(shard, [query])
            first = first or view
            found = list(view.entries)
            entries = found + entries if newest else entries + found
            size += sum(len(entry) for _, entry in found)
            if len(found) < page or len(entries) >= limit:
                break
            if size >= HISTORY_BYTES:
                self._metrics.logic_history_cut.inc()
                break
            if newest:
                before = found[0][0]
            else:
                after = found[-1][0]
        return msgspec.structs.replace(first, entries=entries)

    async def history(
        self, channel: str, *, after: int | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[Message]:
        """See `holdfast.app.Reader`."""
        view = await self.view(channel, after, before, limit)
        return [
            _decode_message(message_frame(channel, seq, view.epoch, entry)) for seq, entry in view.entries
        ]

    async def may_send(self, user: str, channel: str) -> bool:
        """See `holdfast.app.Reader`."""
        return await self._gate.may_send(user, channel)

    def shard_of(self, user: str) -> int:
        """Return the shard of a user's inbox, sessions and groups."""
        return partition_of(f"user:{user}", self._log.partitions)
