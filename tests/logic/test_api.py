"""The control layer: keys, tokens, people, groups and nodes, and every error as a problem document."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import records
from holdfast.auth import Verifier, issue
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.log.port import Rebuilding
from services.logic.api import channels
from services.logic.api.context import Call

EVERY_CALL = [
    ("POST", "/v1/tokens", {"user": "ann"}),
    ("POST", "/v1/tokens/revoke", {"user": "ann"}),
    ("POST", "/v1/publish", {"channel": "user:ann", "type": "t"}),
    ("GET", "/v1/channels/user:ann/messages", None),
    ("GET", "/v1/users/ann/presence", None),
    ("POST", "/v1/presence", {"users": ["ann"]}),
    ("POST", "/v1/users/ann/disconnect", {}),
    ("GET", "/v1/groups/7/members", None),
    ("GET", "/v1/groups/7/members/ann", None),
    ("PUT", "/v1/groups/7/members/ann", None),
    ("DELETE", "/v1/groups/7/members/ann", None),
    ("GET", "/v1/nodes", None),
]


@pytest.mark.parametrize(("method", "path", "body"), EVERY_CALL)
async def test_every_call_needs_a_key(api, method, path, body):
    """inv 11: without a key, or with a wrong one, a call is refused before anything is looked at."""
    for key in (None, "", "wrong", "a-key-of-the-ap", "a-key-of-the-api-and-more", "ключ"):
        problem = await api.call(method, path, raw=b"not looked at", status=401, key=key)
        assert problem["code"] == "unauthorized"
        assert api.headers["WWW-Authenticate"].startswith("Bearer")
    await api.call(method, path, body, key="another-key")
    await api.call(method, path, body)


async def test_without_keys_every_call_is_refused(api):
    """There is no default key."""
    from aiohttp.test_utils import TestClient, TestServer

    from holdfast.settings import Settings
    from services.logic.api import create_api

    object.__setattr__(api.api, "settings", Settings())
    async with TestClient(TestServer(create_api(api.api))) as client:
        for key in ("", "dev", "None"):
            response = await client.get("/v1/nodes", headers={"Authorization": f"Bearer {key}"})
            assert response.status == 401


async def test_tokens(api):
    """A token is what access accepts, for the user, device, channels and time asked for."""
    answer = await api.call(
        "POST", "/v1/tokens", {"user": "ann", "device": "ios", "channels": ["room:*"], "ttl": 60}
    )
    now = api.real.now_ms()
    claims = Verifier(api.settings.auth).verify(answer["token"], now)
    assert (claims.sub, claims.device, claims.channels) == ("ann", "ios", ("room:*",))
    assert now + 50_000 < answer["expires_at"] <= now + 60_000
    wrong: Any
    for wrong in ({}, {"user": ""}, {"user": "a b"}, {"user": "a", "ttl": 0}, {"user": 5}, []):
        assert (await api.call("POST", "/v1/tokens", wrong, status=400))["detail"]


async def test_tokens_cannot_be_issued_without_a_secret(api):
    """inv 11: what is not configured says so, by the name of the setting."""
    import msgspec

    from holdfast.settings import Auth

    object.__setattr__(api.api, "settings", msgspec.structs.replace(api.settings, auth=Auth()))
    problem = await api.call("POST", "/v1/tokens", {"user": "ann"}, status=501)
    assert "auth.secrets" in problem["detail"]


async def test_access(api):
    """A client's token, not a key, tells it where to connect: nodes that drain are left out."""
    token = (await api.call("POST", "/v1/tokens", {"user": "ann"}))["token"]
    api.node("a", endpoints={"websocket": "ws://a/ws", "tcp": "a:8001"}, region="eu", weight=50)
    api.node("b", endpoints={"websocket": "ws://b/ws"}, draining=True)
    answer = await api.call("GET", "/v1/access", key=token)
    assert answer["endpoints"] == [
        {"protocol": "websocket", "url": "ws://a/ws", "weight": 50, "region": "eu"},
        {"protocol": "tcp", "url": "a:8001", "weight": 50, "region": "eu"},
    ]
    assert answer["heartbeat"] == api.settings.access.heartbeat
    assert answer["reconnect"]["cap"] > answer["reconnect"]["base"] > 0
    await api.call("GET", f"/v1/access?token={token}", key=None)
    for key in (None, "a-key-of-the-api", token[:-2]):
        await api.call("GET", "/v1/access", key=key, status=401)


async def test_access_knows_what_is_revoked(api):
    """A user's tokens up to a time, one token for good; others, and later ones, hold."""
    one = await api.call("POST", "/v1/tokens", {"user": "ann", "revocable": True})
    other = (await api.call("POST", "/v1/tokens", {"user": "ann"}))["token"]
    ben = (await api.call("POST", "/v1/tokens", {"user": "ben"}))["token"]
    assert Verifier(api.settings.auth).verify(one["token"], api.real.now_ms()).jti == one["jti"]
    await api.call("POST", "/v1/tokens/revoke", {"jti": one["jti"]})
    await api.producer.close()
    problem = await api.call("GET", "/v1/access", key=one["token"], status=401)
    assert "revoked" in problem["detail"]
    await api.call("GET", "/v1/access", key=other)
    await api.call("POST", "/v1/tokens/revoke", {"user": "ann", "before": api.real.now_ms() + 5000})
    await api.producer.close()
    await api.call("GET", "/v1/access", key=other, status=401)
    await api.call("GET", "/v1/access", key=ben)
    later, _ = issue(api.settings.auth, "ann", api.real.now_ms() + 5000, jti=one["jti"])
    await api.call("GET", "/v1/access", key=later, status=401)


