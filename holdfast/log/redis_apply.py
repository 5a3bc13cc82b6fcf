"""A batch as the arguments of `apply.lua`, and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.log.packing import pack
from holdfast.log.port import WINDOW_MS, Applied, Op, Outcome, Placed, Status, Watermark
from holdfast.log.rules import AGED, SWEEP, retention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.log.keys import Keys
    from holdfast.log.port import Batch
    from holdfast.policy import Policy


class _Answer(msgspec.Struct, array_like=True, gc=False):
    status: int
    offset: int
    ts: int
    checksum: int
    reason: str
    out: list[int]
    epochs: list[str]
    routes: list[str]


_decode = msgspec.msgpack.Decoder(_Answer).decode
_encode = msgspec.msgpack.Encoder().encode
_OUTCOMES = tuple(Outcome)


def arguments(
    batch: Batch, keys: Keys, policies: Mapping[str, Policy]
) -> tuple[list[str], list[bytes], list[int]]:
    """Return KEYS, ARGV, and the number of each record's channel (from 0)."""
    numbers: dict[str, int] = {}
    channels: list[tuple[str, int, int]] = []
    hashes: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    args: list[bytes] = [b""]
    of_record: list[int] = []
    for record in batch.records:
        channel = record.channel
        number = numbers.get(channel)
        if number is None:
            number = numbers[channel] = len(channels)
            channels.append((channel, *retention(policies, channel)))
        of_record.append(number)
        op = record.op
        row = (number + 1, record.offset, record.ts, op, record.source, record.score, record.content)
        if op == Op.APPEND:
            args.append(pack(record.body))
            rows.append(row)
            continue
        name = ""
        if op in (Op.JOIN, Op.LEAVE):
            name = keys.members(channel)
        elif op == Op.GROUP:
            name = keys.groups(channel)
        elif op == Op.CURSOR:
            name = keys.cursors(channel)
        # one number for one key: the script remembers by number what it has decided
        number = hashes.setdefault(name, len(hashes) + 1) if name else 0
        rows.append((*row, record.epoch, record.seq, number))
    fixed = keys.for_apply
    shift = len(fixed) + len(channels)
    rows = [row if len(row) == 7 else (*row[:9], row[9] + shift) for row in rows]
    last = batch.last
    args[0] = _encode(
        (
            batch.owner,
            batch.carried.offset,
            (last.offset, last.ts, last.checksum),
            batch.saved,
            batch.now_ms,
            WINDOW_MS,
            SWEEP,
            AGED,
            channels,
            rows,
            batch.generation,
        )
    )
    return [*fixed, *(keys.list(channel[0]) for channel in channels), *hashes], args, of_record


def answer(reply: bytes, batch: Batch, of_record: list[int]) -> Applied:
    """Return what `apply.lua` said."""
    said = _decode(reply)
    found = Watermark(said.offset, said.ts, said.checksum)
    if said.status:
        return Applied(Status(said.status), found, reason=said.reason)
    nodes = [tuple(route.split("\n")) if route else () for route in said.routes]
    epochs, out, placed = said.epochs, said.out, []
    for i, record in enumerate(batch.records):
        outcome, seq, version, epoch = out[i * 4 : i * 4 + 4]
        told = nodes[of_record[i]] if outcome == Outcome.DONE and record.op != Op.PASS else ()
        placed.append(Placed(_OUTCOMES[outcome], seq, epochs[epoch], told, version))
    return Applied(Status.APPLIED, found, placed)
