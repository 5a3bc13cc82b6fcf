"""`holdfast tail`, on memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import msgspec
import pytest

from holdfast.channel import partition_of
from holdfast.commands import tail
from holdfast.errors import Reject, Retry
from holdfast.log.memory import MemoryLog, MemoryStore


async def test_the_newest_in_order(operator):
    """inv 3: the newest lines, oldest of them first, also over several pages; JSON one object a line."""
    for number in range(250):
        await operator.cluster.publish("room:r", "t", number)
    await operator.cluster.settle()
    _, text = await operator.run(tail.show, channel="room:r")
    assert [int(line.split()[-1]) for line in text.splitlines()] == list(range(240, 250))
    _, text = await operator.run(tail.show, channel="room:r", lines=230, json=True)
    lines = [msgspec.json.decode(line) for line in text.splitlines()]
    kept = operator.cluster.settings.policies()["room"].keep_count
    assert [line["data"] for line in lines] == list(range(250 - min(kept, 230), 250))
    assert {line["channel"] for line in lines} == {"room:r"}


async def test_what_a_client_wrote_steers_no_terminal(operator):
    """Control characters in content, type and sender are shown escaped."""
    await operator.cluster.publish("room:r", "t\x9b", "\x1b[2J\x9b2J\u202e", sender="a\x07")
    await operator.cluster.settle()
    for json in (False, True):
        _, text = await operator.run(tail.show, channel="room:r", json=json)
        assert text.replace("\n", "").isprintable()


async def test_a_channel_without_messages(operator):
    """A kind that does not exist is refused; a channel that was never written says so."""
    with pytest.raises(Reject, match="no kind of channel named 'rom'"):
        await operator.run(tail.show, channel="rom:r")
    with pytest.raises(Reject):
        await operator.run(tail.show, channel="room")
    assert await operator.run(tail.show, channel="room:none") == (0, "")
    assert operator.notes == "room:none: nothing was ever written to it\n"


class Following:
    """A `tail --follow` that goes on until the test ends."""

    def __init__(self, operator, capsys, **options):
        self.operator, self.capsys = operator, capsys
        self.task = operator.begin(tail.show, follow=True, **options)
        self.out = self.err = ""

    async def hear(self, seconds=1.0):
        await self.operator.cluster.advance(seconds)
        told = self.capsys.readouterr()
        self.out, self.err = self.out + told.out, self.err + told.err
        return [line.split()[-1] for line in self.out.splitlines()]

    async def end(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def test_follow(operator, capsys):
    """inv 3: what comes is shown once and in order, also when it begins with an empty channel."""
    following = Following(operator, capsys, channel="room:r")
    assert await following.hear() == []
    for number in range(3):
        await operator.cluster.publish("room:r", "t", number)
    assert await following.hear() == ["0", "1", "2"]
    await operator.cluster.publish("room:r", "t", 3)
    assert await following.hear() == ["0", "1", "2", "3"]
    await following.end()


async def test_follow_waits_for_a_store_that_is_away(operator, capsys, monkeypatch):
    """An outage is told once and waited for, and nothing is missed; another epoch is told as well."""
    await operator.cluster.publish("room:r", "t", 0)
    await operator.cluster.settle()
    away: list[bool] = []
    log = type(operator.ports().log)
    read = log.read

    async def fails(self, shard, queries):
        if away:
            raise Retry("redis is away")
        return await read(self, shard, queries)

    monkeypatch.setattr(log, "read", fails)
    following = Following(operator, capsys, channel="room:r")
    assert await following.hear() == ["0"]
    away.append(True)
    await operator.cluster.publish("room:r", "t", 1)
    await following.hear(3)
    assert following.err.count("waiting: redis is away") == 1
    away.clear()
    assert await following.hear() == ["0", "1"]
    assert "going on" in following.err
    await following.end()


async def test_a_store_that_holds_nothing(operator):
    """A partition that was never begun says so (a wrong prefix looks so), and so does a rebuilt one."""
    empty = MemoryLog(MemoryStore(4), operator.cluster.settings.policies(), operator.cluster.clock)
    other = dataclasses.replace(operator.ports(), log=empty)
    with pytest.raises(Retry, match=r"no dispatcher has begun with it, or redis\.url or redis\.prefix"):
        await operator.run(tail.show, ports=other, channel="room:r")
    shard = partition_of("room:r", 4)
    await empty.claim(shard, "d", expected=await empty.state(shard), generation="g")
    await empty.begin(shard, "d", generation="g", until=7)
    with pytest.raises(Retry, match=f"partition {shard} is being rebuilt"):
        await operator.run(tail.show, ports=other, channel="room:r")
