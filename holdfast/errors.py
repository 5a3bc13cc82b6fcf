"""The error tree. A class says what the caller is to do; the message says it to a person.

HoldfastError
├── Retry    the outcome is unknown or the part is away for now: do the same again, later
├── Reject   the input is wrong: tell whoever sent it, and go on
├── Drop     nothing waits for the answer any more: count it, and go on
└── Stop     this process or this role cannot go on: leave, let a supervisor or a successor act
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Root of every error that Holdfast raises on purpose."""


class Retry(HoldfastError):  # noqa: N818 - the name is the action
    """The outcome is unknown, never "not done". Do the same again.

    `after` is a number of seconds to wait first, where the raiser knows one.
    """

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Reject(HoldfastError):  # noqa: N818
    """The input is wrong and stays wrong. `code` is a name of `holdfast.protocol.codes`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Drop(HoldfastError):  # noqa: N818
    """Nobody waits for the result any more (a reply whose connection is gone)."""


class Stop(HoldfastError):  # noqa: N818
    """This role is over here: superseded, misconfigured, or a promise cannot be kept."""
