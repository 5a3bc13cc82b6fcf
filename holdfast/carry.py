"""From one set of topics to another: what decides who may see what, where the number of partitions changes.

History cannot move, since its numbers belong to the old logs. Memberships and revocations can: each is said
again, as a call of the API would have said it, and gets its place in the new logs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.records import Member, Revoke, StateRecord, decode_state, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.bus.port import Bus
    from holdfast.clock import Clock

AT_ONCE: Final = 1000
"""Records on their way at the same time."""

DEADLINE: Final = 30.0
"""Seconds until a record without an answer ends it: what was written may be written again."""

_BATCH: Final = 500
_PATIENCE: Final = 10.0
"""Seconds without a record until reading is given up."""


class Carried(msgspec.Struct):
    """What was said again. `members` are joins and leaves; `left` are facts that belong to the old logs."""

    members: int = 0
    revocations: int = 0
    left: int = 0
    unreadable: int = 0


async def carry(old: Bus, new: Bus, clock: Clock) -> Carried:
    """Say the facts of the old state topic again in the new outbound topic. Raises Retry."""
    carried = Carried()
    facts = await _facts(old, clock, carried)
    producer = await new.producer(deadline=DEADLINE)
    try:
        flying: list[asyncio.Future[int]] = []
        for record in _said(facts, carried):
            home = partition_of(record.channel, new.partitions)
            flying.append(producer.produce("outbound", home, record.channel.encode(), encode(record)))
            if len(flying) >= AT_ONCE:
                await asyncio.gather(*flying)
                flying.clear()
        await asyncio.gather(*flying)
    finally:
        await producer.close()
    return carried


def _said(facts: dict[bytes, StateRecord], carried: Carried) -> Iterator[Member | Revoke]:
    for fact in facts.values():
        if fact.kind == "member":
            carried.members += 1
            yield Member(fact.channel, fact.field, fact.present)
        elif fact.kind == "revoke":
            carried.revocations += 1
            yield Revoke(fact.channel, fact.version)
        else:
            carried.left += 1


async def _facts(bus: Bus, clock: Clock, carried: Carried) -> dict[bytes, StateRecord]:
    """Return the newest fact of each key."""
    facts: dict[bytes, StateRecord] = {}
    spans = await bus.ends("state")
    left = {partition: end for partition, (start, end) in spans.items() if start < end}
    reader = await bus.reader("state")
    try:
        reader.assign({partition: spans[partition][0] for partition in left})
        heard = clock.monotonic()
        while left:
            batches = await reader.fetch(_BATCH, 0.5)
            now = clock.monotonic()
            if batches:
                heard = now
            elif now - heard > _PATIENCE:
                raise Retry(f"state of partitions {sorted(left)} cannot be read to its end")
            for partition, records in batches.items():
                for record in records:
                    _take(facts, record.key or b"", record.value, carried)
                if records and records[-1].offset + 1 >= left.get(partition, 0):
                    left.pop(partition, None)
    finally:
        await reader.close()
    return facts


def _take(facts: dict[bytes, StateRecord], key: bytes, value: bytes | None, carried: Carried) -> None:
    if value is None:
        facts.pop(key, None)
        return
    try:
        facts[key] = decode_state(value)
    except msgspec.DecodeError:
        carried.unreadable += 1
