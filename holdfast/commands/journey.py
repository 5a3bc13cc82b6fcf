"""The traces that a message leaves on its way from Kafka to a channel's log."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast import records
from holdfast.bus import span
from holdfast.commands.show import plain
from holdfast.log.port import Query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.bus.port import Record, Topic
    from holdfast.parts import Parts

MOST = 200
"""Records of one topic that speak of a message and are looked at, at most; the answer says where it cuts."""

LOOK_BACK = 2000
"""Newest entries of a channel among which a message is looked for, at most."""

_PAGE = 200

WAITING = {
    "waits for logic": "It is in Kafka and safe, and logic has not handled it yet. `holdfast nodes` shows "
    "whether logic is there; its log shows handlers that are tried again.",
    "waits for dispatch": "It is in Kafka and safe, and dispatch has not applied it yet. `holdfast doctor` "
    "looks at its partition.",
    "rebuilding": "Its shard is being rebuilt from Kafka; it is delivered when that is over.",
}
"""What a state means for who asks where the message is."""


class Step(msgspec.Struct):
    """One trace. `ts` is the broker's time of the record (Unix ms), 0 where there is none."""

    step: str
    where: str
    state: str
    detail: str = ""
    ts: int = 0


async def of(ports: Parts, name: str, since: int, partitions: Mapping[str, Sequence[int]]) -> Sequence[Step]:
    """Return the traces of a message in the order of its way; empty where there is none.

    `partitions` may say which of a topic to read. Raises Retry.
    """
    dead = [_step_of_letter(record) for record in await find(ports, "dead", name, since)]
    inbound = await find(ports, "inbound", name, since, partitions.get("inbound"))
    outbound = await find(ports, "outbound", name, since, partitions.get("outbound"))
    steps: list[Step] = []
    sent = [(record, value) for record in inbound if (value := _inbound(record, name)) is not None]
    if not sent:
        # An output's id is the handler's: what it came of has the id in its `cause`.
        causes = {cause for record in outbound if (cause := _cause(record, name)) and cause != name}
        for cause in causes:
            found = await find(ports, "inbound", cause, since, partitions.get("inbound"))
            sent += [(record, value) for record in found if (value := _inbound(record, cause)) is not None]
    # What came of it says that it was handled, up to a second before logic commits.
    handled = max((record.ts for record in outbound), default=0)
    handled = max([handled, *(step.ts for step in dead if step is not None)])
    if sent:
        progress = await ports.bus.progress("inbound", ports.settings.kafka.group)
        for record, value in sent:
            committed = progress[record.partition][0]
            steps += _steps_of_send(record, value, committed, done=record.ts <= handled)
    for record in outbound:
        message = _outbound(record, name)
        if message is not None:
            steps += await _steps_of_message(ports, record, message)
    return [*steps, *(step for step in dead if step is not None)]


async def find(
    ports: Parts, topic: Topic, name: str, since: int, partitions: Sequence[int] | None = None
) -> Sequence[Record]:
    """Return the records of a topic since a time (Unix ms) in whose value an id stands, MOST at most."""
    ends = await ports.bus.ends(topic)
    wanted = [p for p in (ends if partitions is None else partitions) if ends[p][0] < ends[p][1]]
    offsets = await asyncio.gather(*(ports.bus.offset_at(topic, partition, since) for partition in wanted))
    spans = {p: (at, ends[p][1]) for p, at in zip(wanted, offsets, strict=True)}
    sought = name.encode()
    found: list[Record] = []
    async with contextlib.aclosing(span.read(ports.bus, ports.clock, topic, spans)) as batches:
        async for batch in batches:
            found += [record for record in batch if record.value is not None and sought in record.value]
            if len(found) >= MOST:
                break
    return sorted(found, key=lambda record: (record.ts, record.partition, record.offset))[:MOST]


