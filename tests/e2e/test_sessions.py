"""Sessions on real processes: drains, deaths, a node that was only cut off, an outage of Redis."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.test_main_path import take

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]


def node_of(people, client):
    """Return the name of the access node that a client is connected to."""
    names = [node["node"] for node in people.nodes("access")]
    return next(name for name in names if client.session.node.startswith(name))


async def events(people, user):
    """Return what the handlers were told of a user's sessions."""
    history = await people.api("GET", f"/v1/channels/room:{user}/messages?limit=100")
    return [(message["type"], *message["data"]) for message in history["messages"]]


@pytest.mark.parametrize("by", ["SIGTERM", "the API"])
async def test_a_drain_loses_nothing(people, cluster, eventually, by):
    """inv 1, 3, 4, 10: clients are asked to go, all that was acked arrives once and in order elsewhere."""
    alice, bob = people.name("alice"), people.name("bob")
    balancer = await people.balancer()
    sender = await people.join(alice, balancer.url)
    receiver = await people.join(bob, balancer.url)
    crowd = [await people.join(people.name(f"u{number}"), balancer.url) for number in range(10)]
    owner = node_of(people, receiver)
    mine = [client for client in (sender, receiver, *crowd) if node_of(people, client) == owner]
    told: list[object] = []
    ended: list[object] = []
    for client in mine:
        client.on("drain")(told.append)
        client.on("disconnected")(ended.append)
    acked = []
    stop = asyncio.Event()

    async def traffic():
        number = 0
        while not stop.is_set():
            await sender.send(f"user:{bob}", "text", number)
            acked.append(number)
            number += 1
            await asyncio.sleep(0.002)

    running = asyncio.ensure_future(traffic())
    got = [message.data for message in await take(receiver, 50)]
    if by == "SIGTERM":
        await asyncio.to_thread(cluster.nodes[owner].stop)
        assert not cluster.nodes[owner].alive
    else:
        await people.api("POST", f"/v1/nodes/{owner}/drain")

    async def elsewhere():
        there = (await people.api("GET", "/v1/nodes"))["nodes"]
        return owner not in {node["node"] for node in there}

    await eventually(elsewhere, 15)
    stop.set()
    await running
    got += [message.data for message in await take(receiver, len(acked) - len(got))]
    assert got == acked
    assert len(told) == len(mine)
    assert not any(node_of(people, client) == owner for client in (sender, receiver, *crowd))
    for client in (sender, receiver):
        await client.close()
    cluster.restart(owner)


async def test_a_dead_node_s_sessions_end_once(people, cluster, eventually):
    """inv 6: after kill -9 handlers hear of each session's end, once, within seconds; and nothing is left."""
    user = people.name("watched")
    clients = [await people.join(user, 1, device=f"d{number}") for number in range(5)]
    sessions = sorted(client.session.session for client in clients)

    async def begun():
        return len(await events(people, user)) == 5

    await eventually(begun)
    for client in clients:
        client.on("disconnected")(lambda _: None)
    cluster.kill("access-1")
    killed = time.monotonic()
    closing = asyncio.gather(*(client.close() for client in clients))

    async def offline():
        return (await people.api("GET", f"/v1/users/{user}/presence"))["sessions"] == []

    await eventually(offline, 8)
    assert time.monotonic() - killed <= 6.2
    await closing

    async def all_ended():
        return len(await events(people, user)) >= 10

    await eventually(all_ended, 15)
    await asyncio.sleep(1)
    found = await events(people, user)
    assert sorted(session for kind, session, _ in found if kind == "connect") == sessions
    assert sorted(event for event in found if event[0] == "disconnect") == [
        ("disconnect", session, "node_lost") for session in sessions
    ]
    cluster.restart("access-1")


async def test_a_node_that_was_only_cut_off(people, cluster, eventually):
    """inv 6: after 8 s of SIGSTOP it closes its clients with "come back" and serves as somebody else."""
    user = people.name("watched")
    client = await people.join(user, 1)
    ended: list[object] = []
    client.on("disconnected")(ended.append)
    first = client.session.session
    nodes = (await people.api("GET", "/v1/nodes"))["nodes"]
    before = next(node["incarnation"] for node in nodes if node["node"] == "access-1")
    cluster.nodes["access-1"].pause()
    try:

        async def swept():
            return ("disconnect", first, "node_lost") in await events(people, user)

        await eventually(swept, 15)
    finally:
        cluster.nodes["access-1"].resume()

    async def back():
        online = (await people.api("GET", f"/v1/users/{user}/presence"))["sessions"]
        return [session["session"] for session in online] not in ([], [first])

    await eventually(back, 15)
    await asyncio.sleep(1.5)
    nodes = (await people.api("GET", "/v1/nodes"))["nodes"]
    after = [node["incarnation"] for node in nodes if node["node"] == "access-1"]
    assert len(after) == 1
    assert after != [before]
    found = await events(people, user)
    second = client.session.session
    assert [event[:2] for event in found] == [
        ("connect", first),
        ("disconnect", first),
        ("connect", second),
    ]


async def test_one_of_a_class_across_nodes(people, eventually):
    """A newer session of the same class, on another node, ends the older one for good; others stay."""
    user = people.name("ann")
    old = await people.join(user, 0, device="till")
    web = await people.join(user, 0, device="web")
    ended: list[object] = []
    old.on("disconnected")(lambda end: ended.append((end.code, end.again)))
    web.on("disconnected")(ended.append)
    new = await people.join(user, 1, device="till")

    async def gone():
        return ended

    assert await eventually(gone, 5) == [(4104, False)]
    found = (await people.api("GET", f"/v1/users/{user}/presence"))["sessions"]
    there = {session["session"] for session in found}
    assert {web.session.session, new.session.session} <= there
    assert ended == [(4104, False)]


async def test_an_outage_of_redis_ends_no_session(people, cluster, eventually):
    """inv 6: Redis away for 8 s: nobody is dead, nothing is closed, presence is as it was."""
    user = people.name("watched")
    clients = [await people.join(user, number) for number in range(2)]
    ended: list[object] = []
    for client in clients:
        client.on("disconnected")(ended.append)
    sessions = sorted(client.session.session for client in clients)
    cluster.redis.pause()
    try:
        await asyncio.sleep(8)
    finally:
        cluster.redis.resume()

    async def online():
        found = (await people.api("GET", f"/v1/users/{user}/presence"))["sessions"]
        return sorted(session["session"] for session in found) == sessions

    await eventually(online, 10)
    for _ in range(16):  # as long as a death would take to show
        assert await online()
        await asyncio.sleep(0.5)
    assert not ended
    assert {kind for kind, *_ in await events(people, user)} == {"connect"}
