"""What a node keeps of its clients beyond their connections: cursors, ended sessions, requests, tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import pytest

from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.nodelink.frames import MessageItem
from holdfast.observe.metrics import Metrics
from holdfast.protocol.frames import Request
from services.access import produce as produce_module
from services.access import roster
from services.access.produce import Produce
from services.access.sessions import Session
from services.access.turns import Turns
from tests.access.test_produce import Queue
from tests.access.world import AUTH, World

if TYPE_CHECKING:
    from collections.abc import Sequence


def session(user: str, device: str = "") -> Session:
    return Session(
        id=user, user=user, client=user, device=device, since=0, exp=0.0, iat=0.0, jti="", channels=()
    )


def counted(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("holdfast_access_cursors_total", {"outcome": outcome}) or 0.0


# cursors


async def test_cursors_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: above MAX_CURSORS the oldest goes into the queue early, and none is lost."""
    monkeypatch.setattr(produce_module, "MAX_CURSORS", 3)
    queue: Any = Queue()
    metrics = Metrics()
    produce = Produce(queue, ManualClock(), metrics, "node", 10.0, turns=Turns(ManualClock(), metrics))
    await produce.start(10.0)
    for number in range(5):
        produce.cursor("room:x", session(f"u{number}"), 1, "e")
    assert len(queue.written) == 2
    assert counted(metrics, "early") == 2
    produce.tick()
    assert len(queue.written) == 5


async def test_cursors_that_fail_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: Kafka away: those that find no place to wait any more are dropped, and counted."""
    monkeypatch.setattr(produce_module, "MAX_CURSORS", 3)
    queue: Any = Queue()
    metrics = Metrics()
    produce = Produce(queue, ManualClock(), metrics, "node", 10.0, turns=Turns(ManualClock(), metrics))
    await produce.start(10.0)
    for number in range(5):
        produce.cursor("room:x", session(f"u{number}"), 1, "e")
    produce.tick()
    for future in queue.written:
        future.set_exception(Retry("away"))
    await asyncio.sleep(0)
    assert counted(metrics, "dropped") == 2
    produce.tick()
    for future in queue.written[5:]:
        future.set_result(0)
    await asyncio.sleep(0)
    assert counted(metrics, "stored") == 3


@pytest.mark.parametrize("tcp", [True, False])
async def test_a_cursor_is_written_when_its_client_goes(tcp: bool) -> None:
    """A cursor does not wait for its second when the connection ends, whoever ended it."""
    async with World() as world:
        bob = await world.join("bob", device="phone", tcp=tcp)
        await world.publish("user:bob", "1", "2")
        await bob.got("message", seq=2)
        bob.send(t="cursor", channel="user:bob", seq=2)
        await world.clock.settle()
        assert world.cursors() == []
        bob.transport.close()
        await world.clock.settle()
        assert [(cursor.user, cursor.device, cursor.seq) for cursor in world.cursors()] == [
            ("bob", "phone", 2)
        ]


# ended sessions


async def test_sessions_that_are_leaving_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: with MAX_LEAVING ends that could not be written, no new session is taken until they are."""
    monkeypatch.setattr(roster, "MAX_LEAVING", 3)
    async with World() as world:
        clients = [await world.join(f"u{number}") for number in range(3)]
        world.broker.away = True
        for client in clients:
            client.transport.close()
        await world.clock.settle()
        late = await world.open(tcp=True)
        late.send(t="connect", token=world.token("late"))
        await late.gone()
        assert (late.frames[-1]["code"], late.frames[-1]["close"]) == ("overloaded", 4003)
        assert world.value("access_refused", reason="overloaded") == 1
        world.broker.away = False
        await world.clock.advance(12)
        await world.join("again")
        assert sorted(user for user, kind, _ in world.events() if kind == "disconnect") == ["u0", "u1", "u2"]


# requests


class Asker:
    """Stands for a driver and its machine."""

    number = 1

    def __init__(self) -> None:
        self.machine = self
        self.told: list[tuple[Any, float]] = []

    def unasked(self, frame_id: Any, deadline: float) -> None:
        self.told.append((frame_id, deadline))


async def test_a_request_that_fails_is_told_at_once() -> None:
    """A request whose record failed is reported in the next turn, not at its deadline."""
    queue: Any = Queue()
    asker: Any = Asker()
    produce = Produce(queue, ManualClock(), Metrics(), "node", 10.0, turns=Turns(ManualClock(), Metrics()))
    await produce.start(10.0)
    produce.request(asker, session("ann"), Request(id="r", type="q", data=msgspec.Raw(b"1")), 7.5)
    queue.written[0].set_exception(Retry("the outcome is unknown"))
    await asyncio.sleep(0)
    assert asker.told == [("r", 7.5)]


