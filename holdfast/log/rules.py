"""The numbers and small rules that both adapters of the log follow, so that they decide alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from holdfast.log.port import WINDOW_MS
from holdfast.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

SWEEP: Final = 16
"""Most idle channel headers that one `apply` removes."""

AGED: Final = 32
"""Most entries of one channel that one `apply` drops for their age."""

_DEFAULT: Final = Policy()


def retention(policies: Mapping[str, Policy], channel: str) -> tuple[int, int]:
    """Return what a channel keeps: (entries, ms). Kinds without a policy (`token`) have the default's."""
    policy = policies.get(channel.partition(":")[0], _DEFAULT)
    return policy.keep_count, policy.keep_seconds * 1000


def idle_limit(keep_ms: int) -> int:
    """Return the record time (ms) without a record after which a channel's header holds no more."""
    return max(keep_ms, 2 * WINDOW_MS)


_TS: Final = re.compile(rb'"ts":(\d+),')


def older(entry: bytes, cutoff: int) -> bool:
    """Tell whether a log entry says that it was written before `cutoff` (Unix ms)."""
    found = _TS.match(entry)
    return found is not None and int(found[1]) < cutoff
