"""One thing that was looked at, and what to change."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["good", "advice", "wrong", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """What was looked at (`area`, `subject`), and what was `found`.

    `wrong` breaks a promise or keeps something from working; `advice` costs speed or comfort, or is a risk
    that may be meant; `unknown` could not be looked at. `change` says what to do about it.
    """

    level: Level
    area: str
    subject: str
    found: str
    change: str = ""


class Findings:
    """What is found in one area, in the order in which it was looked at."""

    def __init__(self, area: str) -> None:
        self.area = area
        self.all: list[Finding] = []

    def good(self, subject: str, found: str) -> None:
        """Note that nothing is to be changed."""
        self.all.append(Finding("good", self.area, subject, found))

    def advice(self, subject: str, found: str, change: str) -> None:
        """Note what would be better."""
        self.all.append(Finding("advice", self.area, subject, found, change))

    def wrong(self, subject: str, found: str, change: str) -> None:
        """Note what must be changed."""
        self.all.append(Finding("wrong", self.area, subject, found, change))

    def unknown(self, subject: str, found: str, change: str = "") -> None:
        """Note what could not be looked at."""
        self.all.append(Finding("unknown", self.area, subject, found, change))