async def test_presence(api):
    """inv 6: sessions of a dead incarnation are not online; nodes are shown by name."""
    api.node("a")
    await api.session("ann", "s1", "a-1")
    await api.session("ben", "s2", "gone-1", "ios")
    one = {"session": "s1", "node": "a", "device": "web", "since": 1000}
    assert await api.call("GET", "/v1/users/ann/presence") == {"user": "ann", "sessions": [one]}
    many = await api.call("POST", "/v1/presence", {"users": ["ben", "ann", "cy"]})
    assert [(u["user"], len(u["sessions"])) for u in many["users"]] == [("ben", 1), ("ann", 1), ("cy", 0)]
    api.dead.add("gone-1")
    assert (await api.call("GET", "/v1/users/ben/presence"))["sessions"] == []
    await api.call("POST", "/v1/presence", {"users": ["x"] * 1001}, status=400)
    await api.call("GET", "/v1/users/a%20b/presence", status=400)


async def test_revoke(api):
    """A user's tokens before a time, or one token: a record on the channel that nodes watch."""
    await api.call("POST", "/v1/tokens/revoke", {"user": "ann", "before": 123})
    await api.call("POST", "/v1/tokens/revoke", {"jti": "j1"})
    revokes = {r.channel: r.before for r in api.outbound(records.Revoke)}
    assert revokes["user:ann"] == 123
    assert abs(revokes["token:j1"] - api.real.now_ms()) < 60_000
    for wrong in ({}, {"user": "a", "jti": "b"}, {"jti": "b", "before": 1}, {"jti": "a b"}, {"user": ""}):
        await api.call("POST", "/v1/tokens/revoke", wrong, status=400)


async def test_disconnect(api):
    """The nodes learn with their next beat which sessions to end, and why."""
    await api.session("ann", "s1", "a-1", "web")
    await api.session("ann", "s2", "b-1", "ios")
    path = "/v1/users/ann/disconnect"
    assert await api.call("POST", path, {"device": "tv"}) == {"sessions": 0}
    assert await api.call("POST", path, {"device": "ios", "reason": "lost phone"}) == {"sessions": 1}
    shard = api.reader.shard_of("ann")
    (kick,) = (await api.log.beat(shard, "b-1")).kicks
    assert (kick.session, kick.code, kick.reason) == ("s2", "disconnected", "lost phone")
    assert (await api.log.beat(shard, "a-1")).kicks == ()
    assert (await api.call("POST", path))["sessions"] >= 1
    assert [kick.session for kick in (await api.log.beat(shard, "a-1")).kicks] == ["s1"]


async def test_groups(api):
    """A change is answered when group and user's list both have it."""
    assert await api.call("PUT", "/v1/groups/7/members/ann") == {"members": ["ann"]}
    assert await api.call("PUT", "/v1/groups/7/members/ben") == {"members": ["ann", "ben"]}
    assert await api.call("PUT", "/v1/groups/7/members/ann") == {"members": ["ann", "ben"]}
    assert await api.call("GET", "/v1/groups/7/members") == {"members": ["ann", "ben"]}
    assert await api.call("GET", "/v1/groups/7/members/ben") == {"members": ["ben"]}
    assert await api.call("DELETE", "/v1/groups/7/members/ann") == {"members": ["ben"]}
    assert await api.call("DELETE", "/v1/groups/7/members/ann") == {"members": ["ben"]}
    assert await api.call("GET", "/v1/groups/7/members/ann") == {"members": []}
    await api.call("PUT", "/v1/groups/a%20b/members/ann", status=400)


async def test_a_change_of_membership_outlasts_a_rebuild(api, monkeypatch):
    """A store that is away or being rebuilt for a moment delays the answer; it is no error."""
    read, refusals = api.api.log.read, [Rebuilding("the shard is being rebuilt") for _ in range(3)]

    async def refusing(*arguments):
        if refusals:
            raise refusals.pop()
        return await read(*arguments)

    monkeypatch.setattr(api.api.log, "read", refusing)
    assert await api.call("PUT", "/v1/groups/7/members/ann") == {"members": ["ann"]}
    assert refusals == []


