"""Tokens, presence, and the end of sessions."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from msgspec import UNSET

from holdfast.auth import issue
from holdfast.channel import parse
from holdfast.errors import Reject
from holdfast.log.port import Query
from holdfast.records import Revoke

from .schemas import (
    AccessAnswer,
    Disconnected,
    Endpoint,
    Nothing,
    Presence,
    PresenceMany,
    Reconnect,
    SessionView,
    TokenAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import View

    from .context import Api, Call

RECONNECT = Reconnect(base=0.5, cap=30.0)
"""What clients are told to wait before they come back."""


async def token(api: Api, call: Call) -> TokenAnswer:
    """Issue a token."""
    body = call.body
    parse(f"user:{body.user}")
    jti = secrets.token_urlsafe(12) if body.revocable else ""
    text, expires = issue(
        api.settings.auth,
        body.user,
        api.clock.now_ms(),
        device=body.device or "",
        channels=body.channels or (),
        ttl=body.ttl,
        jti=jti,
    )
    return TokenAnswer(text, expires, jti or UNSET)


async def access(api: Api, call: Call) -> AccessAnswer:
    """Tell a client, who shows its token, where to connect."""
    await _check_revoked(api, call)
    weights: dict[tuple[str, str, str], int] = {}
    for node in api.directory.nodes("access"):
        if not node.draining:
            for protocol, url in node.endpoints.items():
                place = (protocol, url, node.region)
                weights[place] = weights.get(place, 0) + node.weight
    endpoints = [Endpoint(protocol, url, w, region) for (protocol, url, region), w in weights.items()]
    return AccessAnswer(endpoints, api.settings.access.heartbeat, RECONNECT)


async def _check_revoked(api: Api, call: Call) -> None:
    """Raise Reject (`unauthorized`) for a revoked token, as an access node would."""
    claims = call.claims
    assert claims is not None
    inbox, token = f"user:{claims.sub}", f"token:{claims.jti}"
    views: Sequence[Sequence[View]]
    asked = api.log.read(api.shard(inbox), [Query(inbox, user=True)])
    if claims.jti:
        views = await asyncio.gather(asked, api.log.read(api.shard(token), [Query(token, user=True)]))
    else:
        views = [await asked]
    # One token is revoked altogether; a user's tokens up to a time.
    if claims.iat * 1000 < views[0][0].revoked or (len(views) > 1 and views[1][0].revoked):
        raise Reject("unauthorized", "the token was revoked")


async def revoke(api: Api, call: Call) -> Nothing:
    """Revoke a user's tokens or one token; the nodes end the sessions it concerns."""
    body = call.body
    if (body.user is None) == (body.jti is None):
        raise Reject("bad_request", "either `user` or `jti` must be given")
    if body.jti is not None and body.before is not None:
        raise Reject("bad_request", "`before` goes with `user`; one token is revoked altogether")
    channel = f"user:{body.user}" if body.user is not None else f"token:{body.jti}"
    parse(channel)
    before = api.clock.now_ms() if body.before is None else body.before
    await api.produce(Revoke(channel, before))
    return Nothing()


async def presence(api: Api, call: Call) -> Presence:
    """Tell a user's online sessions."""
    return (await _presence(api, [call.path["user"]]))[0]


async def presence_many(api: Api, call: Call) -> PresenceMany:
    """Tell the online sessions of several users."""
    return PresenceMany(await _presence(api, call.body.users))


async def disconnect(api: Api, call: Call) -> Disconnected:
    """End a user's sessions, all or those of one device class."""
    user, body = call.path["user"], call.body
    parse(f"user:{user}")
    sessions = [
        session.session
        for session in (await api.reader.sessions([user]))[0]
        if body.device is None or session.device == body.device
    ]
    if not sessions:
        return Disconnected(0)
    shard = api.reader.shard_of(user)
    return Disconnected(await api.log.kick(shard, user, sessions, "disconnected", body.reason or ""))


async def _presence(api: Api, users: Sequence[str]) -> list[Presence]:
    for user in users:
        parse(f"user:{user}")
    return [
        Presence(user, [SessionView(one.session, one.node, one.device, one.since) for one in found])
        for user, found in zip(users, await api.reader.presence(users), strict=True)
    ]
