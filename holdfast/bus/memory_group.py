"""Consumer groups in memory: when a member comes or goes, all give up what they have; it is dealt again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class Member:
    """One consumer of a group. While `settled` is false, it reads nothing."""

    def __init__(
        self,
        on_assigned: Callable[[Sequence[int]], Awaitable[None]],
        on_revoked: Callable[[Sequence[int]], Awaitable[None]],
    ) -> None:
        self.on_assigned = on_assigned
        self.on_revoked = on_revoked
        self.partitions: tuple[int, ...] = ()
        self.settled = False
        self.take_over: Callable[[Sequence[int]], None] = lambda _: None


class Group:
    """The members, and the offsets from which partitions go on."""

    def __init__(self, partitions: int, wake: Callable[[], None]) -> None:
        self.committed: dict[int, int] = {}
        self.notes: dict[int, str] = {}
        self._partitions = partitions
        self._wake = wake
        self._members: list[Member] = []
        self._lock = asyncio.Lock()

    async def join(self, member: Member) -> None:
        """Take a member in; returns when it has its partitions."""
        async with self._lock:
            await self._revoke()
            self._members.append(member)
            await self._deal()

    async def leave(self, member: Member) -> None:
        """Take a member out, without asking it; the others get its partitions."""
        async with self._lock:
            if member not in self._members:
                return
            self._members.remove(member)
            member.partitions, member.settled = (), False
            await self._revoke()
            await self._deal()

    async def _revoke(self) -> None:
        for member in self._members:
            member.settled = False
        await asyncio.gather(
            *(member.on_revoked(member.partitions) for member in self._members if member.partitions)
        )

    async def _deal(self) -> None:
        for index, member in enumerate(self._members):
            member.partitions = tuple(range(index, self._partitions, len(self._members)))
            member.take_over(member.partitions)
        await asyncio.gather(*(member.on_assigned(member.partitions) for member in self._members))
        for member in self._members:
            member.settled = True
        self._wake()