async def test_requests_without_kafka() -> None:
    """inv 11: when the record's deadline is over, so is the wait for the reply."""
    async with World(request_deadline=60.0) as world:
        bob = await world.join("bob")
        world.broker.away = True
        bob.send(t="request", id="r", type="q", data=1)
        await world.clock.advance(11)
        error = await bob.got("error", id="r")
        assert (error["code"], error["retry"]) == ("unavailable", True)
        world.broker.away = False
        bob.send(t="request", id="r", type="q", data=1)  # its id is free again
        await world.clock.advance(1)
        assert len(bob.take("error")) == 1


# tokens


@pytest.mark.parametrize("ttl", [3, 20, 40])
async def test_tokens_end_in_time(ttl: int) -> None:
    """At `exp` the connection ends, within a second of it, however long the heartbeat is."""
    async with World(heartbeat=25.0) as world:
        bob = await world.join("bob", token=world.token("bob", ttl=ttl))
        for _ in range(ttl * 2 - 1):
            await world.clock.advance(0.5)
            bob.send(t="pong")
        assert not bob.lost
        await world.clock.advance(1.5)
        await bob.gone()
        assert bob.frames[-1]["code"] == "unauthorized"


async def test_a_token_that_is_over_by_our_clock_gets_the_leeway() -> None:
    """Who was let in although the clocks differ stays for the rest of auth.leeway, not for ever."""
    async with World() as world:
        token = world.token("bob", ttl=2)
        await world.clock.advance(4)
        bob = await world.join("bob", token=token)
        await world.clock.advance(1)
        assert not bob.lost
        await world.clock.advance(4)
        await bob.gone()
        assert bob.frames[-1]["code"] == "unauthorized"


# names and values that break what is built of them


@pytest.mark.parametrize("field", ["client", "device"])
@pytest.mark.parametrize(
    "more", [{"tcp": True}, {"tcp": False}, {"msgpack": True}], ids=["tcp", "json", "msgpack"]
)
async def test_nul_in_a_name(field: str, more: dict[str, Any]) -> None:
    """inv 11: NUL separates the parts of keys: a connect that has it in a part is refused, and says so."""
    async with World() as world:
        bob = await world.open(**more)
        bob.send(t="connect", token=world.token("bob"), **{field: "a\0b"})
        await bob.gone()
        assert bob.frames[-1]["code"] == "connect_first"
        assert f"$.{field}" in bob.frames[-1]["message"]
        assert world.value("access_closes", code="connect_first") == 1


async def test_nul_in_the_user() -> None:
    """inv 11: a token whose `sub` has NUL is no valid token."""
    async with World() as world:
        bob = await world.open(tcp=True)
        claims = {"sub": "a\0b", "exp": world.clock.now_ms() // 1000 + 60}
        bob.send(t="connect", token=jwt.encode(claims, AUTH.secrets[0], algorithm="HS256"))
        await bob.gone()
        assert (bob.frames[-1]["code"], bob.frames[-1]["close"]) == ("unauthorized", 4103)


@pytest.mark.parametrize("others", [("ann",), ()])
async def test_an_entry_that_is_no_json(others: Sequence[str]) -> None:
    """inv 11: a client of msgpack gets what stands for it, in its place; nobody else notices."""
    async with World() as world:
        bob = await world.join("bob", msgpack=True)
        for client in (bob, *[await world.join(other) for other in others]):
            client.send(t="subscribe", id=1, channel="room:1")
            await client.got("subscribed")
        first = await world.append("room:1", "1")
        second = await world.append("room:1", "2")
        broken = MessageItem("room:1", second.epoch, second.seq, b'"ts":1,"id":"x","data":{nonsense}')
        world.push("room:1", first)
        world.node.delivery.push(world.node.registry.get("room:1"), broken.epoch, broken.seq, broken.entry)  # type: ignore[arg-type]
        await world.publish("room:1", "3")
        await bob.got("message", seq=3)
        await bob.got("message", seq=2, type="unreadable", data=None)
        assert bob.seqs("room:1") == [1, 2, 3]
        assert world.value("access_unreadable") == 1


async def test_a_reply_that_is_no_json() -> None:
    """inv 11: the client of msgpack that asked is told so."""
    async with World() as world:
        bob = await world.join("bob", msgpack=True)
        next(iter(world.node.drivers.values())).write(b'{"t":"reply","id":"r","data":1e999x}', "r")
        assert (await bob.got("error", id="r"))["code"] == "failed"
        assert world.value("access_unreadable") == 1
