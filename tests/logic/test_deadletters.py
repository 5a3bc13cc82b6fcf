"""Dead letters, looked at and handled again: on memory, with logic and dispatch behind."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import records
from holdfast.app import App
from holdfast.bus.memory import MemoryBus
from holdfast.commands import deadletter as command
from holdfast.deadletters import DeadLetters
from holdfast.errors import Reject, Stop
from holdfast.log.port import WINDOW_MS
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.network import MemoryNetwork
from holdfast.parts import Parts
from tests.logic.world import PARTITIONS, World


class Ward:
    """A world whose handlers fail until told to work, and its dead letters."""

    def __init__(self) -> None:
        self.works = False
        self.runs: list[Any] = []
        app = App()

        @app.on("t")
        async def t(ctx, message):
            self.runs.append((ctx.message, message.data))
            if not self.works:
                raise KeyError("broken")
            ctx.publish("room:other", "copy", message.data)
            ctx.forward()

        @app.on_request("r")
        async def r(ctx, request):
            raise KeyError("broken")

        @app.on_connect
        async def came(ctx, session):
            self.runs.append(("connect", session.id))
            if not self.works:
                raise KeyError("broken")
            ctx.publish("room:door", "came", session.user)

        self.world = World(app)
        self.letters = DeadLetters(MemoryBus(self.world.broker), self.world.clock)

    async def newest(self, limit: int = 100, **more: Any) -> list[Any]:
        return list(await self.letters.newest(limit, **more))

    async def retry(self, found: list[Any], *, force: bool = False) -> list[str]:
        producer = await MemoryBus(self.world.broker).producer(deadline=1.0)
        outcome = await self.letters.retry(found, producer, force=force)
        await producer.close()
        return list(outcome.values())

    async def settle(self, seconds: float = 10) -> None:
        await self.world.clock.advance(seconds)
        await self.world.apply()


@pytest.fixture
async def ward():
    ward = Ward()
    await ward.world.start()
    yield ward
    await ward.world.stop()


async def test_a_letter_retried_is_a_new_message_under_its_own_key(ward):
    """inv 2, 3: the sender's later messages went on meanwhile; the retry appears after them, and once."""
    send = ward.world.send("ann", 1, "room:r", "t", "late")
    ward.world.send("ann", 2, "room:r", "plain", "early")
    await ward.settle()
    (found,) = await ward.newest()
    assert (found.letter.what, found.letter.key, found.letter.reason) == ("send", "ann", "failed")
    assert (found.letter.state, found.letter.detail) == ("dead", "KeyError: 'broken'")
    ward.works = True
    told = len(ward.world.replies())
    assert await ward.retry([found]) == ["retried"]
    assert await ward.retry([found], force=True) == ["retried"]
    await ward.settle()
    room = await ward.world.channel("room:r")
    assert [m["data"] for m in room] == ["early", "late"]
    assert room[1]["cause"] == send.message
    assert len(await ward.world.channel("room:other")) == 1
    assert len(ward.world.replies()) == told
    assert {run[0] for run in ward.runs} == {send.message}
    (found,) = await ward.newest()
    assert found.letter.state == "retried"
    assert await ward.retry([found]) == ["skipped: it was retried before"]


async def test_a_retry_that_fails_again_keeps_its_key(ward):
    """inv 3: letters that came of one message are one message, whichever of them is retried."""
    ward.world.send("ann", 1, "room:r", "t", 1)
    await ward.settle()
    (first,) = await ward.newest()
    await ward.retry([first])
    await ward.settle()
    first, second = await ward.newest()
    assert (first.letter.state, second.letter.state) == ("retried", "dead")
    assert first.retry_key == second.retry_key
    assert first.letter.id != second.letter.id
    ward.works = True
    assert await ward.retry([first, second], force=True) == ["retried", "retried"]
    await ward.settle()
    assert len(await ward.world.channel("room:r")) == 1


async def test_a_letter_written_twice_is_one_message(ward):
    """inv 3: what logic handles again after a rewind may leave two letters of one original."""
    ward.world.send("ann", 1, "room:r", "t", 1)
    await ward.settle()
    (letter,) = ward.world.records("dead")
    ward.world.broker.append("dead", letter.partition, letter.key, letter.value, letter.headers)
    ward.works = True
    assert await ward.retry(await ward.newest()) == ["retried", "retried"]
    await ward.settle()
    assert len(await ward.world.channel("room:r")) == 1


