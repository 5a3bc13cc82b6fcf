"""Facts of the state topic as the arguments of `load.lua`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.keys import Keys
    from holdfast.records import StateRecord

_encode = msgspec.msgpack.Encoder().encode


def arguments(owner: str, facts: Sequence[StateRecord], keys: Keys) -> tuple[list[str], list[bytes]]:
    """Return KEYS and ARGV."""
    hash_of = {"member": keys.members, "group": keys.groups, "cursor": keys.cursors}
    fixed = [keys.meta, keys.revoked, keys.gone, keys.dead]
    hashes: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    for fact in facts:
        number = 0
        if fact.kind in hash_of:
            name = hash_of[fact.kind](fact.channel)
            number = hashes.setdefault(name, len(fixed) + len(hashes) + 1)
        elif fact.kind not in ("revoke", "dead"):
            continue
        rows.append(
            (
                fact.kind,
                number,
                fact.channel,
                fact.field,
                fact.version,
                fact.epoch,
                fact.seq,
                fact.present,
            )
        )
    return [*fixed, *hashes], [_encode((owner, rows))]