async def test_a_leave_waits_for_the_join_before_it(api):
    """inv 12: who left is not brought back by an earlier join that still travels to the user's list."""
    import asyncio

    api.producer.applies = False
    group, inbox = api.api.shard("group:7"), api.api.shard("user:ann")
    assert group != inbox
    joining = asyncio.ensure_future(api.call("PUT", "/v1/groups/7/members/ann"))
    leaving = asyncio.ensure_future(api.call("DELETE", "/v1/groups/7/members/ann"))
    while len(api.records("outbound")) < 2:
        await asyncio.sleep(0.01)
    held = api.broker.partition("outbound", inbox)
    await api.apply_one(group)
    assert len(held.records) == 2  # what the group tells the user, of both
    await asyncio.sleep(0.2)
    assert not leaving.done()
    await api.apply_one(inbox)
    await asyncio.gather(joining, leaving)
    assert await api.call("GET", "/v1/groups/7/members") == {"members": []}


@pytest.mark.parametrize("call", [channels.join, channels.leave])
async def test_a_change_of_membership_that_takes_too_long(api, call):
    """inv 1: when it is not in effect within the bound, the answer is "unknown, ask again"."""
    import asyncio

    api.producer.applies = False
    clock = ManualClock()
    object.__setattr__(api.api, "clock", clock)
    changing = asyncio.ensure_future(call(api.api, Call({"group": "7", "user": "ann"}, None, None)))
    await clock.advance(channels.PATIENCE - 0.5)
    assert not changing.done()
    await clock.advance(1)
    with pytest.raises(Retry):
        await changing


async def test_nodes_and_drain(api):
    """Every process is shown; an access node is asked to drain through its beat."""
    api.node("a", endpoints={"websocket": "ws://a/ws"}, region="eu")
    api.node("l", "logic")
    api.dead.add("a-1")
    nodes = (await api.call("GET", "/v1/nodes"))["nodes"]
    assert [(n["node"], n["role"], n["alive"]) for n in nodes] == [
        ("a", "access", False),
        ("l", "logic", True),
    ]
    answer = await api.call("POST", "/v1/nodes/a/drain")
    assert [n["node"] for n in answer["nodes"]] == ["a"]
    assert list((await api.log.beat(0, "a-1")).asks) == ["drain"]
    assert (await api.call("POST", "/v1/nodes/nobody/drain", status=404))["code"] == "not_found"
    assert (await api.call("POST", "/v1/nodes/l/drain", status=409))["code"] == "conflict"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/users//presence", 404),
        ("DELETE", "/v1/publish", 405),
        ("PATCH", "/v1/nodes", 405),
    ],
)
async def test_wrong_paths_and_methods_are_problems(api, method, path, status):
    """inv 11: what does not exist is said so in the same form as every error."""
    problem = await api.call(method, path, status=status)
    assert problem["type"].startswith("urn:")
    assert problem["detail"]
    if status == 405:
        assert api.headers["Allow"]


async def test_a_body_that_is_too_large(api):
    """inv 7: a body above the bound is refused."""
    raw = b'{"channel":"room:r","type":"t","data":"' + b"x" * 950_000 + b'"}'
    assert (await api.call("POST", "/v1/publish", raw=raw, status=413))["code"] == "too_large"
    raw = b'{"channel":"room:r","type":"t","data":"' + b"x" * 600_000 + b'"}'
    assert (await api.call("POST", "/v1/publish", raw=raw, status=413))["code"] == "too_large"


async def test_a_store_that_is_away_and_a_bug(api, monkeypatch):
    """inv 11: Retry is 503 with Retry-After; a bug is 500 and says nothing of its inside."""

    async def away(*_):
        raise Retry("the store is away", after=3)

    monkeypatch.setattr(api.log, "read", away)
    problem = await api.call("GET", "/v1/channels/room:r/messages", status=503)
    assert problem["retry"] is True
    assert api.headers["Retry-After"] == "3"

    async def bug(*_):
        raise KeyError("inner secret")

    monkeypatch.setattr(api.log, "read", bug)
    problem = await api.call("GET", "/v1/channels/room:r/messages", status=500)
    assert "secret" not in str(problem)
    assert api.count("logic_api_requests_total", route="/v1/channels/{channel}/messages", status="500") == 1


async def test_calls_at_the_same_time_are_bounded(api, monkeypatch):
    """inv 7: above `api.calls` a call is told to come back before its body is read."""
    import asyncio

    import msgspec
    from aiohttp.test_utils import TestClient, TestServer

    from services.logic.api import create_api

    settings = msgspec.structs.replace(api.settings, api=msgspec.structs.replace(api.settings.api, calls=2))
    object.__setattr__(api.api, "settings", settings)
    read, go = api.log.read, asyncio.Event()

    async def slow(*arguments):
        await go.wait()
        return await read(*arguments)

    monkeypatch.setattr(api.log, "read", slow)
    headers = {"Authorization": "Bearer a-key-of-the-api"}
    async with TestClient(TestServer(create_api(api.api))) as client:
        path = "/v1/channels/room:r/messages"
        on = [asyncio.ensure_future(client.get(path, headers=headers)) for _ in range(2)]
        await asyncio.sleep(0.1)
        response = await client.get("/v1/nodes", headers=headers)
        assert response.status == 503
        assert response.headers["Retry-After"]
        go.set()
        assert [answer.status for answer in await asyncio.gather(*on)] == [200, 200]
        assert (await client.get("/v1/nodes", headers=headers)).status == 200
    assert api.count("logic_api_refused_total") == 1