async def test_after_the_window_marks_tell(ward):
    """inv 3: when shards have forgotten the key, a letter is not retried a second time unless told to."""
    ward.world.send("ann", 1, "room:r", "t", 1)
    await ward.settle()
    (found,) = await ward.newest()
    partition = found.record.partition
    begun = (("retry", found.retry_key.encode()), ("phase", b"begun"))
    ward.world.broker.append("dead", partition, b"ann", None, begun)
    (found,) = await ward.newest()
    assert found.letter.state == "begun"
    await ward.world.clock.advance(WINDOW_MS / 1000 + 1)
    (outcome,) = await ward.retry([found])
    assert outcome.startswith("skipped: a retry was begun over 5 minutes ago")
    assert await ward.retry([found], force=True) == ["retried"]


async def test_a_retry_whose_outcome_is_unknown_is_done_again(ward):
    """inv 1: when the bus does not answer, nobody knows; the same again within the window is one message."""
    ward.world.send("ann", 1, "room:r", "t", 1)
    await ward.settle()
    (found,) = await ward.newest()
    ward.works = True
    ward.world.broker.drop_acks = True
    retrying = asyncio.ensure_future(ward.retry([found]))
    await ward.world.clock.advance(3)
    (outcome,) = await retrying
    assert outcome.startswith("unknown: ")
    ward.world.broker.drop_acks = False
    (found,) = await ward.newest()
    assert found.letter.state == "begun"
    assert await ward.retry([found]) == ["retried"]
    await ward.settle()
    assert len(await ward.world.channel("room:r")) == 1


async def test_what_cannot_be_handled_again_says_why(ward):
    """inv 11: a request that nobody waits for, and what nobody can read, are not put back."""
    ward.world.request("ann", "r")
    ward.world.raw("ann", b"not msgpack at all")
    await ward.settle()
    before = len(ward.world.records("inbound"))
    found = await ward.newest()
    outcomes = dict(zip([one.letter.reason for one in found], await ward.retry(found), strict=True))
    assert outcomes["failed"].startswith("skipped: nobody waits")
    assert outcomes["undecodable"] == "skipped: the original cannot be read"
    assert len(ward.world.records("inbound")) == before
    assert not any("phase" in letter for letter in ward.world.letters())


async def test_a_session_event_is_handled_again(ward):
    """A `connect` that failed is retried although it was there before, but not after its `disconnect`."""
    ward.world.event("ann", "connect", "s1")
    ward.world.event("ann", "connect", "s2")
    await ward.settle()
    ward.world.event("ann", "disconnect", "s2")
    await ward.settle()
    ward.works, ward.runs[:] = True, []
    assert await ward.retry(await ward.newest()) == ["retried", "retried"]
    await ward.settle()
    assert ward.runs == [("connect", "s1")]
    assert [m["data"] for m in await ward.world.channel("room:door")] == ["ann"]


async def test_what_dispatch_could_not_place(ward):
    """A message whose number was used before becomes another message: with an id and a key of its own."""
    body = records.message_body(id="m-0", sender='a,"from":b', type="t", data=b'{"x": 1.0}', cause="m")
    value = records.encode(records.Message("room:r", body, "ann\0c", 1024, 99, ("node", 1, 1)))
    headers = records.dead_headers("n_reused", "used before", "outbound", 2, 40)
    ward.world.broker.append("dead", 2, b"room:r", value, headers)
    reply = records.encode(records.Reply("user:ann", "node", 1, 5, b"{}"))
    ward.world.broker.append("dead", 1, b"user:ann", reply, headers)
    member = records.encode(records.Member("group:7", "ann", joined=True))
    ward.world.broker.append("dead", 0, b"group:7", member, headers)
    found = await ward.newest()
    assert sorted(await ward.retry(found)) == [
        "retried",
        "retried",
        "skipped: nobody waits for this answer any more: the client asks again",
    ]
    await ward.retry(found, force=True)
    await ward.settle()
    (message,) = await ward.world.channel("room:r")
    assert message["id"] != "m-0"
    assert (message["from"], message["data"], message["cause"]) == ('a,"from":b', {"x": 1.0}, "m")
    assert len(ward.world.outbound(records.Member)) == 2


