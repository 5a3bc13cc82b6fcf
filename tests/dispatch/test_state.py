"""What dispatch must make durable: state records, and the letters of what cannot be taken in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from holdfast import records
from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.policy import Policy
from holdfast.settings import Dispatch
from tests.dispatch.world import PARTITIONS, World, channel_of, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOM = "room:x"
SHARD = partition_of(ROOM, PARTITIONS)


async def test_saved_only_after_durable(world: World) -> None:
    """`saved` stays behind while state records are not durable; pushes do not wait for them."""
    node = await world.access("a", "group:g")
    await world.dispatcher()
    shard = partition_of("group:g", PARTITIONS)
    world.message("group:g")
    await world.clock.advance(2.5)
    assert (await world.log.state(shard)).saved == 0
    world.broker.drop_acks = True
    world.send(records.Member("group:g", "bob", True))
    world.message("group:g")
    await world.clock.advance(4)
    assert node.messages() == [("group:g", 1), ("group:g", 2)]
    state = await world.log.state(shard)
    assert (state.watermark.offset, state.saved) == (2, 0)
    world.broker.drop_acks = False
    world.broker.away = False  # what is stalled tries again
    await world.clock.advance(5)
    assert (await world.log.state(shard)).saved == 2
    assert "member\0group:g\0bob" in {state.key for state in world.states()}


async def test_state_is_written_again_after_a_crash(world: World) -> None:
    """inv 9: a dispatcher that dies before its state records are durable leaves them to its successor."""
    dead = await world.dispatcher("d1")
    await world.clock.advance(1.5)
    produced = world.written("state")

    def lost(*_: object, **__: object) -> asyncio.Future[int]:
        return asyncio.get_running_loop().create_future()

    assert dead._producer is not None
    dead._producer.produce = lost  # type: ignore[method-assign]
    world.send(records.Member("group:g", "bob", True))
    await world.clock.advance(0.2)
    assert (await world.log.state(SHARD_G)).watermark.offset == 0
    assert world.written("state") == produced
    world.logs["d1"].hangs = {s: asyncio.get_running_loop().create_future() for s in range(PARTITIONS)}
    await world.clock.advance(1.5)
    world.registry.remove(dead.incarnation)
    await world.dispatcher("d2")
    await world.clock.advance(5)
    member = next(state for state in world.states() if state.kind == "member")
    assert (member.field, member.version, member.present) == ("bob", 0, True)
    (listed,) = (await world.view("user:bob", user=True)).groups
    assert listed.name == "group:g"


async def test_a_superseded_dispatcher_writes_no_state(world: World) -> None:
    """inv 8: what it could not write while it held the token, it does not write after its successor."""
    zombie = await world.dispatcher("d1")
    await world.clock.advance(1.5)
    assert zombie._producer is not None
    real = zombie._producer.produce

    def away(*_: object, **__: object) -> asyncio.Future[int]:
        raise Retry("Kafka is away for this one only")

    zombie._producer.produce = away  # type: ignore[method-assign]
    world.send(records.Member("group:g", "bob", True))
    await world.clock.advance(0.3)
    hangs = {shard: asyncio.get_running_loop().create_future() for shard in range(PARTITIONS)}
    world.logs["d1"].hangs = hangs
    await world.clock.advance(1.5)
    world.registry.remove(zombie.incarnation)
    await world.dispatcher("d2")
    await world.clock.advance(5)
    world.send(records.Member("group:g", "bob", False))
    await world.clock.advance(1)

    def last() -> records.StateRecord:
        return [state for state in world.states() if state.key == "member\0group:g\0bob"][-1]

    assert not last().present
    written = len(world.states())
    zombie._producer.produce = real  # type: ignore[method-assign]
    await world.clock.advance(5)
    assert len(world.states()) == written
    for hang in hangs.values():
        hang.set_result(None)
    world.logs["d1"].hangs = {}
    await world.clock.advance(2)
    assert not last().present
    assert world.count("d1", "claims_total", event="lost") == PARTITIONS


async def test_bound_of_what_is_not_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: a partition whose state records do not become durable stops at a bound, and goes on after."""
    monkeypatch.setattr("services.dispatch.saver.BOUND", 20)
    world = World(dispatch=Dispatch(fetch=5))
    await world.dispatcher()
    await world.clock.advance(1)
    world.broker.drop_acks = True
    for number in range(100):
        world.send(records.Member("group:g", f"u{number}", True))
    await world.clock.advance(0.5)
    applied = (await world.log.state(SHARD_G)).watermark.offset
    assert 9 <= applied < 20
    assert world.count("d1", "state_waits_total") > 0
    world.broker.drop_acks = False
    world.broker.away = False
    await world.clock.advance(10)
    assert (await world.log.state(SHARD_G)).watermark.offset >= 99
    assert len(await world.log.members(SHARD_G, "group:g")) == 100
    await world.stop()


