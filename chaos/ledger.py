"""The ledger: what was sent, acked and handed to programs; and whether every promise was kept.

Acked: `send` returned (or the API answered). Delivered: a program's handler was called. Nothing is left out:
an acked message that was sent after a subscriber stood in its channel is to be handed to it once, also when
it was away in between, slow, or was told of a `reset`. Who leaves a group does so when it has all there was.
"""

from __future__ import annotations

from array import array
from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Kind = Literal["lost", "doubled", "reordered", "failed"]
KEPT: Final = 0.2
"""Delays up to this many seconds are counted in the histogram only."""
SLOWEST: Final = 5
"""Of so many of the longest it is known what they were of."""
_STEPS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 600.0)


class Violation(NamedTuple):
    """A broken promise, and where to look. `at`: seconds since the start."""

    kind: Kind
    at: float
    channel: str
    text: str


class Reset(NamedTuple):
    """A subscriber was told that continuity is broken."""

    at: float
    view: str
    channel: str
    text: str


@dataclass(slots=True)
class Send:
    """One send: `order` among those of its source, `places` its index among the sends to each channel."""

    at: float
    source: str
    order: int
    places: dict[str, int]
    state: Literal["open", "acked", "unknown", "refused"] = "open"
    id: str = ""


@dataclass(slots=True)
class Stay:
    """A time in a channel: what is sent after `begin` and before `end` is to be handed over."""

    begin: float
    end: float = inf


@dataclass(slots=True)
class View:
    """What one program was given. `prompt`: it reads at once, so that its delays tell of the cluster."""

    name: str
    prompt: bool = True
    stays: dict[str, list[Stay]] = field(default_factory=dict)
    place: dict[str, tuple[str, int]] = field(default_factory=dict)
    seen: dict[str, bytearray] = field(default_factory=dict)
    latest: dict[tuple[str, str], int] = field(default_factory=dict)


