"""A message goes from client to client through real Kafka, a handler, real Redis and the owning node."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast.errors import Reject

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60)]


async def take(client, count, seconds=20.0):
    """Return the next messages of a client."""
    got = []

    async def collect():
        async for message in client.messages():
            got.append(message)
            if len(got) == count:
                return

    try:
        await asyncio.wait_for(collect(), seconds)
    except TimeoutError:
        pytest.fail(f"{len(got)} of {count} messages within {seconds} s: {got[-3:]}")
    return got


async def test_user_to_user_across_nodes(people):
    """inv 3, 4: sends from one node reach the user on another, in order, each once."""
    alice, bob = people.name("alice"), people.name("bob")
    a, b = await people.join(alice, 0), await people.join(bob, 1)
    ids = [await a.send(f"user:{bob}", "text", {"number": number}) for number in range(20)]
    got = await take(b, 20)
    assert [message.data["number"] for message in got] == list(range(20))
    assert [message.seq for message in got] == list(range(1, 21))
    assert [message.cause for message in got] == ids
    assert {message.sender for message in got} == {alice}


async def test_many_in_flight_stay_in_order(people):
    """inv 3, 12: two hundred sends at once arrive in the order of their numbers."""
    bob = people.name("bob")
    a, b = await people.join(people.name("alice"), 0), await people.join(bob, 1)
    await asyncio.gather(*(a.send(f"user:{bob}", "text", number) for number in range(200)))
    assert [message.data for message in await take(b, 200)] == list(range(200))


async def test_a_room_on_both_nodes(people):
    """Subscribers on either node see all messages of a room in one order, the sender its own too."""
    room = f"room:{people.mark}"
    clients = [await people.join(people.name(f"u{number}"), number % 2) for number in range(4)]
    for client in clients:
        await client.subscribe(room)
    await asyncio.gather(
        *(client.send(room, "text", [n, k]) for n, client in enumerate(clients) for k in range(10))
    )
    seen = [[(message.seq, tuple(message.data)) for message in await take(client, 40)] for client in clients]
    assert all(each == seen[0] for each in seen)
    assert [seq for seq, _ in seen[0]] == list(range(1, 41))


async def test_a_group_s_members_are_subscribed_without_asking(people, eventually):
    """A join and a message sent right after it are seen by the joiner; others may not send."""
    group = people.name("team")
    ann, ben = people.name("ann"), people.name("ben")
    a, b = await people.join(ann, 0), await people.join(ben, 1)
    for user in (ann, ben):
        await people.api("PUT", f"/v1/groups/{group}/members/{user}")
    await people.api("POST", "/v1/publish", {"channel": f"group:{group}", "type": "text", "data": "welcome"})
    for client in (a, b):
        (message,) = await take(client, 1)
        assert (message.channel, message.data) == (f"group:{group}", "welcome")
    members = await people.api("GET", f"/v1/groups/{group}/members")
    assert sorted(members["members"]) == sorted([ann, ben])

    late = await people.join(ann, 1, client="late")
    assert late.session is not None
    assert f"group:{group}" in late.session.channels

    eve = await people.join(people.name("eve"), 0)
    refused: list[object] = []
    eve.on("error")(refused.append)
    await eve.send(f"group:{group}", "text", "let me in")

    async def told():
        return refused

    await eventually(told)
    await people.api("DELETE", f"/v1/groups/{group}/members/{ben}")
    await people.api("POST", "/v1/publish", {"channel": f"group:{group}", "type": "text", "data": "after"})
    (message,) = await take(a, 1)
    assert message.data == "after"


async def test_a_reply_reaches_only_the_connection_that_asked(people):
    """Two connections of one user: the answer goes to the one that asked."""
    user = people.name("ann")
    one, other = await people.join(user, 0, client="one"), await people.join(user, 1, client="two")
    assert await one.request("add", [1, 2, 3]) == 6
    assert await other.request("add", [4, 5]) == 9
    with pytest.raises(Reject, match="type"):
        await one.request("nobody.answers", None)


async def test_a_handler_publishes_refuses_and_fails(people, eventually):
    """Outputs appear; a refusal and a failure reach the sender after its ack."""
    bob = people.name("bob")
    a, b = await people.join(people.name("alice"), 0), await people.join(bob, 1)
    told: list[object] = []
    a.on("error")(told.append)
    await a.send("room:any", "echo.to", {"channel": f"user:{bob}", "body": "hello"})
    (message,) = await take(b, 1)
    assert (message.type, message.data) == ("echoed", "hello")
    await a.send(f"user:{bob}", "refuse.me", None)
    await a.send(f"user:{bob}", "fail.me", None)

    async def both():
        return len(told) == 2

    await eventually(both, 20)


async def test_a_publish_over_the_api_is_idempotent_and_in_the_history(people):
    """The same id twice is one message; history shows it, with bounds."""
    bob = people.name("bob")
    b = await people.join(bob, 0)
    body = {"channel": f"user:{bob}", "type": "note", "data": 1, "id": people.mark}
    first = await people.api("POST", "/v1/publish", body)
    again = await people.api("POST", "/v1/publish", body)
    assert first == again
    many = [{"channel": f"user:{bob}", "type": "note", "data": number} for number in (2, 3)]
    await people.api(
        "POST", "/v1/publish", {"messages": [*many, {"channel": "nowhere", "type": "t", "data": 0}]}
    )
    got = await take(b, 3)
    assert [message.data for message in got] == [1, 2, 3]
    assert got[0].sender is None
    history = await people.api("GET", f"/v1/channels/user:{bob}/messages?after=1&limit=5")
    assert [(item["seq"], item["data"]) for item in history["messages"]] == [(2, 2), (3, 3)]


async def test_presence_is_right_across_nodes(people, eventually):
    """Sessions appear when connected and go when closed; a disconnect through the API ends them."""
    user = people.name("ann")
    a = await people.join(user, 0, device="web")
    await people.join(user, 1, device="ios")
    found = (await people.api("GET", f"/v1/users/{user}/presence"))["sessions"]
    assert sorted(session["device"] for session in found) == ["ios", "web"]
    assert len({session["node"] for session in found}) == 2
    await a.close()

    async def one_left():
        sessions = (await people.api("POST", "/v1/presence", {"users": [user]}))["users"][0]["sessions"]
        return [session["device"] for session in sessions] == ["ios"]

    await eventually(one_left)
    assert (await people.api("POST", f"/v1/users/{user}/disconnect", {"reason": "test"}))["sessions"] == 1

    async def none_left():
        return (await people.api("GET", f"/v1/users/{user}/presence"))["sessions"] == []

    await eventually(none_left)


async def test_no_ack_before_kafka_has_it(people, cluster):
    """inv 1: while the broker is stopped nothing is acked; afterwards all is delivered once."""
    bob = people.name("bob")
    a, b = await people.join(people.name("alice"), 0), await people.join(bob, 1)
    await a.send(f"user:{bob}", "text", "before")
    cluster.kafka.pause()
    try:
        pending = asyncio.ensure_future(a.send(f"user:{bob}", "text", "during"))
        done, _ = await asyncio.wait([pending], timeout=1.5)
        assert not done
    finally:
        cluster.kafka.resume()
    await asyncio.wait_for(pending, 20)
    assert [message.data for message in await take(b, 2)] == ["before", "during"]


async def test_an_access_node_killed_under_traffic(people, cluster, eventually):
    """inv 1, 3, 4, 6: after kill -9 of a node its clients come back elsewhere with every message once.

    Its sessions are gone from presence within 6 s.
    """
    alice, bob = people.name("alice"), people.name("bob")
    balancer = await people.balancer()
    sender = await people.join(alice, balancer.url)
    receiver = await people.join(bob, balancer.url)
    nodes = {node["node"]: node for node in people.nodes("access")}
    owner = next(name for name in nodes if receiver.session.node.startswith(name))
    acked = []
    stop = asyncio.Event()

    async def traffic():
        number = 0
        while not stop.is_set():
            await sender.send(f"user:{bob}", "text", number)
            acked.append(number)
            number += 1
            await asyncio.sleep(0.005)

    running = asyncio.ensure_future(traffic())
    got = [message.data for message in await take(receiver, 50)]
    before = (await people.api("GET", f"/v1/users/{bob}/presence"))["sessions"]
    cluster.kill(owner)
    killed = time.monotonic()

    async def gone():
        found = (await people.api("GET", f"/v1/users/{bob}/presence"))["sessions"]
        return found and not {session["session"] for session in found} & {
            session["session"] for session in before
        }

    await eventually(gone, 8)
    assert time.monotonic() - killed <= 6.2
    stop.set()
    await running
    got += [message.data for message in await take(receiver, len(acked) - len(got))]
    assert got == acked
    assert not receiver.session.node.startswith(owner)
    cluster.restart(owner)
