"""Who may send where, without a handler: the policy of the channel's kind, or the token's grant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.channel import parse, partition_of
from holdfast.errors import Reject
from holdfast.log.port import Query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.log.port import Log
    from holdfast.policy import Policy

MAX_QUERIES: Final = 128
"""Memberships looked up in one read, at most: a read must not hold the store for long."""

REASONS: Final = {
    "forbidden": "this user may not send to this channel",
    "bad_channel": "no such kind of channel, or the name is malformed",
    "no_handler": "no handler answers requests of this type",
}


class Gate:
    """Decides by policy; memberships are read from the log, many at once."""

    def __init__(self, policies: Mapping[str, Policy], log: Log) -> None:
        self._policies = policies
        self._log = log

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
        """Tell of each (channel, user) of one shard whether the user is a member. Raises Retry."""
        found: list[bool] = []
        for start in range(0, len(pairs), MAX_QUERIES):
            views = await self._log.read(
                shard,
                [Query(channel, member=user) for channel, user in pairs[start : start + MAX_QUERIES]],
            )
            found += [view.membership is not None for view in views]
        return found

    async def may_send(self, user: str, channel: str) -> bool:
        """Tell whether the policy lets a user send to a channel. Raises Retry."""
        verdict = self.verdict(user, channel)
        if verdict is None:
            return (await self.members(self.shard(channel), [(channel, user)]))[0]
        return verdict == ""
