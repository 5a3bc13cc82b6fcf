"""The Lua scripts do what the memory log does: the same calls get the same answers (inv 3, 8)."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from holdfast import records
from holdfast.clock import ManualClock
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import (
    FENCED,
    NEW,
    WINDOW_MS,
    Batch,
    Change,
    LogRecord,
    NodeUpdate,
    Op,
    Query,
    Rebuilding,
    SessionInfo,
    Status,
    Watermark,
)
from holdfast.log.redis import RedisLog
from holdfast.policy import Policy
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.local.servers import Running
    from holdfast.log.port import Log

T0 = 6000 * WINDOW_MS
POLICIES = {
    "user": Policy(keep_count=3, keep_seconds=1000),
    "group": Policy(keep_seconds=2000),
    "room": Policy(keep_count=1000, keep_seconds=400),
}
CHANNELS = ("user:a", "user:b", "group:g", "room:r", "token:t")
NODES = ("n1", "n2")
STEPS = (0, 0, 1, -WINDOW_MS, -3 * WINDOW_MS, WINDOW_MS // 2, WINDOW_MS, 3 * WINDOW_MS, 2_000_000)


class Piece(msgspec.Struct, frozen=True):
    """A record before it has its offset and time."""

    op: int
    channel: str
    source: str
    score: int
    content: int
    epoch: str
    gap: int
    step: int


def of_op(op: Op) -> st.SearchStrategy[Piece]:
    return st.builds(
        Piece,
        op=st.just(int(op)),
        channel=st.sampled_from(CHANNELS),
        source=st.sampled_from(("s", "t", "\0é") if op is not Op.APPEND else ("", "s", "t", "u\0c")),
        score=st.integers(records.KEYED if op is Op.APPEND else 0, 4),
        content=st.integers(0, 2 if op is Op.APPEND else 1),
        epoch=st.sampled_from(("e", "g.0", "g.1")),
        gap=st.integers(1, 3),
        step=st.sampled_from(STEPS),
    )


pieces = st.sampled_from([Op.APPEND] * 5 + list(Op)).flatmap(of_op)
poison = st.builds(Piece, *map(st.just, (99, "user:a", "", 0, 0, "", 1, 0)))
sessions = st.builds(
    SessionInfo,
    session=st.sampled_from(("1", "2", "3")),
    node=st.just(""),
    device=st.just("web"),
    since=st.integers(0, 2**53),
    client=st.sampled_from(("", "c", "d\0")),
    seat=st.sampled_from(("", "", "*", "=web")),
)
changes = st.one_of(
    st.builds(Change, st.sampled_from(("+r", "-r")), st.sampled_from(CHANNELS)),
    st.builds(Change, st.just("+s"), st.sampled_from(("a", "ab")), sessions),
    st.builds(
        Change, st.just("-s"), st.sampled_from(("a", "ab")), st.none(), st.sampled_from(("1", "2", "3"))
    ),
)
facts = st.builds(
    records.StateRecord,
    kind=st.sampled_from(("member", "group", "cursor", "revoke", "dead")),
    channel=st.sampled_from(CHANNELS),
    field=st.sampled_from(("s", "t", "\0é")),
    version=st.integers(0, 30),
    epoch=st.sampled_from(("e", "g.0", "g.1", "h.0")),
    seq=st.integers(0, 4),
    present=st.booleans(),
)
steps = st.one_of(
    st.tuples(
        st.just("apply"),
        st.lists(pieces, max_size=12),
        st.sampled_from(("", "", "", "", "again", "stranger", "ahead", "late")),
        st.integers(NEW, 9),
    ),
    st.tuples(st.just("apply"), st.lists(pieces | poison, min_size=1, max_size=4), st.just(""), st.just(NEW)),
    st.tuples(
        st.just("update"), st.sampled_from(NODES), st.lists(changes, max_size=6),
        st.sampled_from((1, 1, 1, 0, 2)), st.booleans(),
    ),
    st.tuples(
        st.just("kick"), st.sampled_from(("a", "ab")), st.lists(st.sampled_from(("n1-1", "n2-1", "n1-2")))
    ),
    st.tuples(st.just("ask"), st.sampled_from(NODES), st.sampled_from(("drain", "rain"))),
    st.tuples(st.just("beat"), st.sampled_from(NODES), st.integers(0, 2), st.integers(-1, 1)),
    st.tuples(st.just("bury"), st.sampled_from(NODES), st.integers(0, 3), st.booleans()),
    st.tuples(
        st.just("sweep"), st.sampled_from(("d", "d", "d", "x")), st.sampled_from(NODES),
        st.lists(st.tuples(st.sampled_from(("a", "ab")), st.sampled_from(("n1-1", "n2-1", "n1-2")))),
    ),
    st.tuples(st.just("claim"), st.sampled_from(("d", "x", ""))),
    st.tuples(
        st.just("begin"), st.sampled_from(("d", "d", "x")), st.sampled_from(("g", "g", "h")),
        st.integers(NEW, 20), st.booleans(),
    ),
    st.tuples(st.just("load"), st.lists(facts, max_size=8)),
    st.tuples(
        st.just("range"), st.sampled_from(CHANNELS), st.integers(0, 9), st.none() | st.integers(0, 9),
        st.integers(1, 5), st.booleans(), st.sampled_from(("", "g.0", "g.1")),
    ),
)  # fmt: skip


class Both:
    """Makes each call on both logs, and compares."""

    def __init__(self, logs: tuple[Log, Log]) -> None:
        self.logs = logs
        self.watermark = Watermark(NEW, T0, 0)
        self.before = Watermark()
        self.last: tuple[LogRecord, ...] = ()
        self.numbers = dict.fromkeys(NODES, 0)

    async def same(self, call: str, *args: object, **more: object) -> object:
        answers: list[object] = []
        for log in self.logs:
            try:
                answers.append(await getattr(log, call)(0, *args, **more))
            except Rebuilding as rebuilding:
                answers.append(str(rebuilding))
        memory, redis = (msgspec.json.encode(answer, enc_hook=bytes) for answer in answers)
        assert memory == redis, f"{call}{args}"
        return answers[0]

    async def apply(self, made: list[Piece], how: str, saved: int) -> None:
        carried, ts, offset = self.watermark, self.watermark.ts, self.watermark.offset
        batch = []
        for piece in made:
            offset, ts = offset + piece.gap, ts + piece.step
            body = b'"id":%d' % offset
            if offset % 2:  # what Redis keeps packed, and what it keeps as it is
                body = records.message_body(
                    id=str(offset), sender=None, type="t", data=b"1", cause=str(offset)
                )
            entry = records.log_entry(ts, body)
            batch.append(
                LogRecord(
                    offset, ts, piece.op, piece.channel, piece.source, piece.score, piece.content,  # type: ignore[arg-type]
                    entry, piece.epoch, piece.score,
                )
            )  # fmt: skip
        last = Watermark(offset, ts, offset % 7) if batch else carried
        if how == "again":
            carried, batch = self.before, [*self.last, *batch]
        elif how == "ahead":
            carried = Watermark(offset + 9, ts, 0)
        call = Batch(
            owner="stranger" if how == "stranger" else "d",
            carried=carried,
            last=last,
            records=batch,
            saved=saved,
            now_ms=ts + (900_000 if how == "late" else 0),
        )
        applied = await self.same("apply", call)
        status = getattr(applied, "status", None)
        event(f"apply {status!s}")
        if status is Status.APPLIED:
            self.before, self.last, self.watermark = carried, tuple(batch), last

    async def do(self, what: str, *args: object) -> None:
        match what, args:
            case "apply", (made, how, saved):
                await self.apply(made, how, saved)  # type: ignore[arg-type]
            case "update", (node, wanted, step, whole):
                update = NodeUpdate(node, self.numbers[node] + step, [_of(node, c) for c in wanted], whole)  # type: ignore[index, arg-type, operator, attr-defined]
                number = await self.same("update", update)
                event(f"update {number == FENCED}")
                self.numbers[node] = 0 if number == FENCED else number  # type: ignore[index, assignment]
            case "kick", (user, names):
                await self.same("kick", user, names, "disconnected", "why")
            case "ask", _:
                await self.same("ask", *args)
            case "beat", (node, told, load):
                await self.same("beat", node, told=told, load=load)
            case "bury", (node, ts, present):
                dead = records.StateRecord("dead", "", node, ts, present=present)  # type: ignore[arg-type]
                await self.same("load", "d", [dead])
            case "sweep", (owner, node, swept):
                await self.same("sweep", owner, node, swept, 100)
            case "claim", (name,):
                state = await self.same("state")
                if name == "":
                    await self.same("release", "d")
                else:
                    await self.same("claim", name, expected=state, generation="h")
                    await self.same("claim", "d", expected=await self.same("state"), generation="h")
            case "begin", (name, generation, until, wipe):
                state = await self.same("begin", name, generation=generation, until=until, wipe=wipe)
                if wipe and getattr(state, "owner", None) == name:
                    # What follows is a replay or another log: offsets begin again.
                    self.before, self.last = Watermark(), ()
                    self.watermark = Watermark(NEW, T0, 0)
            case "load", (told,):
                await self.same("load", "d", told)
            case "range", (channel, after, before, limit, newest, epoch):
                query = Query(channel, after, before, limit, newest, epoch)  # type: ignore[arg-type]
                await self.same("read", [query])

    async def everything(self) -> None:
        queries = [
            Query(channel, 0, limit=1000, device=device, member=device, user=True)
            for channel in CHANNELS
            for device in ("s", "t", "\0é")
        ]
        await self.same("read", queries)
        for since, limit in ((NEW, 100), (self.before.offset, 2)):
            await self.same("changed", since, limit)
        await self.same("sessions", ["a", "ab", "none"])
        for node in NODES:
            await self.same("beat", node)
            await self.same("sweep", "d", node, (), 100)
        await self.same("beats")
        await self.same("tombstones")
        await self.same("members", "group:g")
        await self.same("state")


def _of(node: str, change: Change) -> Change:
    """Name sessions so that no two nodes have the same: ids are unique."""
    if change.info is not None:
        info = msgspec.structs.replace(change.info, node=node, session=f"{node}-{change.info.session}")
        return Change(change.op, change.name, info)
    return Change(change.op, change.name, None, f"{node}-{change.session}") if change.session else change


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def redis_logs(redis_server: Running) -> Callable[[], RedisLog]:
    """Make logs on one server, each with keys of its own."""
    numbers = itertools.count()
    start = f"model{id(numbers)}"

    def make() -> RedisLog:
        chosen = Redis(url=f"redis://{redis_server.address}/0", prefix=f"{start}.{next(numbers)}")
        return RedisLog(chosen, 2, POLICIES)

    return make


@pytest.mark.redis
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(done=st.lists(steps, min_size=1, max_size=14))
def test_redis_does_what_memory_does(
    runner: asyncio.Runner, redis_logs: Callable[[], RedisLog], done: list[tuple[str, object]]
) -> None:
    """Random batches, repetitions, windows, memberships, tokens, updates: the same answers (inv 3, 8)."""

    async def play() -> None:
        redis = redis_logs()
        both = Both((MemoryLog(MemoryStore(2), POLICIES, ManualClock()), redis))
        try:
            await both.same("claim", "d", expected=await both.same("state"), generation="g")
            for step in done:
                await both.do(*step)
            await both.everything()
        finally:
            await redis.close()

    runner.run(play())