SHARD_G = partition_of("group:g", PARTITIONS)


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        ("poison", b"\xc1nonsense"),
        ("poison", None),
        ("poison", records.encode(records.SessionEvent("connect", "u", "s", "", "", "", 0))),
        ("bad_channel", records.encode(records.Message("no channel", b'"id":"x"'))),
        ("bad_value", records.encode(records.Message(ROOM, b'"id":\n"x"'))),
        ("bad_value", records.encode(records.Message(ROOM, b'"id":"x"', "s", 2**60))),
        ("bad_value", records.encode(records.Cursor(ROOM, "u", "d", -1, "e"))),
        ("wrong_partition", records.encode(records.Message(channel_of((SHARD + 1) % PARTITIONS), b"1"))),
    ],
)
async def test_dead_letters(world: World, reason: str, value: bytes | None) -> None:
    """inv 11: what cannot be taken in goes to the dead letters, original and reason; the rest goes on."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    world.message(ROOM, "before")
    offset = world.raw(SHARD, value)
    world.message(ROOM, "after")
    await world.clock.advance(0.2)
    assert node.messages() == [(ROOM, 1), (ROOM, 2)]
    assert world.dead() == [(reason, value)]
    (letter,) = world.written("dead")
    headers = dict(letter.headers)
    assert (headers["topic"], headers["partition"]) == (b"outbound", b"%d" % SHARD)
    assert headers["offset"] == b"%d" % offset
    assert headers["detail"]
    assert world.count("d1", "dead_letters_total", reason=reason) == 1


async def test_refused_record_is_found_by_halving(world: World) -> None:
    """inv 11: one record that the shard cannot decide on is dead-lettered, all others are applied."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    world.logs["d1"].refuses = lambda batch: any(b"bad" in record.body for record in batch.records)
    for number in range(40):
        world.message(ROOM, "bad" if number == 23 else str(number))
    await world.clock.advance(2)
    assert [seq for _, seq in node.messages()] == list(range(1, 40))
    assert [reason for reason, _ in world.dead()] == ["refused"]
    assert world.count("d1", "dead_letters_total", reason="refused") == 1


def last(world: World, key: bytes) -> object:
    """Return the newest value of a key of the state topic."""
    return [record.value for record in world.written("state") if record.key == key][-1]


@pytest.fixture
async def short(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world in which what takes days takes minutes, and what happens each second happens rarely."""
    monkeypatch.setattr("services.dispatch.rebuild.Policy", lambda: Policy(keep_seconds=100))
    monkeypatch.setattr("holdfast.settings.DEFAULT_POLICIES", {"room": Policy(keep_seconds=100)})
    monkeypatch.setattr("services.dispatch.tidy.FIRST", 100.0)
    monkeypatch.setattr("services.dispatch.tidy.PERIOD", 100.0)
    monkeypatch.setattr("services.dispatch.tidy.MARGIN_MS", 10_000)
    made = World(dispatch=Dispatch(idle=20.0, takeover=80.0))
    yield made
    await made.stop()


async def test_who_left_long_ago_is_taken_out(short: World) -> None:
    """inv 7, 9: the state topic does not grow by everybody who ever left; who is a member, stays one."""
    world = short
    await world.dispatcher()
    for user, joined in (("bob", True), ("eve", True), ("bob", False)):
        world.send(records.Member("group:g", user, joined))
    await world.clock.advance(1.5)
    member, group = b"member\0group:g\0bob", b"group\0user:bob\0group:g"
    for _ in range(10):
        await world.clock.advance(100)
    assert last(world, member)
    assert last(world, group)
    for _ in range(6):
        await world.clock.advance(100)
    assert last(world, member) is None
    assert last(world, group) is None
    assert last(world, b"member\0group:g\0eve")
    assert world.count("d1", "state_removed_total") == 2
    world.store.flush()
    await world.clock.advance(25)
    await settled(world)
    assert [m.name for m in await world.log.members(SHARD_G, "group:g")] == ["eve"]
    assert (await world.view("user:bob", user=True)).groups == ()


async def test_who_joins_again_meanwhile_stays(short: World) -> None:
    """inv 9: a membership that is written while the topic is read is not taken out."""
    world = short
    node = await world.dispatcher()
    world.send(records.Member("group:g", "bob", True))
    world.send(records.Member("group:g", "bob", False))
    await world.clock.advance(1.5)
    rebuild = node._partitions[SHARD_G]._rebuild
    real = rebuild.read
    held = asyncio.Event()

    async def read(*args: object) -> AsyncIterator[object]:
        async for found in real(*args):  # type: ignore[arg-type]
            yield found
        await held.wait()

    for seconds in (*[100] * 12, 9):  # old enough for the next look
        await world.clock.advance(seconds)
    assert last(world, b"member\0group:g\0bob")
    rebuild.read = read  # type: ignore[method-assign, assignment]
    await world.clock.advance(101)
    world.send(records.Member("group:g", "bob", True))
    await world.clock.advance(1)
    held.set()
    await world.clock.advance(1)
    assert last(world, b"member\0group:g\0bob")
    world.store.flush()
    await world.clock.advance(25)
    await settled(world)
    assert [m.name for m in await world.log.members(SHARD_G, "group:g")] == ["bob"]
