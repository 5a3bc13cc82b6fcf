"""From one set of topics to another: what decides who may see what, where the number of partitions changes.

History cannot move, since its numbers belong to the old logs. Memberships and revocations can: each is said
again, as a call of the API would have said it, and gets its place in the new logs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.bus import span
from holdfast.channel import partition_of
from holdfast.records import Member, Revoke, StateRecord, decode_state, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.bus.port import Bus
    from holdfast.clock import Clock

AT_ONCE: Final = 1000
"""Records on their way at the same time."""

DEADLINE: Final = 30.0
"""Seconds until a record without an answer ends it: what was written may be written again."""


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
    async for batch in span.read(bus, clock, "state", await bus.ends("state")):
        for record in batch:
            _take(facts, record.key or b"", record.value, carried)
    return facts


def _take(facts: dict[bytes, StateRecord], key: bytes, value: bytes | None, carried: Carried) -> None:
    if value is None:
        facts.pop(key, None)
        return
    try:
        facts[key] = decode_state(value)
    except msgspec.DecodeError:
        carried.unreadable += 1