class Delays:
    """Delays: a histogram of all, (sent, delay) of the long ones, and what the longest were of."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self.slowest: list[tuple[float, float, str]] = []
        self._steps = [0] * (len(_STEPS) + 1)
        self._long = array("d")

    def add(self, sent: float, delay: float, of: str = "") -> None:
        """Count one; `of` tells what it was of."""
        self.count += 1
        self.longest = max(self.longest, delay)
        self._steps[next((at for at, step in enumerate(_STEPS) if delay <= step), len(_STEPS))] += 1
        if delay > KEPT:
            self._long.extend((sent, delay))
            heappush(self.slowest, (delay, sent, of))
            if len(self.slowest) > SLOWEST:
                heappop(self.slowest)

    def share(self, part: float) -> float:
        """Return a bound that so large a part of all delays did not exceed, in seconds."""
        left = part * self.count
        for step, count in zip(_STEPS, self._steps, strict=False):
            left -= count
            if left <= 0:
                return step
        return self.longest

    def longest_sent_within(self, begin: float, end: float) -> float:
        """Return the longest delay of what was sent then; up to KEPT counts as 0."""
        pairs = zip(self._long[::2], self._long[1::2], strict=True)
        return max((delay for sent, delay in pairs if begin <= sent <= end), default=0.0)


class Ledger:
    """See the module. `now`: seconds since the start of the run."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.violations: list[Violation] = []
        self.resets: list[Reset] = []
        self.counts: Counter[str] = Counter()
        self.acks = Delays()
        self.deliveries = Delays()
        self.sends: list[Send] = []
        self.views: list[View] = []
        self.now = now
        self._to: dict[str, list[int]] = {}
        self._log: dict[tuple[str, str], array[int]] = {}
        self._orders: Counter[str] = Counter()

    # senders

    def sent(self, source: str, channels: list[str]) -> int:
        """Take a send of a source as it is made; return its number, which the message is to carry."""
        number = len(self.sends)
        self._orders[source] += 1
        places = {}
        for channel in channels:
            there = self._to.setdefault(channel, [])
            places[channel] = len(there)
            there.append(number)
        self.sends.append(Send(self.now(), source, self._orders[source], places))
        self.counts["sent"] += 1
        return number

    def acked(self, number: int, message: str) -> None:
        """Take the answer that it is durable."""
        send = self.sends[number]
        send.state, send.id = "acked", message
        self.counts["acked"] += 1
        self.acks.add(send.at, self.now() - send.at, send.source)

    def unknown(self, number: int) -> None:
        """Take that its program ended before an answer came: it may be there, once, or not."""
        self.sends[number].state = "unknown"
        self.counts["unknown"] += 1

    def refused(self, number: int, why: str) -> None:
        """Take a refusal. Nothing that the load does may be refused."""
        self.sends[number].state = "refused"
        self.violate("failed", ", ".join(self.sends[number].places), f"{self._told(number)}: {why}")

    # programs

    def view(self, name: str, *, prompt: bool = True) -> View:
        """Return the view of a new program."""
        view = View(name, prompt)
        self.views.append(view)
        return view

    def stands(self, view: View, channel: str, epoch: str, seq: int) -> None:
        """Take that a program is subscribed and goes on after a place."""
        if channel not in view.place:
            view.stays.setdefault(channel, []).append(Stay(self.now()))
            view.place[channel] = (epoch, seq)
        elif view.place[channel] == ("", 0) and seq == 0:
            view.place[channel] = (epoch, seq)

    def promised(self, view: View, channel: str, at: float) -> None:
        """Take that a program that stands in a channel is to get what was sent from `at` on already."""
        stay = view.stays[channel][-1]
        stay.begin = min(stay.begin, at)

    def has_all(self, view: View, channel: str, until: float) -> bool:
        """Tell whether a program has all that was sent while it was in a channel, up to a time."""
        stay = view.stays[channel][-1]
        numbers, seen = self._to.get(channel, []), view.seen.get(channel, b"")
        for index in range(bisect(numbers, stay.begin, key=lambda one: self.sends[one].at), len(numbers)):
            send = self.sends[numbers[index]]
            if send.at > until:
                break
            if send.state == "open" or (send.state == "acked" and not (index < len(seen) and seen[index])):
                return False
        return True

    def leaves(self, view: View, channel: str, at: float) -> None:
        """Take that a program's user is about to be taken out of a channel: what came later is no loss."""
        view.stays[channel][-1].end = at

    def left(self, view: View, channel: str, why: str) -> None:
        """Take that a program was told that it is not subscribed any more."""
        if channel in view.place and view.stays[channel][-1].end == inf:
            self.violate("lost", channel, f"{view.name}, which did not leave, {why}")
        view.place.pop(channel, None)

    def reset(self, view: View, channel: str, epoch: str, seq: int, reason: str) -> None:
        """Take that continuity is broken. What was skipped is lost all the same, unless it comes."""
        text = f"from {view.place.get(channel)} to {(epoch, seq)}: {reason}"
        self.resets.append(Reset(self.now(), view.name, channel, text))
        view.place[channel] = (epoch, seq)

    def presented(self, view: View, channel: str, epoch: str, seq: int, number: int) -> None:
        """Take a message that a program was given."""
        now = self.now()
        self.counts["delivered"] += 1
        send = self.sends[number]
        self._placed(view, channel, epoch, seq, number)
        index = send.places.get(channel)
        if index is None:
            self.violate(
                "reordered", channel, f"{view.name} got {self._told(number)} in a channel it was not for"
            )
            return
        seen = view.seen.setdefault(channel, bytearray())
        if len(seen) <= index:
            seen.extend(bytes(index + 1 - len(seen)))
        if seen[index]:
            self.violate("doubled", channel, f"{view.name} got {self._told(number)} again, now at {seq}")
        else:
            latest = view.latest.get((channel, send.source), 0)
            if send.order < latest:
                text = f"{view.name} got {self._told(number)} at {seq} after number {latest} of that source"
                self.violate("reordered", channel, text)
            view.latest[channel, send.source] = max(latest, send.order)
        seen[index] = 1
        if view.prompt:
            self.deliveries.add(send.at, now - send.at, f"{send.source} to {view.name} in {channel}")

    def _placed(self, view: View, channel: str, epoch: str, seq: int, number: int) -> None:
        """Check the place: it follows the last one, and holds the same message for everybody."""
        before = view.place.get(channel)
        if before is None:
            text = f"{view.name} got {seq} ({self._told(number)}) without a subscription"
            self.violate("reordered", channel, text)
        elif before[0] not in (epoch, "") or seq <= before[1]:
            text = f"{view.name} got {(epoch, seq)} ({self._told(number)}) after {before}"
            self.violate("reordered", channel, text)
        elif seq != before[1] + 1:
            self.violate("lost", channel, f"{view.name} got {(epoch, seq)} right after {before}")
        view.place[channel] = (epoch, seq)
        log = self._log.setdefault((channel, epoch), array("q"))
        if len(log) < seq:
            log.extend([-1] * (seq - len(log)))
        if log[seq - 1] not in (-1, number):
            text = f"{(epoch, seq)} is {self._told(number)} for {view.name}, was {self._told(log[seq - 1])}"
            self.violate("reordered", channel, text)
        log[seq - 1] = number

    # at quiet

    def channels(self) -> list[str]:
        """Return all channels that something was sent to."""
        return list(self._to)

    def open(self) -> int:
        """Return how many sends have no answer yet."""
        return sum(send.state == "open" for send in self.sends)

    def missing(self) -> Iterator[tuple[View, str, int]]:
        """Yield who lacks which acked message of a channel."""
        for view in self.views:
            for channel, stays in view.stays.items():
                seen = view.seen.get(channel, b"")
                for index, number in enumerate(self._to.get(channel, ())):
                    if index < len(seen) and seen[index]:
                        continue
                    send = self.sends[number]
                    if send.state == "acked" and any(stay.begin < send.at < stay.end for stay in stays):
                        yield view, channel, number

    def logged(self, channel: str, epoch: str, entries: list[tuple[int, int]]) -> None:
        """Compare the log as it is read at the end, as (seq, number), with what programs were given."""
        held = [number for _, number in entries]
        log = self._log.get((channel, epoch), array("q"))
        for seq, number in entries:
            if seq <= len(log) and log[seq - 1] not in (-1, number):
                text = f"the log has {self._told(number)} at {seq}, programs got {self._told(log[seq - 1])}"
                self.violate("reordered", channel, text)
        for number, count in Counter(held).items():
            if count > 1:
                self.violate("doubled", channel, f"the log has {self._told(number)} {count} times")
        there = set(held)
        for number in self._to.get(channel, ()):
            if self.sends[number].state == "acked" and number not in there:
                self.violate("lost", channel, f"the log does not have {self._told(number)}")

    def settle(self) -> None:
        """Write down what never came."""
        for number, send in enumerate(self.sends):
            if send.state == "open":
                self.violate("lost", ", ".join(send.places), f"{self._told(number)} was never answered")
        for view, channel, number in self.missing():
            self.violate(
                "lost", channel, f"{view.name} (at {view.place.get(channel)}) lacks {self._told(number)}"
            )

    def count(self, kind: Kind) -> int:
        """Return how many violations of a kind there are."""
        return sum(violation.kind == kind for violation in self.violations)

    def violate(self, kind: Kind, channel: str, text: str) -> None:
        """Write down a broken promise."""
        self.violations.append(Violation(kind, self.now(), channel, text))

    def _told(self, number: int) -> str:
        if number < 0:
            return "nothing"
        send = self.sends[number]
        return f"send {number} ({send.source} number {send.order}, id {send.id or '?'}, at {send.at:.2f} s)"
