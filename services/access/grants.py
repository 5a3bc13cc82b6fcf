"""What a session may do: the policies of the channel's kind, and the patterns in its token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.channel import parse
from holdfast.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.policy import Policy


def matches(pattern: str, channel: str) -> bool:
    """Tell whether `channel` is one of `pattern`, in which `*` stands for any text. Takes linear time."""
    if "*" not in pattern:
        return pattern == channel
    first, *middle, last = pattern.split("*")
    if len(channel) < len(first) + len(last) or not channel.startswith(first) or not channel.endswith(last):
        return False
    place, end = len(first), len(channel) - len(last)
    for part in middle:
        place = channel.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True


def granted(patterns: Sequence[str], channel: str) -> bool:
    """Tell whether any pattern of the token names the channel."""
    return any(matches(pattern, channel) for pattern in patterns)


def policy_of(policies: Mapping[str, Policy], channel: str) -> tuple[Policy, str]:
    """Return the policy of a channel's kind, and the channel's id. Raises Reject(`bad_channel`)."""
    kind, identity = parse(channel)
    policy = policies.get(kind)
    if policy is None:
        raise Reject("bad_channel", f"there is no kind of channel named {kind}")
    return policy, identity


def check_subscribe(policies: Mapping[str, Policy], channel: str, user: str, patterns: Sequence[str]) -> bool:
    """Return whether only members may subscribe, which the log decides.

    Raises Reject(`bad_channel` or `forbidden`) where this user may not in any case.
    """
    policy, identity = policy_of(policies, channel)
    who = policy.subscribe
    if who == "anyone" or (who == "owner" and identity == user) or granted(patterns, channel):
        return False
    if who == "members":
        return True
    raise Reject("forbidden", "this user may not subscribe to this channel")


def may_send(policy: Policy, identity: str, user: str) -> bool:
    """Tell whether a user may send by the policy alone; `members` is left to logic, which knows them."""
    return policy.send in ("anyone", "members") or (policy.send == "owner" and identity == user)
