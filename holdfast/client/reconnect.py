"""Whether to come back after a connection ended, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast.client.errors import Closed
from holdfast.protocol.codes import CODES

if TYPE_CHECKING:
    from random import Random

    from holdfast.client.connection import End

STABLE: Final = 5.0
"""Seconds a connection must have lived for the backoff to start over."""

OVERLAP: Final = 120.0
"""Seconds for which an older connection of ours may still be at work on the server, and supersede us."""

LONGEST: Final = 120.0
"""Seconds for which a server may tell a client to stay away, at most."""

_NAMES: Final = {code.close: code.name for code in CODES.values() if code.close is not None}
_SUPERSEDED: Final = 4005
_UNAUTHORIZED: Final = 4103


@dataclass(slots=True)
class Reconnect:
    """Full jitter: a wait between 0 and min(cap, base * 2^attempt) seconds, so that crowds spread out."""

    random: Random
    base: float
    cap: float
    fresh_tokens: bool
    attempt: int = 0
    _last_end: float | None = None
    _superseded: int = 0
    _unauthorized: int = 0

    def verdict(self, end: End, *, now: float, lived: float | None) -> Closed | float:
        """Return the seconds to wait before the next attempt, or why there is none.

        `lived`: seconds for which the connection had a session, None where it never had one.
        """
        stopped = self._stopped(end, now, lived)
        self._last_end = now
        if stopped is not None:
            return stopped
        if lived is not None and lived >= STABLE:
            self.attempt = 0
        ceiling = min(self.cap, self.base * 2.0 ** min(self.attempt, 30))
        self.attempt += 1
        if end.after:
            # The server gives each of a crowd its own moment: that is better than any guess.
            return min(end.after, LONGEST) * self.random.uniform(1.0, 1.1)
        return self.random.uniform(0.0, ceiling)

    def _stopped(self, end: End, now: float, lived: float | None) -> Closed | None:
        if end.again is not None:
            return None if end.again else Closed("refused", end.reason)
        name = _NAMES.get(end.code, f"close code {end.code}")
        if end.code == _SUPERSEDED:
            # By an attempt of our own that the server saw late, or by another client with the same id. The
            # latter would go back and forth for ever, so there is a limit to it.
            ours = self._last_end is not None and now - self._last_end - (lived or 0.0) < OVERLAP
            self._superseded += 1
            return None if ours and self._superseded <= 3 else Closed(name)
        if end.code == _UNAUTHORIZED:
            # A callable gives another token, which is a change: worth one try.
            self._unauthorized += 1
            return None if self.fresh_tokens and self._unauthorized <= 1 else Closed(name, _plain(end.reason))
        if 4100 <= end.code < 4200:
            return Closed(name, _plain(end.reason))
        if lived is not None and lived >= STABLE:
            self._superseded = self._unauthorized = 0
        return None


def _plain(reason: str) -> str:
    """Return a reason without the code before it, which the exception names itself."""
    head, _, tail = reason.partition(": ")
    return tail if head in CODES else reason
