"""What dispatch does when nothing fails: apply, push, chain, state."""

from __future__ import annotations

import msgspec

from holdfast import records
from holdfast.channel import partition_of
from holdfast.log.port import MAX_BATCH
from holdfast.membership.port import Node
from holdfast.nodelink.frames import BREAK, MessageItem
from tests.dispatch.world import PARTITIONS, World, channel_of


async def test_message_reaches_the_nodes_of_its_route(world: World) -> None:
    """inv 5: a message is appended and pushed to the nodes in the channel's route, and to no other."""
    here = await world.access("a", "room:x")
    there = await world.access("b", "room:y")
    await world.dispatcher()
    world.message("room:x", "one")
    world.message("room:x", "two")
    world.message("room:y", "other")
    await world.clock.advance(0.1)
    assert here.messages() == [("room:x", 1), ("room:x", 2)]
    assert there.messages() == [("room:y", 1)]
    item = here.items(MessageItem)[0]
    view = await world.view("room:x")
    assert (item.epoch, item.entry) == (view.epoch, view.entries[0][1])
    assert records.entry_members(item.entry)["data"] == "one"
    assert records.entry_ts(item.entry) == world.clock.now_ms() - 100


async def test_chain_of_offsets(world: World) -> None:
    """A partition's first frame on a link is a break; each later one follows the last, idle ones included."""
    node = await world.access("a", "room:x")
    partition = partition_of("room:x", PARTITIONS)
    await world.dispatcher()
    for _ in range(3):
        world.message("room:x")
        await world.clock.advance(0.4)
    await world.clock.advance(3)
    chain = node.chain(partition)
    assert chain[0][0] == BREAK
    assert [follows for follows, _ in chain[1:]] == [upto for _, upto in chain[:-1]]
    assert chain[-1][1] == 2
    assert node.breaks(partition) == 1
    # The other partitions are idle, and tell their position once a second all the same.
    other = node.chain((partition + 1) % PARTITIONS)
    assert 3 <= len(other) <= 6


async def test_new_node_is_told_at_once(world: World) -> None:
    """inv 4: a node that is linked later gets a break first: what it missed it reads from the log."""
    await world.dispatcher()
    offset = world.message("room:x")
    await world.clock.advance(0.1)
    node = await world.access("a", "room:x")
    assert node.chain(partition_of("room:x", PARTITIONS)) == [(BREAK, offset)]


async def test_what_waits_is_taken_in_one_call(world: World) -> None:
    """Records that came while an apply was on its way go into one next call, bounded in number."""
    await world.access("a", "room:x")
    await world.dispatcher()
    log = world.logs["d1"]
    log.batches.clear()
    for number in range(MAX_BATCH + 50):
        world.message("room:x", str(number))
    await world.clock.advance(0.2)
    assert [len(batch.records) for batch in log.batches if batch.records] == [MAX_BATCH, 50]
    assert world.count("d1", "records_total", outcome="done") == MAX_BATCH + 50


async def test_repetition_is_not_pushed_again(world: World) -> None:
    """inv 3: a message written twice to the queue is placed once and pushed once."""
    node = await world.access("a", "room:x")
    await world.dispatcher()
    for _ in range(2):
        world.message("room:x", source="u\0c", score=1024)
        await world.clock.advance(0.1)
    assert node.messages() == [("room:x", 1)]
    assert world.count("d1", "records_total", outcome="skipped") == 1


async def test_reply_goes_to_its_node_until_its_deadline(world: World) -> None:
    """A reply has no seq; it goes to the incarnation that it names, unless nobody waits any more."""
    node = await world.access("a")
    await world.dispatcher()
    now = world.clock.now_ms()
    for frame, name, deadline in (
        (b'{"t":"reply","id":1}', "a-1", now + 5000),
        (b'{"t":"reply","id":2}', "a-1", now - 5000),
        (b'{"t":"reply","id":3}', "gone-1", now + 5000),
    ):
        world.send(records.Reply("user:u", name, 7, deadline, frame))
    await world.clock.advance(0.1)
    assert [(reply.connection, reply.frame) for reply in node.replies()] == [(7, b'{"t":"reply","id":1}')]
    assert world.count("d1", "records_total", outcome="late") == 1
    assert (await world.view("user:u")).head == 0


async def test_join_reaches_the_users_list(world: World) -> None:
    """A join gets its place, is written to the state topic, and reaches the user's list and nodes."""
    node = await world.access("a", "user:bob")
    await world.dispatcher()
    world.message("group:g")
    joined = world.send(records.Member("group:g", "bob", True))
    world.message("group:g")
    await world.clock.advance(0.5)
    group = await world.view("group:g", member="bob")
    assert group.membership is not None
    assert (group.membership.version, group.membership.seq) == (joined, 1)
    (listed,) = (await world.view("user:bob", user=True)).groups
    assert (listed.name, listed.version, listed.seq) == ("group:g", joined, 1)
    assert node.changes() == [("user:bob", "group")]
    assert {(state.kind, state.channel, state.field, state.version) for state in world.states()} >= {
        ("member", "group:g", "bob", joined),
        ("group", "user:bob", "group:g", joined),
    }
    left = world.send(records.Member("group:g", "bob", False))
    await world.clock.advance(0.5)
    assert (await world.view("user:bob", user=True)).groups == ()
    assert node.changes() == [("user:bob", "group")] * 2
    newest = {state.key: state for state in world.states()}
    member = newest["member\0group:g\0bob"]
    assert (member.version, member.present) == (left, False)
    assert newest["group\0user:bob\0group:g"].present is False


