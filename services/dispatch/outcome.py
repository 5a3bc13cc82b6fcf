"""What follows from an applied batch: items for nodes, and what must be durable before `saved` moves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.channel import partition_of
from holdfast.errors import Reject
from holdfast.log.port import Op, Outcome
from holdfast.nodelink.frames import ChangeItem, Item, MessageItem, ReplyItem
from holdfast.protocol.frames import Error
from holdfast.records import Message, Outbound, Reply, StateRecord, UserGroup, dead_headers, encode

from . import journal
from .intake import decode, log_record, skipped
from .saver import Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.bus.port import Record
    from holdfast.log.port import Applied, LogRecord, Placed
    from holdfast.observe.metrics import Metrics
    from holdfast.observe.tracing import Span, Tracing

REFUSAL_MS: Final = 10_000
"""How long (ms) a sender may still be told that its `n` was used before."""

_log = logging.getLogger(__name__)

_json: Final = msgspec.json.Encoder().encode


class Taken:
    """One fetched batch on its way: what each record says, what is asked of the shard, what follows.

    `messages` and `asked` go along with `records`; a message is None where the record is a dead letter.
    `spans`: the steps of the records that are followed, by offset; None where there are none.
    """

    __slots__ = ("asked", "by_node", "dead", "messages", "records", "spans", "writes")

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.messages: list[Outbound | None] = []
        self.asked: list[LogRecord] = []
        self.by_node: dict[str, list[Item]] = {}
        self.writes: list[Write] = []
        self.dead: list[str] = []
        self.spans: dict[int, Span] | None = None

    def give(self, node: str, item: Item) -> None:
        """Add an item for one node."""
        items = self.by_node.get(node)
        if items is None:
            self.by_node[node] = [item]
        else:
            items.append(item)

    def follow(self, tracing: Tracing) -> None:
        """Begin the step of those records that are followed."""
        spans: dict[int, Span] = {}
        for record in self.records:
            if record.headers:
                span = tracing.of_record(
                    record.headers,
                    "dispatch append",
                    partition=str(record.partition),
                    offset=record.offset,
                    batch=len(self.records),
                )
                if span is not None:
                    spans[record.offset] = span
        self.spans = spans or None

    def trace(self, offset: int) -> str:
        """Return the context that what follows from a record carries."""
        span = self.spans.get(offset) if self.spans is not None else None
        return "" if span is None else span.carried

    def end_spans(self, applied: Applied) -> None:
        """Say of the records that are followed what became of them."""
        for record, placed in zip(self.records, applied.placed, strict=True):
            span = self.spans.pop(record.offset, None) if self.spans else None
            if span is not None:
                span.end(placed.outcome.name.lower(), seq=placed.seq, nodes=len(placed.nodes))


class Interpreter:
    """Turns results into effects, and counts."""

    def __init__(self, metrics: Metrics, partitions: int) -> None:
        self._partitions = partitions
        self._journal = journal.wanted()
        self._dead = metrics.dispatch_dead_letters
        # Children are looked up once: `labels` costs more than all else that is done for a message.
        self._done = metrics.dispatch_records.labels("done")
        self._skipped = metrics.dispatch_records.labels("skipped")
        self._reused = metrics.dispatch_records.labels("reused")
        self._messages = metrics.dispatch_pushed.labels("message")
        self._replies = metrics.dispatch_pushed.labels("reply")
        self._late = metrics.dispatch_records.labels("late")
        self._changes = metrics.dispatch_pushed.labels("change")

    def take_in(self, records: Sequence[Record]) -> Taken:
        """Decode a batch. What cannot be taken in becomes a dead letter; only the watermark moves for it."""
        taken = Taken(records)
        for record in records:
            try:
                message = decode(record, self._partitions)
                taken.asked.append(log_record(record, message))
            except Reject as reject:
                self._dead_letter(taken, record, reject.code, str(reject))
                taken.messages.append(None)
                taken.asked.append(skipped(record))
            else:
                taken.messages.append(message)
        return taken

    def refused(self, record: Record, reason: str) -> Taken:
        """Stand in for a record that the shard cannot decide on."""
        taken = Taken((record,))
        self._dead_letter(taken, record, "refused", reason)
        taken.messages.append(None)
        taken.asked.append(skipped(record))
        return taken

    def _dead_letter(self, taken: Taken, record: Record, reason: str, detail: str) -> None:
        """Keep the original with the reason."""
        taken.dead.append(reason)
        _log.warning(
            "dead letter: %s",
            detail,
            extra={"partition": record.partition, "offset": record.offset, "reason": reason},
        )
        headers = dead_headers(reason, detail, "outbound", record.partition, record.offset)
        taken.writes.append(
            Write("dead", record.partition, record.key, record.value, (*record.headers, *headers))
        )

    def interpret(self, taken: Taken, applied: Applied, *, new_after: int, known: int, now_ms: int) -> None:
        """Add what follows from each record. Records up to offset `new_after` are replays: not shown.

        Replies up to `known` were pushed before, as far as that was possible.
        """
        done = skipped = reused = pushed = 0
        by_node = taken.by_node
        followed = taken.spans is not None
        for record, message, asked, placed in zip(
            taken.records, taken.messages, taken.asked, applied.placed, strict=True
        ):
            outcome = placed.outcome
            if type(message) is Message:
                if outcome == Outcome.DONE:
                    done += 1
                    if placed.nodes and record.offset > new_after:
                        item = MessageItem(
                            message.channel,
                            placed.epoch,
                            placed.seq,
                            asked.body,
                            message.sent,
                            taken.trace(record.offset) if followed else "",
                        )
                        for node in placed.nodes:
                            items = by_node.get(node)
                            if items is None:
                                by_node[node] = [item]
                            else:
                                items.append(item)
                        pushed += len(placed.nodes)
                elif outcome == Outcome.SKIPPED:
                    skipped += 1
                else:
                    reused += 1
                    self._refuse(taken, record, message, now_ms)
            elif message is not None:
                if outcome == Outcome.DONE:
                    done += 1
                else:
                    skipped += 1
                new = record.offset > max(new_after, applied.found.offset)
                if isinstance(message, Reply):
                    if record.offset > known:
                        self._reply(taken, record, message, now_ms)
                else:
                    self._change(taken, record, asked, placed, new=new)
        if self._journal:
            journal.applied(taken, applied)
        for reason in taken.dead:
            self._dead.labels(reason).inc()
        self._done.inc(done)
        self._skipped.inc(skipped)
        self._reused.inc(reused)
        self._messages.inc(pushed)

    def _reply(self, taken: Taken, record: Record, reply: Reply, now_ms: int) -> None:
        if now_ms > reply.deadline:
            self._late.inc()
            return
        self._replies.inc()
        trace = taken.trace(record.offset)
        taken.give(reply.node, ReplyItem(reply.connection, reply.deadline, reply.frame, trace))

    def _refuse(self, taken: Taken, record: Record, message: Message, now_ms: int) -> None:
        self._dead_letter(taken, record, "n_reused", "its number was used for another content")
        if message.origin is not None:
            node, connection, frame = message.origin
            error = Error(
                code="n_reused", message="this n was used for another content", retry=False, id=frame
            )
            self._replies.inc()
            taken.give(node, ReplyItem(connection, now_ms + REFUSAL_MS, _json(error)))

    def _change(self, taken: Taken, record: Record, asked: LogRecord, placed: Placed, *, new: bool) -> None:
        """Write down what decides who may see what, and tell the nodes it concerns.

        A record that was taken in before is written again if it is still the deciding one: the one that
        overruled it comes later in the same log, and is written then.
        """
        done = placed.outcome == Outcome.DONE
        op, channel, source = asked.op, asked.channel, asked.source
        what = ""
        state: StateRecord | None = None
        if op in (Op.JOIN, Op.LEAVE):
            if done or placed.version == asked.offset:
                joined = op == Op.JOIN
                state = StateRecord(
                    "member", channel, source, placed.version, placed.epoch, placed.seq, joined
                )
                user = f"user:{source}"
                told = UserGroup(user, channel, placed.version, placed.epoch, placed.seq, joined)
                home = partition_of(user, self._partitions)
                taken.writes.append(Write("outbound", home, user.encode(), encode(told)))
        elif op == Op.GROUP:
            what = "group"
            if done or placed.version == asked.score:
                state = StateRecord(
                    "group", channel, source, asked.score, asked.epoch, asked.seq, bool(asked.content)
                )
        elif op == Op.CURSOR:
            if done or (placed.epoch, placed.seq) == (asked.epoch, asked.score):
                state = StateRecord("cursor", channel, source, placed.version, asked.epoch, asked.score)
        elif op == Op.REVOKE:
            what = "revoke"
            if done or asked.score in (placed.seq, placed.version):
                state = StateRecord("revoke", channel, "", asked.score, seq=asked.score)
        if state is not None:
            taken.writes.append(Write("state", record.partition, state.key.encode(), encode(state)))
        if what and done and new:
            for node in placed.nodes:
                self._changes.inc()
                taken.give(node, ChangeItem(channel, what))
