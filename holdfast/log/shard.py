"""One shard as pure code: no I/O, no clock, no task. The reference for what the Lua scripts do.

`MemoryLog` gives it a port's face; a simulation copies it, to lose a suffix of its writes by putting the
copy back. All decisions follow from the records alone, but for how long bodies are kept.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from holdfast import records
from holdfast.errors import Stop
from holdfast.log.channels import Bodies, Header, Seen, entries_of
from holdfast.log.facts import Fact, Facts, generation_of, skipped
from holdfast.log.nodes import Nodes
from holdfast.log.port import (
    NEW,
    WINDOW_MS,
    Applied,
    BeatAnswer,
    Op,
    Outcome,
    Placed,
    Rebuilding,
    ShardState,
    Status,
    View,
    Watermark,
)
from holdfast.log.rules import AGED, SWEEP, older, retention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.log.port import Batch, LogRecord, Query, Swept
    from holdfast.policy import Policy
    from holdfast.records import StateRecord


_OPS = frozenset(int(op) for op in Op)


class Shard:
    """Everything of one partition."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self.policies = policies
        self.owner = ""
        self.moved = 0
        self.watermark = Watermark()
        self.saved = NEW
        self.generation = ""
        self.until = NEW
        self.partitions = 0
        self.damaged = False
        self.headers: dict[str, Header] = {}
        self.bodies: dict[str, Bodies] = {}
        self.last_offsets: dict[str, int] = {}  # ordered by offset
        self.seen = Seen()
        # Who left a group, with version and generation; `gone` is from the state topic, while rebuilding.
        self.left = Seen()
        self.gone: dict[tuple[str, str], tuple[int, str]] = {}
        self.facts = Facts()
        self.nodes = Nodes()

    def copy(self) -> Shard:
        """Return a copy that shares nothing that changes (policies are shared)."""
        return copy.deepcopy(self, {id(self.policies): self.policies})

    # the token

    def state(self) -> ShardState:
        """See `Log.state`."""
        until = self.until if self.watermark.offset < self.until else NEW
        return ShardState(
            self.owner,
            self.moved,
            self.watermark,
            self.saved,
            self.generation,
            until,
            self.partitions,
            self.damaged,
        )

    def claim(self, owner: str, expected: ShardState, generation: str, partitions: int) -> ShardState:
        """See `Log.claim`. Raises Stop when the shard was made with another number of partitions."""
        if self.partitions not in (0, partitions):
            raise Stop(f"kafka.partitions is {partitions}, but the store was made with {self.partitions}")
        if (self.owner, self.moved) == (expected.owner, expected.moved):
            self.owner = owner
            self.moved += 1
            self.partitions = partitions
            self.generation = self.generation or generation
        return self.state()

    def release(self, owner: str) -> None:
        """See `Log.release`."""
        if self.owner == owner:
            self.owner = ""
            self.moved += 1

    # rebuilding

    def load(self, owner: str, facts: Sequence[StateRecord]) -> bool:
        """See `Log.load`."""
        if not owner or owner != self.owner:
            return False
        self.nodes.load(facts)
        self.facts.load(facts, self.gone)
        return True

    def begin(self, owner: str, generation: str, until: int, *, wipe: bool) -> ShardState:
        """See `Log.begin`."""
        if owner and owner == self.owner:
            if wipe:
                self.headers, self.bodies, self.last_offsets = {}, {}, {}
                self.seen, self.left = Seen(), Seen()
                self.watermark, self.saved, self.damaged = Watermark(), NEW, False
            self.generation, self.until = generation, until
            if until == NEW:
                self.gone = {}
            self.moved += 1
        return self.state()

    @property
    def rebuilding(self) -> bool:
        """Whether what is held is not yet what was held."""
        return self.damaged or not self.generation or self.watermark.offset < self.until

    def settled(self) -> None:
        """Raise Rebuilding where what is held is not yet what was held."""
        if self.rebuilding:
            raise Rebuilding("the shard is being rebuilt")

    # the log

    def apply(self, batch: Batch, now_ms: int) -> Applied:
        """See `Log.apply`; `now_ms` is the store's own clock, for the age of lists."""
        found = self.watermark
        if not batch.owner or batch.owner != self.owner:
            return Applied(Status.FENCED, found)
        if self.damaged:
            return Applied(Status.DAMAGED, found)
        other = batch.generation and batch.generation != self.generation
        if other or found.offset < batch.carried.offset:
            return Applied(Status.BEHIND, found)
        for index, record in enumerate(batch.records):
            if record.op not in _OPS:
                return Applied(Status.REFUSED, found, reason=f"record {index}: unknown op {int(record.op)}")
        self.damaged = True
        if batch.last.offset > found.offset:
            self._sweep(found.ts)
        for record in batch.records:
            self._expire(record.channel, now_ms)
        grown: dict[str, int] = {}
        placed = [self._place(record, found.offset, grown) for record in batch.records]
        for channel, latest in grown.items():
            self._trim(channel, latest, now_ms, batch.now_ms)
        self.moved += 1
        self.saved = max(self.saved, batch.saved)
        if batch.last.offset > found.offset:
            self.watermark = batch.last
        if found.offset < self.until <= self.watermark.offset:
            self.gone = {}
        self.damaged = False
        return Applied(Status.APPLIED, found, placed)

    def _place(self, record: LogRecord, done: int, grown: dict[str, int]) -> Placed:
        if record.offset <= done:
            return self._held(record)
        self.seen.advance(record.ts)
        self.left.advance(record.ts)
        match record.op:
            case Op.PASS:
                return Placed(Outcome.DONE)
            case Op.APPEND:
                placed = self._append(record, grown)
            case Op.JOIN | Op.LEAVE | Op.GROUP:
                placed = self._membership(record)
            case Op.CURSOR:
                header = self.headers.get(record.channel)
                current = header.epoch if header is not None and not header.idle(record.ts) else ""
                placed = self.facts.move_cursor(record, current)
            case Op.REVOKE:
                placed = self.facts.revoke(record)
                self._touch(record)
            case _:
                placed = Placed(Outcome.DONE)
        if placed.outcome is not Outcome.DONE:
            return placed
        route = self.nodes.route(record.channel)
        return Placed(Outcome.DONE, placed.seq, placed.epoch, route, placed.version)

    def _touch(self, record: LogRecord) -> Header:
        """Return the channel's header, made anew if there is none or it idled too long."""
        channel = record.channel
        header = self.headers.get(channel)
        if header is None or header.idle(record.ts):
            self.headers[channel] = header = Header(f"{self.generation}.{record.offset}")
            self.bodies.pop(channel, None)
        header.ts = max(header.ts, record.ts)
        header.keep_ms = retention(self.policies, channel)[1]
        self.last_offsets.pop(channel, None)
        self.last_offsets[channel] = record.offset
        return header

    def _append(self, record: LogRecord, grown: dict[str, int]) -> Placed:
        if record.source:
            before = self.seen.get(record.channel, record.source)
            if before is not None and (record.score == records.KEYED or record.score <= before[0]):
                other = record.content and before[1] and record.content != before[1]
                same_number = record.score == before[0] and record.score != records.KEYED
                return Placed(Outcome.REUSED if same_number and other else Outcome.SKIPPED)
            self.seen.put(record.channel, record.source, record.score, record.content)
        header = self._touch(record)
        seq = header.next
        header.next += 1
        self.bodies.setdefault(record.channel, Bodies()).entries.append(record.body)
        grown[record.channel] = record.ts
        return Placed(Outcome.DONE, seq, header.epoch)

    def _expire(self, channel: str, now_ms: int) -> None:
        bodies = self.bodies.get(channel)
        if bodies is not None and bodies.until_ms <= now_ms:
            del self.bodies[channel]

    def _trim(self, channel: str, latest: int, now_ms: int, batch_now_ms: int) -> None:
        """Keep what the policy keeps, by count and by age now: a replay brings nothing old to light."""
        keep_count, keep_ms = retention(self.policies, channel)
        bodies = self.bodies.get(channel)
        if bodies is None:  # the channel began again later in the batch
            return
        entries = bodies.entries
        left_ms = latest + keep_ms - batch_now_ms
        if left_ms <= 0:
            del self.bodies[channel]
            return
        bodies.until_ms = now_ms + left_ms
        while len(entries) > keep_count:
            entries.popleft()
        for _ in range(AGED):
            if not entries or not older(entries[0], max(latest, batch_now_ms) - keep_ms):
                break
            entries.popleft()

    def _sweep(self, now_ts: int) -> None:
        """Remove headers that hold no more, the longest untouched first.

        One window later than they end, and by the time before the batch: no record to come could still
        have found them, however records are cut into batches.
        """
        for channel in list(self.last_offsets)[:SWEEP]:
            if not self.headers[channel].idle(now_ts - WINDOW_MS):
                return
            del self.headers[channel], self.last_offsets[channel]
            self.bodies.pop(channel, None)

    # memberships: a leave is remembered for a while, so that an older join does not undo it
    #
    # They touch their channel whether they decide anything or not: a replay onto facts that were loaded from
    # the state topic decides less than the first run did, and must make the same headers.

    def _facts(self, record: LogRecord) -> dict[str, Fact]:
        kind = self.facts.groups if record.op == Op.GROUP else self.facts.members
        return kind.get(record.channel, {})

    def _newest(self, record: LogRecord) -> tuple[Fact | None, str]:
        """Return what is known of a membership, and of which generation."""
        held = self._facts(record).get(record.source)
        if held is not None:
            return held, generation_of(held.epoch)
        channel, source = record.channel, record.source
        left = self.left.get(channel, source)
        if left is None and self.watermark.offset < self.until:
            left = self.gone.get((channel, source))
        # Its epoch is the generation alone: what is written again from it must stay comparable.
        return (None, "") if left is None else (Fact(left[0], 0, str(left[1])), str(left[1]))

    def _membership(self, record: LogRecord) -> Placed:
        version = record.score if record.op == Op.GROUP else record.offset
        header = self._touch(record)
        newest, known = self._newest(record)
        generation = generation_of(record.epoch if record.op == Op.GROUP else header.epoch)
        if newest is not None and known == generation:
            if newest.version == version and record.op == Op.GROUP and not record.content:
                self.left.put(record.channel, record.source, version, generation)
            if newest.version > version or (newest.version == version and record.op == Op.GROUP):
                return skipped(newest)
        if record.op == Op.GROUP:
            fact, present = Fact(version, record.seq, record.epoch), record.content == 1
        else:
            fact, present = Fact(version, header.next - 1, header.epoch), record.op == Op.JOIN
            held = self._facts(record).get(record.source)
            if present and held is not None and held.epoch == header.epoch:
                fact = Fact(version, held.seq, held.epoch)  # a member who joins again keeps the place
        kind = self.facts.groups if record.op == Op.GROUP else self.facts.members
        facts = kind.setdefault(record.channel, {})
        if present:
            facts[record.source] = fact
        else:
            facts.pop(record.source, None)
            self.left.put(record.channel, record.source, version, generation)
        if not facts:
            del kind[record.channel]
        return Placed(Outcome.DONE, fact.seq, fact.epoch, (), version)

    def _held(self, record: LogRecord) -> Placed:
        """Return what is held where the record itself was taken in before."""
        match record.op:
            case Op.JOIN:
                return skipped(self._newest(record)[0])
            case Op.LEAVE:
                return skipped(self._newest(record)[0], absent=record.offset, epoch=self.generation)
            case Op.GROUP:
                return skipped(self._newest(record)[0], absent=0 if record.content else record.score)
            case Op.CURSOR:
                return skipped(self.facts.cursors.get(record.channel, {}).get(record.source))
            case Op.REVOKE:
                before = self.facts.revoked.get(record.channel, 0)
                return Placed(Outcome.SKIPPED, before, "", (), before)
            case _:
                return Placed(Outcome.SKIPPED)

    # reading

    def read(self, queries: Sequence[Query], now_ms: int) -> tuple[View, ...]:
        """See `Log.read`."""
        self.settled()
        return tuple(self._view(query, now_ms) for query in queries)

    def _view(self, query: Query, now_ms: int) -> View:
        channel, facts = query.channel, self.facts
        header = self.headers.get(channel)
        epoch, head, first = "", 0, 1
        entries: Sequence[tuple[int, bytes]] = ()
        if header is not None and not header.idle(self.watermark.ts):
            bodies = self.bodies.get(channel)
            kept = () if bodies is None or bodies.until_ms <= now_ms else tuple(bodies.entries)
            epoch, head = header.epoch, header.next - 1
            first = header.next - len(kept)
            entries = entries_of(query, epoch, head, first, kept)
        return View(
            epoch=epoch,
            head=head,
            first=first,
            entries=entries,
            cursor=facts.cursor(channel, query.device) if query.device else None,
            membership=facts.member(channel, query.member) if query.member else None,
            groups=facts.of_user(channel) if query.user else (),
            revoked=facts.revoked.get(channel, 0),
            generation=self.generation,
            position=self.watermark.offset,
        )

    def changed(self, since: int, limit: int) -> tuple[Watermark, tuple[tuple[str, int], ...]]:
        """See `Log.changed`."""
        self.settled()
        newer = []
        for channel, offset in reversed(self.last_offsets.items()):
            if offset <= since:
                break
            newer.append((channel, offset))
        newer.reverse()
        return self.watermark, tuple(newer[:limit])

    def beat(self, incarnation: str, told: int, load: int) -> BeatAnswer:
        """See `Log.beat`."""
        number, kicks, asks = self.nodes.beat(incarnation, told, load)
        return BeatAnswer(
            number,
            self.watermark,
            self.generation,
            kicks,
            asks,
            rebuilding=self.rebuilding,
            fenced=incarnation in self.nodes.dead,
            loads=dict(self.nodes.loads) if load >= 0 else {},
        )

    def sweep(
        self, owner: str, incarnation: str, done: Sequence[tuple[str, str]], limit: int
    ) -> Swept | None:
        """See `Log.sweep`."""
        if not owner or owner != self.owner or incarnation not in self.nodes.dead:
            return None
        return self.nodes.sweep(incarnation, done, limit)