async def test_cursor_and_revocation(world: World) -> None:
    """inv 9: cursors and revocations are kept in the shard and in the state topic; nodes hear of these."""
    node = await world.access("a", "user:bob", "token:t1")
    await world.dispatcher()
    world.message("user:bob")
    await world.clock.advance(0.1)
    epoch = (await world.view("user:bob")).epoch
    offset = world.send(records.Cursor("user:bob", "bob", "web", 1, epoch))
    world.send(records.Revoke("user:bob", 5000))
    world.send(records.Revoke("user:bob", 4000))
    world.send(records.Revoke("token:t1", 6000))
    await world.clock.advance(0.2)
    assert (await world.view("user:bob", device="bob\0web")).cursor == (epoch, 1)
    assert sorted(node.changes()) == [("token:t1", "revoke"), ("user:bob", "revoke")]
    newest = {state.key: state for state in world.states()}
    cursor = newest["cursor\0user:bob\0bob\0web"]
    assert (cursor.version, cursor.seq, cursor.epoch) == (offset, 1, epoch)
    assert newest["revoke\0user:bob\0"].seq == 5000
    assert newest["revoke\0token:t1\0"].version == 6000


async def test_reused_number(world: World) -> None:
    """inv 12: another content under the same number is a dead letter, and its sender is told."""
    node = await world.access("a", "room:x")
    await world.dispatcher()
    world.message("room:x", "one", source="u\0c", score=1024, content=11)
    world.message("room:x", "two", source="u\0c", score=1024, content=12, origin=("a-1", 5, 9))
    await world.clock.advance(0.2)
    assert node.messages() == [("room:x", 1)]
    (reply,) = node.replies()
    error = msgspec.json.decode(reply.frame)
    assert (reply.connection, error["t"], error["id"], error["code"]) == (5, "error", 9, "n_reused")
    assert error["retry"] is False
    assert [reason for reason, _ in world.dead()] == ["n_reused"]


async def test_offsets_are_committed_for_lag(world: World) -> None:
    """The position of each partition is stored under the group's name, and the lag is measured."""
    await world.dispatcher()
    partition = partition_of("room:x", PARTITIONS)
    world.message("room:x")
    await world.clock.advance(6)
    assert world.broker.group("holdfast-dispatch", "outbound").committed[partition] == 1
    assert world.count("d1", "lag", partition=str(partition)) == 0


async def test_who_was_stopped_commits_nothing_old(world: World) -> None:
    """What others have committed meanwhile stands: older offsets would look like a backlog of all of it."""
    await world.dispatcher()
    partition = partition_of("room:x", PARTITIONS)
    world.message("room:x")
    await world.clock.advance(6)
    committed = world.broker.group("holdfast-dispatch", "outbound").committed
    committed[partition] = 7
    world.clock._elapsed += 90.0  # as by SIGSTOP: nothing runs meanwhile
    await world.clock.advance(0.0)
    assert committed[partition] == 7
    await world.clock.advance(2.0)
    assert committed[partition] == 1, "it still owns the partition in this world, and goes on"


async def test_details_and_problems(world: World) -> None:
    """A dispatcher names its partitions and links, and what keeps it from serving."""
    await world.access("a")
    node = await world.dispatcher()
    assert node.problems() == []
    details = node.details()
    assert (details["partitions"], details["links"], details["alarms"]) == ([0, 1, 2, 3], 1, [])
    assert world.count("d1", "partitions") == PARTITIONS
    await world.stop()
    assert node.problems() != []
    assert world.registry.nodes.keys() == {"a-1"}


async def test_log_with_a_past_is_not_shown_as_new(world: World) -> None:
    """inv 9: what an empty shard is rebuilt from is not pushed; at the end every node finds a break."""
    channel = channel_of(1)
    node = await world.access("a", channel)
    late = world.clock.now_ms() + 60_000
    for number in range(5):
        last = world.message(channel, str(number))
    user = channel_of(1, "user")
    last = world.send(records.Reply(user, "a-1", 1, late, b"{}"))
    await world.dispatcher()
    assert node.messages() == []
    assert node.replies() == []
    assert node.chain(1) == [(BREAK, last)]
    assert (await world.view(channel)).head == 5
    world.message(channel, "new")
    await world.clock.advance(0.1)
    assert node.messages() == [(channel, 6)]


async def test_a_static_directory(world: World) -> None:
    """inv 6: nodes of whom only name and address are listed get what their incarnation's routes say."""
    await world.dispatcher()
    node = await world.access("a", "room:x")
    world.registry.remove(node.incarnation)
    world.registry.put(Node("a", "", "access", f"m:{node.server.port}"))
    await world.clock.advance(1)
    world.message("room:x", "one")
    await world.clock.advance(0.2)
    assert node.messages() == [("room:x", 1)]
