"""History of channels, and membership of groups."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.channel import parse
from holdfast.errors import Retry
from holdfast.log.port import Query
from holdfast.records import Member

from .schemas import Members

if TYPE_CHECKING:
    from .context import Api, Call

PATIENCE: Final = 5.0
"""Seconds until a change of membership that is not in effect yet is answered with "ask again"."""

_FIRST, _LONGEST = 0.01, 0.1

_quote: Final = msgspec.json.Encoder().encode


async def history(api: Api, call: Call) -> bytes:
    """Return messages of a channel: each as the log keeps it, without parsing it."""
    channel, query = call.path["channel"], call.query
    api.check_channel(channel)
    if api.reader.crowded:
        api.metrics.logic_history_refused.inc()
        raise Retry("too much history is being read", after=1.0)
    view = await api.reader.view(channel, query.after, query.before, query.limit)
    name, epoch = _quote(channel), _quote(view.epoch)
    messages = b",".join(
        b'{"channel":%b,"seq":%d,"epoch":%b,%b}' % (name, seq, epoch, entry) for seq, entry in view.entries
    )
    return b'{"channel":%b,"epoch":%b,"messages":[%b]}' % (name, epoch, messages)


async def members(api: Api, call: Call) -> Members:
    """Return who is in a group."""
    channel = f"group:{call.path['group']}"
    parse(channel)
    found = await api.log.members(api.shard(channel), channel)
    return Members(sorted(member.name for member in found))


async def member(api: Api, call: Call) -> Members:
    """Return the user, if it is in the group."""
    channel, user = f"group:{call.path['group']}", call.path["user"]
    parse(channel)
    parse(f"user:{user}")
    view = (await api.log.read(api.shard(channel), [Query(channel, member=user)]))[0]
    return Members([user] if view.membership is not None else [])


async def join(api: Api, call: Call) -> Members:
    """Make a user a member; answered when its sessions can know."""
    return await _change(api, call, joined=True)


async def leave(api: Api, call: Call) -> Members:
    """Take a user out of a group; answered when its sessions can know."""
    return await _change(api, call, joined=False)


async def _change(api: Api, call: Call, *, joined: bool) -> Members:
    channel, user = f"group:{call.path['group']}", call.path["user"]
    parse(channel)
    parse(f"user:{user}")
    version = await api.produce(Member(channel, user, joined))
    deadline = api.clock.monotonic() + PATIENCE
    delay, told = _FIRST, None
    while True:
        with suppress(Retry):  # a store that is away or being rebuilt: it comes into effect later
            if joined and await _listed(api, channel, user, version):
                return await members(api, call)
            if told is None:
                told = await _told(api, channel, user, version)
            if told is not None and await _reached(api, f"user:{user}", told):
                return await members(api, call)
        if api.clock.monotonic() >= deadline:
            raise Retry("the change is written, but not in effect yet", after=1.0)
        await api.clock.sleep(delay)
        delay = min(delay * 1.5, _LONGEST)


async def _listed(api: Api, channel: str, user: str, version: int) -> bool:
    """Tell whether the user's list has the join, or a later one."""
    inbox = f"user:{user}"
    view = (await api.log.read(api.shard(inbox), [Query(inbox, user=True)]))[0]
    return any(group.name == channel and group.version >= version for group in view.groups)


async def _told(api: Api, channel: str, user: str, version: int) -> int | None:
    """Return the end of the user's partition once all that the group tells up to `version` is in it.

    What dispatch writes there is durable before `saved` reaches the change that it tells, so an earlier join
    that still travels is in front of this end: it cannot bring back somebody who left.
    """
    if (await api.log.state(api.shard(channel))).saved < version:
        return None
    return (await api.bus.ends("outbound"))[api.shard(f"user:{user}")][1]


async def _reached(api: Api, channel: str, end: int) -> bool:
    """Tell whether a channel's shard has taken in its partition up to `end`."""
    watermark, _ = await api.log.changed(api.shard(channel), 2**53, 1)
    return watermark.offset >= end - 1
