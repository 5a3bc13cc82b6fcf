"""The test kit itself: what its cluster does, and how it fails."""

from __future__ import annotations

import pytest

from holdfast.app import App, Context, Message
from holdfast.client import Closed, Reject
from holdfast.testing import Cluster


async def test_messages_are_ordered_across_two_of_everything() -> None:
    """With two of each service, a room's messages come once and in order (inv 3, 4)."""
    async with Cluster(access=2, logic=2, dispatch=2) as cluster:
        alice = await cluster.connect("alice", node=0)
        bob = await cluster.connect("bob", node=1, carrier="tcp")
        await bob.subscribe("room:a")
        for number in range(50):
            await alice.send("room:a", "n", number)
        got = [await bob.receive() for _ in range(50)]
        assert [message.data for message in got] == list(range(50))
        assert [message.seq for message in got] == list(range(1, 51))
        await bob.receive_nothing()


async def test_a_client_that_was_cut_off_resumes() -> None:
    """What was sent while a client was away arrives once, when it is back (inv 4)."""
    async with Cluster() as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        for number in range(3):
            await alice.send("user:bob", "n", number)
        assert [(await bob.receive()).data for _ in range(3)] == [0, 1, 2]
        connection = bob.client._driver._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()
        await alice.send("user:bob", "n", 3)
        assert (await bob.receive()).data == 3
        await bob.receive_nothing()
        assert bob.resets == []


async def test_a_first_message_sent_while_away_is_not_missed() -> None:
    """A channel that was never written when the client left is resumed from its beginning (inv 4)."""
    async with Cluster() as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        connection = bob.client._driver._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()
        await alice.send("user:bob", "n", 1)
        assert (await bob.receive()).data == 1


async def test_a_handlers_answer_reaches_its_sender_only() -> None:
    """A reply goes to the connection that asked, and no other session of the user (design, logic)."""
    app = App()

    @app.on("ask")
    async def ask(ctx: Context, message: Message[object]) -> None:
        ctx.publish(f"user:{ctx.user}", "told", message.data)

    @app.on_request("double")
    async def double(ctx: Context, request: Message[int]) -> int:
        return 2 * request.data

    async with Cluster(app) as cluster:
        phone, tablet = await cluster.connect("ann"), await cluster.connect("ann")
        assert await phone.request("double", 21) == 42
        await phone.send("user:ann", "ask", "x")
        assert (await phone.receive()).data == (await tablet.receive()).data == "x"
        assert not tablet.errors


async def test_what_is_forbidden_is_refused() -> None:
    """Subscribing to another's inbox is an error with its code (inv 11)."""
    async with Cluster() as cluster:
        alice = await cluster.connect("alice")
        with pytest.raises(Reject) as caught:
            await alice.subscribe("user:bob")
        assert caught.value.code == "forbidden"


async def test_a_token_that_ended_ends_the_session() -> None:
    """At `exp` the connection is closed; a client whose tokens are all as old stays away (inv 11)."""
    async with Cluster() as cluster:
        alice = await cluster.connect("alice")
        old = cluster.token("alice", ttl=10)
        alice.client._driver._token = old
        await alice.close()
        await alice.connect()
        await cluster.advance(40)
        with pytest.raises(Closed, match="unauthorized"):
            await alice.send("user:bob", "t", 1)


async def test_waiting_in_vain_says_for_what() -> None:
    """`receive` fails, after the cluster's time and not the machine's, with what was awaited."""
    async with Cluster() as cluster:
        bob = await cluster.connect("bob")
        with pytest.raises(AssertionError, match="bob receiving chat"):
            await bob.receive(type="chat", within=2)
