"""Whatever is lost and whenever: the rebuilt shard is the one that lost nothing."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from holdfast import records
from holdfast.bus.port import Record
from holdfast.log.port import NEW, WINDOW_MS, Applied, Batch, Outcome, Placed, Status, Watermark
from holdfast.log.shard import Shard
from holdfast.observe.metrics import Metrics
from holdfast.policy import Policy
from services.dispatch.outcome import Interpreter

if TYPE_CHECKING:
    from collections.abc import Sequence

T0 = 6000 * WINDOW_MS
POLICIES = {
    "user": Policy(keep_count=5, keep_seconds=1000),
    "group": Policy(keep_seconds=1000),
    "room": Policy(keep_seconds=400),
    "token": Policy(keep_seconds=400),
}
CHANNELS = ("user:a", "user:b", "group:g", "group:h", "room:r")
USERS = ("a", "b")


class Piece(msgspec.Struct, frozen=True):
    """A record before it is known where its channels stand."""

    kind: Literal["message", "join", "leave", "cursor", "revoke"]
    channel: str
    user: str
    number: int
    step: int


pieces = st.builds(
    Piece,
    kind=st.sampled_from(("message",) * 4 + ("join", "join", "leave", "cursor", "revoke")),
    channel=st.sampled_from(CHANNELS),
    user=st.sampled_from(USERS),
    number=st.integers(0, 6),
    step=st.sampled_from((0, 0, 0, 1, 1000, WINDOW_MS // 3, WINDOW_MS, 700_000)),
)


class Cluster:
    """One partition, its shard, and its part of the state topic. `log` grows by what dispatch writes too."""

    def __init__(self) -> None:
        self.log: list[Record] = []
        self.states: list[records.StateRecord] = []
        self.shard = Shard(POLICIES)
        self.shard.claim("d", self.shard.state(), "", 1)
        self.shard.begin("d", "g", NEW, wipe=False)
        self.placed: dict[int, tuple[Any, ...]] = {}
        self.ts = T0
        self._interpreter = Interpreter(Metrics(), 1)

    def send(self, piece: Piece) -> None:
        self.ts += piece.step
        channel, user = piece.channel, piece.user
        match piece.kind:
            case "message":
                source = f"{user}\0c" if piece.number else ""
                self.append(records.Message(channel, b'"id":1', source, piece.number))
            case "join" | "leave":
                group = channel if channel.startswith("group:") else "group:g"
                self.append(records.Member(group, user, piece.kind == "join"))
            case "cursor":
                epoch = headers(self.shard).get(channel, ("g.0",))[0]
                self.append(records.Cursor(channel, user, "web", piece.number, epoch))
            case _:
                self.append(records.Revoke(f"user:{user}", piece.number))

    def append(self, record: records.Outbound) -> None:
        self.log.append(Record(0, len(self.log), self.ts, record.channel.encode(), records.encode(record)))

    def apply(self, size: int, *, upto: int | None = None) -> bool:
        """Apply one batch of what follows the watermark; tell whether there was any."""
        done = self.shard.watermark.offset
        end = len(self.log) if upto is None else upto
        batch = [record for record in self.log[:end] if record.offset > done][:size]
        if not batch:
            return False
        taken = self._interpreter.take_in(batch)
        last = Watermark(batch[-1].offset, batch[-1].ts, records.checksum(batch[-1].value or b""))
        applied = self.shard.apply(
            Batch("d", self.shard.watermark, last, taken.asked, now_ms=last.ts, generation="g"), last.ts
        )
        assert applied.status is Status.APPLIED
        self._note(taken, applied)
        return True

    def _note(self, taken: Any, applied: Applied) -> None:
        self._interpreter.interpret(taken, applied, new_after=NEW, known=NEW, now_ms=self.ts)
        for record, placed in zip(taken.records, applied.placed, strict=True):
            self.placed[record.offset] = _result(placed)
        for write in taken.writes:
            if write.topic == "state":
                self.states.append(records.decode_state(write.value))
            elif write.topic == "outbound":
                self.append(records.decode_outbound(write.value))

    def play(self, made: Sequence[Piece], sizes: Sequence[int]) -> None:
        """Send, and apply now and then."""
        for number, piece in enumerate(made):
            self.send(piece)
            if sizes and number % sizes[number % len(sizes)] == 0:
                self.apply(sizes[number % len(sizes)])
        while self.apply(5):
            pass

    def rebuild(self, *, start: int, end: int, states: int, size: int) -> None:
        """Do what dispatch does after a total loss."""
        shard = self.shard
        shard.claim("d", shard.state(), "", 1)
        assert shard.load("d", self.states[:states])
        del self.log[end:]  # what the rebuild writes again comes after everything that is compared
        shard.begin("d", "g", end - 1, wipe=True)
        kept, self.log = self.log, [record for record in self.log if record.offset >= start]
        while True:
            done = shard.watermark.offset
            batch = [record for record in kept if record.offset > max(done, start - 1)][:size]
            if not batch:
                break
            self.log = kept[: batch[-1].offset + 1]
            taken = self._interpreter.take_in(batch)
            last = Watermark(batch[-1].offset, batch[-1].ts, records.checksum(batch[-1].value or b""))
            applied = shard.apply(Batch("d", shard.watermark, last, taken.asked, now_ms=last.ts), last.ts)
            assert applied.status is Status.APPLIED
            for record, placed in zip(batch, applied.placed, strict=True):
                self.placed[record.offset] = _result(placed)
        self.log = kept
        assert not shard.rebuilding or not kept


def _result(placed: Placed) -> tuple[Any, ...]:
    return placed.outcome, placed.seq, placed.epoch


def headers(shard: Shard) -> dict[str, tuple[str, int, int]]:
    now = shard.watermark.ts
    return {name: (h.epoch, h.next, h.ts) for name, h in shard.headers.items() if not h.idle(now)}


def facts(shard: Shard) -> tuple[Any, ...]:
    held = shard.facts
    return held.members, held.groups, held.cursors, held.revoked


losses = st.sampled_from(("suffix", "flush", "damage"))
sizes = st.lists(st.integers(1, 7), max_size=6)
quiet = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@quiet
@given(
    made=st.lists(pieces, max_size=40),
    after=st.lists(pieces, max_size=15),
    cut=sizes,
    loss=losses,
    lost=st.integers(0, 40),
    durable=st.integers(0, 60),
    size=st.integers(1, 9),
)
def test_the_rebuilt_shard_is_the_one_that_lost_nothing(
    made: list[Piece],
    after: list[Piece],
    cut: list[int],
    loss: str,
    lost: int,
    durable: int,
    size: int,
) -> None:
    """inv 3, 9: headers, seqs, epochs, deduplication and facts, and all that is decided afterwards."""
    whole = Cluster()
    whole.play(made, cut)
    end = len(whole.log)
    other = copy.deepcopy(whole, {id(whole._interpreter): whole._interpreter})
    before = dict(other.placed)
    other.placed.clear()
    event(loss)
    if loss == "suffix":
        other.shard = early(whole, max(0, end - lost))
        while other.apply(size, upto=end):
            pass
        del other.log[end:]
    else:
        if loss == "flush":
            other.shard = Shard(POLICIES)
        else:
            for channel in list(other.shard.headers)[::2]:
                del other.shard.headers[channel], other.shard.last_offsets[channel]
            other.shard.damaged = True
        other.rebuild(start=0, end=end, states=durable, size=size)
    for offset, result in other.placed.items():
        record = records.decode_outbound(whole.log[offset].value or b"")
        if isinstance(record, records.Message):
            assert result == before[offset], offset
    assert headers(other.shard) == headers(whole.shard)
    assert facts(other.shard) == facts(whole.shard)
    assert other.shard.seen.current == whole.shard.seen.current
    assert other.shard.seen.previous == whole.shard.seen.previous
    assert other.shard.gone == {}
    # The same that is to come is decided alike.
    other.log, other.ts = list(whole.log), whole.ts
    other.placed.clear()
    whole.placed.clear()
    whole.play(after, [])
    other.play(after, [])
    assert other.placed == whole.placed
    assert facts(other.shard) == facts(whole.shard)


def early(whole: Cluster, upto: int) -> Shard:
    """Return the shard as it was when it had taken in less."""
    shard = Shard(POLICIES)
    shard.claim("d", shard.state(), "", 1)
    shard.begin("d", "g", NEW, wipe=False)
    past = Cluster()
    past.log, past.shard = list(whole.log), shard
    while past.apply(3, upto=upto):
        past.log = list(whole.log)
    return shard


@quiet
@given(
    made=st.lists(pieces, min_size=1, max_size=40),
    cut=sizes,
    start=st.integers(0, 30),
    size=st.integers(1, 9),
)
def test_what_began_within_the_replay_is_as_it_was(
    made: list[Piece], cut: list[int], start: int, size: int
) -> None:
    """inv 3, 4, 9: from a log that begins later, the same epoch is the same log; who may see what is kept."""
    whole = Cluster()
    whole.play(made, cut)
    end = len(whole.log)
    start = min(start, end - 1)
    other = copy.deepcopy(whole, {id(whole._interpreter): whole._interpreter})
    before, other.shard = dict(other.placed), Shard(POLICIES)
    other.placed.clear()
    other.rebuild(start=start, end=end, states=len(whole.states), size=size)
    rebuilt = headers(other.shard)
    for channel, (epoch, following, _) in headers(whole.shard).items():
        began = int(epoch.partition(".")[2])
        event(f"began within: {began >= start}")
        # A repetition of what came before the replay is taken for new where the replay begins.
        sure = whole.log[began].ts - whole.log[start].ts > 2 * WINDOW_MS + 1_000_000
        assert channel in rebuilt or began < start
        if sure or (channel in rebuilt and rebuilt[channel][0] == epoch):
            assert rebuilt[channel][:2] == (epoch, following)
    assert all(int(epoch.partition(".")[2]) >= start for epoch, _, _ in rebuilt.values())
    for offset, result in other.placed.items():
        was = before[offset]
        if was[0] is Outcome.DONE and was[2] and was[2] == result[2]:
            record = records.decode_outbound(whole.log[offset].value or b"")
            if isinstance(record, records.Message):
                assert result == was
    for mine, theirs in zip(facts(other.shard)[:2], facts(whole.shard)[:2], strict=True):
        assert versions(mine) == versions(theirs)
    assert facts(other.shard)[3] == facts(whole.shard)[3]
    assert facts(other.shard)[2] == facts(whole.shard)[2]


def versions(kind: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    return {channel: {name: fact.version for name, fact in held.items()} for channel, held in kind.items()}


@pytest.mark.parametrize("kind", ["join", "leave", "cursor", "revoke"])
def test_the_search_reaches_every_kind(kind: str) -> None:
    """The pieces make state records of every kind, so that the search is about them."""
    cluster = Cluster()
    made = [Piece("join", "group:g", "a", 1, 0), Piece(kind, "group:g", "a", 3, 0)]  # type: ignore[arg-type]
    cluster.play(made, [])
    kinds = {(state.kind, state.present) for state in cluster.states}
    expected = {"join": ("member", True), "leave": ("group", False), "cursor": ("cursor", True)}
    assert expected.get(kind, ("revoke", True)) in kinds