async def test_newest_and_find(ward):
    """inv 7: of a long topic the newest are kept; one is found by its name, retention may take others."""
    for n in range(30):
        ward.world.send(f"u{n % 5}", n, "room:r", "t", n)
    await ward.settle(60)
    every = await ward.newest()
    assert len(every) == 30
    assert [one.letter.id for one in await ward.newest(7)] == [one.letter.id for one in every[-7:]]
    assert await ward.newest(reason="undecodable") == []
    one = await ward.letters.find(every[3].letter.id)
    assert (one.letter, one.record) == (every[3].letter, every[3].record)
    for wrong in ("3", "a-b", "1-", "-1-2", "9-0", "0-99999", "²-1"):
        with pytest.raises(Reject):
            await ward.letters.find(wrong)
    for partition in range(PARTITIONS):
        ward.world.broker.truncate("dead", partition, 10_000)
    assert await ward.newest() == []


def options(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"json": False, "limit": 100, "reason": "", "all": False, "force": False, "letters": []} | more
    )


async def test_the_command(ward, capsys):
    """A table for people, JSON for programs; what a client wrote cannot steer a terminal."""
    world = ward.world
    parts = Parts(
        settings=world.settings,
        clock=world.clock,
        network=MemoryNetwork(),
        bus=MemoryBus(world.broker),
        log=world.log,
        directory=MemoryDirectory(MemoryRegistry()),
    )
    assert await command.show_list(parts, options()) == 0
    assert capsys.readouterr().out == "no dead letters\n"
    ward.world.send("ann\x1b[31m", 1, "room:r", "t", {"secret": "text"})
    ward.world.raw("ben", b"\xc1\x00")
    await ward.settle()
    await command.show_list(parts, options())
    table = capsys.readouterr().out
    lines = table.splitlines()
    assert lines[0].split() == ["LETTER", "SINCE", "WHAT", "OF", "REASON", "STATE", "DETAIL"]
    assert len(lines) == 3
    assert "\x1b" not in table
    await command.show_list(parts, options(json=True, reason="failed"))
    (listed,) = msgspec.json.decode(capsys.readouterr().out)
    assert (listed["reason"], listed["what"], listed["state"]) == ("failed", "send", "dead")
    await command.show_one(parts, options(letter=listed["id"]))
    shown = capsys.readouterr().out
    assert '"secret": "text"' in shown
    assert "KeyError" in shown
    await command.show_one(parts, options(letter=listed["id"], json=True))
    assert msgspec.json.decode(capsys.readouterr().out)["original"]["data"] == {"secret": "text"}
    (poison,) = [one.letter.id for one in await ward.newest(reason="undecodable")]
    await command.show_one(parts, options(letter=poison))
    assert "c1 00" in capsys.readouterr().out
    await command.show_one(parts, options(letter=poison, json=True))
    assert msgspec.json.decode(capsys.readouterr().out)["raw"] == "c100"
    with pytest.raises(Stop, match="--all"):
        await command.retry(parts, options())
    with pytest.raises(Reject, match="there is no dead letter"):
        await command.retry(parts, options(letters=["0-77"]))
    ward.works = True
    assert await command.retry(parts, options(all=True)) == 1
    assert "retried" in capsys.readouterr().out
    assert await command.retry(parts, options(letters=[listed["id"]], json=True)) == 1
    assert msgspec.json.decode(capsys.readouterr().out) == {listed["id"]: "skipped: it was retried before"}
    await command.show_one(parts, options(letter=listed["id"]))
    assert "retried, 20" in capsys.readouterr().out or "retried, 19" in capsys.readouterr().out


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.sampled_from(["send", "retry", "force", "work", "break", "wait", "drop"]), max_size=25)
)
async def test_whatever_is_retried_when_is_one_message(steps):
    """inv 3, 12: through failures, lost answers and repeated handling, each send appears once."""
    ward = Ward()
    await ward.world.start()
    n = 0
    for step in steps:
        if step == "send":
            n += 1
            ward.world.send("ann", n, "room:r", "t", n)
        elif step in ("retry", "force"):
            work = asyncio.ensure_future(ward.retry(await ward.newest(), force=step == "force"))
            while not work.done():
                await ward.world.clock.advance(0.2)
        elif step in ("work", "break"):
            ward.works = step == "work"
        elif step == "wait":
            await ward.world.clock.advance(3)
        else:
            ward.world.broker.drop_acks = not ward.world.broker.drop_acks
    ward.world.broker.drop_acks, ward.works = False, True
    await ward.settle(20)
    work = asyncio.ensure_future(ward.retry(await ward.newest()))
    while not work.done():
        await ward.world.clock.advance(0.2)
    await ward.settle(20)
    assert sorted(m["data"] for m in await ward.world.channel("room:r")) == list(range(1, n + 1))
    await ward.world.stop()
