"""Who may send where, without a handler: the policy of the channel's kind, or the token's grant.

A "no" cannot be taken back, and a store that has just lost its last writes says it of members too. So a "no"
counts only from a store that has taken in everything that was durable when it was asked (inv 9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.channel import parse, partition_of
from holdfast.errors import Reject, Retry
from holdfast.log.port import Query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.bus.port import Bus
    from holdfast.clock import Clock
    from holdfast.log.port import Log, View
    from holdfast.policy import Policy

MAX_QUERIES: Final = 128
"""Memberships looked up in one read, at most: a read must not hold the store for long."""

WAITS: Final = (0.02, 0.05, 0.1, 0.2)
"""Seconds between looks at a store that is behind what is durable, before whoever asked is to come again."""

REASONS: Final = {
    "forbidden": "this user may not send to this channel",
    "bad_channel": "no such kind of channel, or the name is malformed",
    "no_handler": "no handler answers requests of this type",
}


class Gate:
    """Decides by policy; memberships are read from the log, many at once."""

    def __init__(self, policies: Mapping[str, Policy], log: Log, bus: Bus, clock: Clock) -> None:
        self._policies = policies
        self._log = log
        self._bus = bus
        self._clock = clock

    @property
    def kinds(self) -> Mapping[str, Policy]:
        """Return the policies, by kind."""
        return self._policies

    def verdict(self, user: str, channel: str, *, granted: bool = False) -> str | None:
        """Return "" where the user may send, the code of the refusal, or None where membership decides."""
        try:
            kind, identity = parse(channel)
        except Reject as reject:
            return reject.code
        policy = self._policies.get(kind)
        if policy is None:
            return "bad_channel"
        if granted or policy.send == "anyone":
            return ""
        if policy.send == "members":
            return None
        return "" if policy.send == "owner" and identity == user else "forbidden"

    def shard(self, channel: str) -> int:
        """Return where a channel's memberships are."""
        return partition_of(channel, self._log.partitions)

    async def members(self, shard: int, pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
        """Tell of each (channel, user) of one shard whether the user is a member; a "no" is sure.

        Raises Retry while the store or the queue is away, or the store is behind the queue.
        """
        found: list[bool] = []
        for start in range(0, len(pairs), MAX_QUERIES):
            found += await self._some(shard, pairs[start : start + MAX_QUERIES])
        return found

    async def _some(self, shard: int, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        queries = [Query(channel, member=user) for channel, user in pairs]
        views = await self._log.read(shard, queries)
        if not _all_members(views):
            end = (await self._bus.ends("outbound"))[shard][1]
            for wait in (0.0, *WAITS):
                await self._clock.sleep(wait)
                views = await self._log.read(shard, queries)
                if _all_members(views) or views[0].position >= end - 1:
                    break
            else:
                raise Retry("the store has not taken in yet what is in the queue")
        return [view.membership is not None for view in views]

    async def may_send(self, user: str, channel: str) -> bool:
        """Tell whether the policy lets a user send to a channel. Raises Retry."""
        verdict = self.verdict(user, channel)
        if verdict is None:
            return (await self.members(self.shard(channel), [(channel, user)]))[0]
        return verdict == ""


def _all_members(views: Sequence[View]) -> bool:
    return all(view.membership is not None for view in views)
