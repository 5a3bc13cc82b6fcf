"""The ledger: what was sent, acked, written, applied and presented; and whether that may be so.

Each entry is checked when it is made, and all of them together at quiet. Numbers are those of
`docs/invariants.md`; 0 is what no invariant says but nobody would want (an unhandled exception).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from holdfast import records
from holdfast.log.port import NEW, Op, Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.log.port import Applied, Batch

    Position = tuple[str, int]


class Violation(NamedTuple):
    """What must not be."""

    invariant: int
    text: str
    at: float

    def __str__(self) -> str:
        return f"inv {self.invariant}: {self.text} (at {self.at:.3f} s)"


@dataclass
class Sent:
    """One send of a client. `expected`: how many messages it makes in which channel."""

    user: str
    client: str
    expected: Counter[str]
    state: str = "open"
    id: str = ""


@dataclass
class Memory:
    """What one program has seen: its place in each channel, and every message ever."""

    name: str
    places: dict[str, Position] = field(default_factory=dict)
    seen: dict[tuple[str, str], Position] = field(default_factory=dict)
    resets: int = 0


class Ledger:
    """See the module. `may_reset`: Redis lost everything, so that clients may see a `reset` (inv 9).

    `resets_for(program, channel, place)`: one may be told this program, for another reason.
    """

    def __init__(self, now: Callable[[], float], *, keep: bool) -> None:
        self.violations: list[Violation] = []
        self.history: list[str] = []
        self.counts: Counter[str] = Counter()
        self.may_reset = False
        self.anew = False  # a log was made anew: what was said in another generation of it may be said again
        self.sends: dict[str, Sent] = {}
        self.published: dict[tuple[str, str], int] = {}
        self.log: dict[tuple[str, str], list[str]] = {}
        self.place: dict[tuple[str, str], Position] = {}
        self.causes: Counter[tuple[str, str]] = Counter()
        self.dead: dict[tuple[str, int, int], str] = {}  # where a dead letter was, and the reason
        self.dead_sends: set[str] = set()
        self.cursors: dict[tuple[str, str], list[tuple[float, Position]]] = {}  # those kept, and when
        self.resets_for: Callable[[str, str, int], bool] = lambda *_: False
        self._now = now
        self._keep = keep
        self._inbound: set[str] = set()
        self._outbound: set[str] = set()
        self._numbers: dict[tuple[str, str], int] = {}
        self._scores: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._applied: dict[tuple[str, str, str], int] = {}

    def note(self, text: str) -> None:
        """Add a line to the history."""
        if self._keep:
            self.history.append(f"{self._now():9.4f}  {text}")

    def violated(self, invariant: int, text: str) -> None:
        """Note what must not be."""
        violation = Violation(invariant, text, self._now())
        self.violations.append(violation)
        self.note(f"VIOLATION {violation}")

    # the queue

    def appended(self, topic: str, partition: int, value: Any, offset: int, headers: Any) -> None:
        """Take what was written into the queue."""
        if topic == "inbound":
            send = _decoded(records.decode_inbound, value)
            if isinstance(send, records.Send):
                self._sent(send, partition, offset)
        elif topic == "outbound":
            message = _decoded(records.decode_outbound, value)
            if isinstance(message, records.Message):
                self._put_out(message, partition, offset)
        elif topic == "dead":
            self._buried(value, {name: told.decode() for name, told in headers})

    def _buried(self, value: Any, headers: dict[str, str]) -> None:
        self.counts["dead letters"] += 1
        self.note(f"dead letter: {headers} {value!r:.200}")
        place = (headers.get("topic", ""), int(headers.get("partition", -1)), int(headers.get("offset", -1)))
        self.dead[place] = headers.get("reason", "")
        send = _decoded(records.decode_inbound, value)
        if isinstance(send, records.Send):
            self.dead_sends.add(send.message)

    def _sent(self, send: records.Send, partition: int, offset: int) -> None:
        self.note(f"inbound {partition}/{offset}: {send.client} n={send.n} to {send.to}")
        self._inbound.add(send.message)
        key = (send.user, send.client)
        before = self._numbers.get(key)
        if before is not None and send.n > before + 1:
            self.violated(12, f"{send.client}: n={send.n} entered the queue after n={before}")
        self._numbers[key] = max(before or 0, send.n)

    def _put_out(self, message: records.Message, partition: int, offset: int) -> None:
        members = records.entry_members(b'"ts":0,' + message.body)
        self._outbound.add(members["id"])
        self.note(f"outbound {partition}/{offset}: {message.channel} {members['id']} score={message.score}")
        if message.score == records.KEYED or not message.source:
            return
        scores = self._scores[message.channel, message.source]
        if message.score not in scores:
            if scores and message.score < max(scores):
                text = f"{message.score} of {message.source!r} first came after {max(scores)}"
                self.violated(12, f"{message.channel}: score {text}")
            scores.append(message.score)

    # the log

    def applied(self, shard: int, batch: Batch, applied: Applied, owner: str) -> None:
        """Take what an apply has done to a shard whose token is `owner`'s."""
        if applied.status != Status.APPLIED:
            self.note(f"apply {shard} by {batch.owner}: {applied.status.name}")
            return
        if batch.last.offset > applied.found.offset:
            self.note(f"apply {shard} by {batch.owner}: {applied.found.offset} -> {batch.last.offset}")
        if batch.owner != owner:
            self.violated(8, f"{batch.owner} applied to shard {shard}, whose owner is {owner}")
        for record, placed in zip(batch.records, applied.placed, strict=True):
            if record.op == Op.APPEND and placed.outcome == Outcome.DONE and placed.seq:
                self._placed(record, placed.epoch, placed.seq)
            elif record.op == Op.CURSOR and placed.outcome == Outcome.DONE:
                kept = self.cursors.setdefault((record.channel, record.source), [])
                kept.append((self._now(), (record.epoch, record.score)))
            elif placed.outcome == Outcome.REUSED:
                self.violated(
                    12, f"{record.channel}: {record.source!r} {record.score} came with other content"
                )

    def _placed(self, record: Any, epoch: str, seq: int) -> None:
        members = records.entry_members(record.body)
        channel, name = record.channel, members["id"]
        entries = self.log.setdefault((channel, epoch), [])
        if seq <= len(entries):
            if entries[seq - 1] != name:
                self.violated(3, f"{channel} {epoch} {seq} was {entries[seq - 1]} and is now {name}")
            return  # written again, after Redis lost it
        if seq != len(entries) + 1:
            self.violated(3, f"{channel} {epoch} has no {len(entries) + 1}, but {seq}")
        before = self.place.get((channel, name))
        if before is not None and before != (epoch, seq) and not self._another(before[0], epoch):
            self.violated(3, f"{channel}: {name} is at {before} and at {(epoch, seq)}")
        entries.append(name)
        self.place[channel, name] = (epoch, seq)
        if before is None and (cause := members.get("cause")) is not None:
            self.causes[channel, cause] += 1
        if record.source and record.score != records.KEYED:
            key = (channel, epoch, record.source)
            if record.score <= self._applied.get(key, NEW):
                self.violated(3, f"{channel} {seq}: {record.source!r} {record.score} out of order")
            self._applied[key] = record.score

    def _another(self, epoch: str, other: str) -> bool:
        """Tell whether two epochs are of different generations of a log that was made anew."""
        return self.anew and epoch.partition(".")[0] != other.partition(".")[0]

    def kept_cursor(self, channel: str, source: str, before: float) -> Position | None:
        """Return the last cursor of a device that the store had taken in by a time."""
        kept = self.cursors.get((channel, source), ())
        return max((one for one in kept if one[0] < before), default=(0.0, None))[1]

    def known_head(self, channel: str) -> int:
        """Return the highest head that a channel ever had, whatever the store has lost since."""
        return max((len(names) for (name, _), names in self.log.items() if name == channel), default=0)

    # senders

    def send(self, key: str, sent: Sent) -> None:
        """Take a send as it is made."""
        self.sends[key] = sent
        self.counts["sent"] += 1

    def acked(self, key: str, message: str) -> None:
        """Take an ack."""
        self.counts["acked"] += 1
        self.note(f"acked {key} as {message}")
        sent = self.sends[key]
        sent.state, sent.id = "acked", message
        if message not in self._inbound:
            self.violated(1, f"{key} was acked and is not in the queue")

    def answered(self, channel: str, key: str, message: str) -> None:
        """Take the API's answer to a publish with an idempotency key."""
        self.counts["published"] += 1
        self.note(f"published {key} to {channel} as {message}")
        self.published[channel, message] = 1
        if message not in self._outbound:
            self.violated(1, f"{key} was answered and is not in the queue")

    # programs

    def began(self, memory: Memory, channel: str, epoch: str, seq: int, *, recovered: bool) -> None:
        """Take a channel's state, as `connected` and `subscribed` tell it."""
        place = memory.places.get(channel)
        if place is None:
            memory.places[channel] = (epoch, seq)
        elif recovered and place != (epoch, seq) and not (place == ("", 0) and seq == 0):
            self.violated(4, f"{memory.name} {channel}: is at {place}, and goes on after {(epoch, seq)}")
            memory.places[channel] = (epoch, seq)
        elif place == ("", 0) and seq == 0:
            memory.places[channel] = (epoch, seq)

    def reset(self, memory: Memory, channel: str, epoch: str, seq: int, reason: str) -> None:
        """Take a `reset`."""
        place = memory.places.get(channel)
        memory.resets += 1
        self.counts["resets"] += 1
        self.note(f"{memory.name}: reset {channel} from {place} to {(epoch, seq)}: {reason}")
        if not self.may_reset and not self.resets_for(memory.name, channel, place[1] if place else 0):
            self.violated(4, f"{memory.name} {channel}: reset from {place} to {(epoch, seq)}, {reason}")
        memory.places[channel] = (epoch, seq)

    def presented(self, memory: Memory, channel: str, epoch: str, seq: int, name: str) -> None:
        """Take a message that a program was given."""
        self.counts["presented"] += 1
        self.note(f"{memory.name}: {channel} {seq} {name}")
        place = memory.places.get(channel)
        if place is None:
            self.violated(4, f"{memory.name}: {channel} {seq} without a subscription")
        elif place[0] not in (epoch, "") or seq != place[1] + 1:
            self.violated(4, f"{memory.name} {channel}: {(epoch, seq)} follows {place}")
        before = memory.seen.get((channel, name))
        if before is not None and not self._another(before[0], epoch):
            self.violated(4, f"{memory.name} {channel}: {name} twice, at {before} and {(epoch, seq)}")
        entries = self.log.get((channel, epoch), [])
        if seq > len(entries) or entries[seq - 1] != name:
            held = entries[seq - 1] if seq <= len(entries) else "nothing"
            self.violated(3, f"{memory.name} {channel} {seq}: got {name}, the log has {held}")
        memory.places[channel] = (epoch, seq)
        memory.seen[channel, name] = (epoch, seq)

    # at quiet

    def saw_all(self, memory: Memory, channel: str, head: int) -> None:
        """Check that a session that was there all the time has all that came after a head."""
        for (name, _), names in () if self.anew else self.log.items():
            for missed in names[head:] if name == channel else ():
                if (channel, missed) not in memory.seen:
                    self.violated(5, f"{memory.name} came at {head} of {channel} and never saw {missed}")

    def settle(self) -> None:
        """Check that what was promised has happened, once."""
        for key, sent in self.sends.items():
            if sent.state == "open":
                self.violated(1, f"{key} was neither acked nor refused")
            if sent.state != "acked":
                continue
            for channel, count in sent.expected.items():
                found = self.causes[channel, sent.id]
                if found != count:
                    word = "lost" if found < count else "doubled"
                    self.violated(2, f"{key} ({sent.id}) is {found} times in {channel}, not {count}: {word}")
        for channel, name in self.published:
            if (channel, name) not in self.place:
                self.violated(1, f"the published {name} is not in {channel}: lost")


def _decoded(decode: Callable[[bytes], Any], value: bytes | None) -> Any:
    """Return what a record says, None where it is none."""
    try:
        return decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
