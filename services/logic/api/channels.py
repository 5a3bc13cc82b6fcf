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
    delay = _FIRST
    while True:
        with suppress(
            Retry
        ):  # a store that is away or being rebuilt: what is written comes into effect later
            if await _in_effect(api, channel, user, version, joined=joined):
                return await members(api, call)
        if api.clock.monotonic() >= deadline:
            raise Retry("the change is written, but not in effect yet", after=1.0)
        await api.clock.sleep(delay)
        delay = min(delay * 1.5, _LONGEST)


async def _in_effect(api: Api, channel: str, user: str, version: int, *, joined: bool) -> bool:
    """Tell whether group and user's list both have the change, or a later one."""
    if not joined:
        watermark, _ = await api.log.changed(api.shard(channel), 2**53, 1)
        if watermark.offset < version:
            return False
    inbox = f"user:{user}"
    view = (await api.log.read(api.shard(inbox), [Query(inbox, user=True)]))[0]
    seen = next((group.version for group in view.groups if group.name == channel), None)
    if joined:
        return seen is not None and seen >= version
    return seen is None or seen > version