def _inbound(record: Record, name: str) -> records.Send | records.Request | records.SessionEvent | None:
    """Return what has this id, and not what just speaks of it."""
    value = _decoded(records.decode_inbound, record)
    if isinstance(value, records.Send):
        return value if value.message == name else None
    if isinstance(value, records.Request):
        return value if value.key == name else None
    return value if isinstance(value, records.SessionEvent) and name in (value.id, value.session) else None


def _outbound(record: Record, name: str) -> records.Message | None:
    """Return the message with this id, or caused by the one with this id."""
    value = _decoded(records.decode_outbound, record)
    if not isinstance(value, records.Message):
        return None
    members = records.entry_members(value.body)
    return value if name in (members.get("id"), members.get("cause")) else None


def _cause(record: Record, name: str) -> str:
    value = _outbound(record, name)
    return str(records.entry_members(value.body).get("cause") or "") if value is not None else ""


def _decoded(decode: Any, record: Record) -> Any:
    try:
        return decode(record.value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _steps_of_send(
    record: Record,
    value: records.Send | records.Request | records.SessionEvent,
    committed: int,
    *,
    done: bool,
) -> list[Step]:
    if isinstance(value, records.Send):
        what = f"from {value.user}, client {value.client}, n {value.n}, to {value.to}, type {value.type}"
    elif isinstance(value, records.Request):
        what = f"a request of {value.user}, type {value.type}"
    else:
        what = f"a {value.kind} of {value.user}"
    where = f"partition {record.partition}, offset {record.offset}"
    written = Step("inbound", where, "written", plain(what), record.ts)
    before = record.offset - committed
    if before < 0 or done:
        return [written, Step("logic", f"committed {committed}", "handled")]
    waits = f"before it in its partition: {before}"
    return [written, Step("logic", f"committed {committed}", "waits for logic", waits)]


async def _steps_of_message(ports: Parts, record: Record, message: records.Message) -> list[Step]:
    members = records.entry_members(message.body)
    shard = record.partition
    written = Step(
        "outbound",
        f"partition {shard}, offset {record.offset}",
        "written",
        plain(f"to {message.channel}, type {members['type']}, id {members['id']}"),
        record.ts,
    )
    state = await ports.log.state(shard)
    if state.watermark.offset < record.offset or state.rebuilding:
        waits = "rebuilding" if state.rebuilding else "waits for dispatch"
        behind = record.offset - state.watermark.offset - 1
        owner = f"owned by {state.owner}" if state.owner else "nobody owns it"
        at = f"applied {state.watermark.offset}"
        return [
            written,
            Step("dispatch", at, waits, f"before it in its partition: {max(behind, 0)}; {owner}"),
        ]
    applied = Step("dispatch", f"applied {state.watermark.offset}", "applied")
    return [written, applied, await _step_of_log(ports, shard, message.channel, members["id"])]


async def _step_of_log(ports: Parts, shard: int, channel: str, name: str) -> Step:
    """Look for a message among the newest of a channel."""
    sought = records.log_entry(0, b'"id":%b,' % msgspec.json.encode(name)).partition(b",")[2]
    before, looked = None, 0
    while looked < LOOK_BACK:
        (view,) = await ports.log.read(shard, [Query(channel, 0, before, _PAGE, newest=True)])
        for seq, entry in view.entries:
            if entry.partition(b",")[2].startswith(sought):
                return Step(
                    "log", plain(f"{channel}, seq {seq}"), "kept", f"epoch {view.epoch}, head {view.head}"
                )
        looked += len(view.entries)
        if len(view.entries) < _PAGE:
            break
        before = view.entries[0][0]
    return Step("log", plain(channel), "not kept", f"not among the newest {looked}, head {view.head}")


def _step_of_letter(record: Record) -> Step | None:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    if "phase" in headers:
        return None
    what = f"{headers.get('reason', '')}: {headers.get('detail', '')}"
    return Step("dead letter", f"letter {record.partition}-{record.offset}", "dead", plain(what), record.ts)
