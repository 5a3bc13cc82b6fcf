"""What the ledger makes of a device without a memory: it must see all since the last cursor that was kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from holdfast.log.port import Applied, Batch, LogRecord, Op, Outcome, Placed, Status, Watermark
from tests.simulation.ledger import Ledger
from tests.simulation.uses_reading import Tablet, Tablets

INBOX = "user:u1"
HEAD = 9


class Scene:
    """A tablet that has read five messages of nine, and said so, and is begun again somewhere."""

    def __init__(self) -> None:
        self.now = 1.0
        self.ledger = Ledger(lambda: self.now, keep=True)
        world: Any = SimpleNamespace(
            ledger=self.ledger, losses=[], loop=SimpleNamespace(process=str), plan=SimpleNamespace(seed=1)
        )
        self.tablet = Tablet(world, "u1", "tablet")
        self.use = Tablets(world)
        self.ledger.log[INBOX, "e"] = [f"m{number}" for number in range(HEAD)]
        self.tablet._began("e", 0, 0.0)
        self.tablet.reported = 5
        self.tablet.seen = {1, 2, 3, 4, 5}

    def keep(self, seq: int, at: float) -> None:
        """Let the store take a cursor in."""
        self.now = at
        record = LogRecord(at_offset(at), 0, Op.CURSOR, INBOX, "u1\0tablet", seq, epoch="e")
        last = Watermark(record.offset)
        batch = Batch("d", Watermark(), last, (record,), 0, 0, "g")
        self.ledger.applied(0, batch, Applied(Status.APPLIED, Watermark(), (Placed(Outcome.DONE),)), "d")

    def begin(self, seq: int, since: float) -> list[int]:
        """Begin again, and see all from there on; return what is missing."""
        self.tablet._began("e", seq, since)
        self.tablet.seen |= set(range(seq + 1, HEAD + 1))
        return self.use._missing(self.tablet)


def at_offset(at: float) -> int:
    return int(at * 10)


def test_while_no_cursor_was_kept_a_device_begins_at_the_head() -> None:
    """Cursors told to a node that dies before it writes them are hints that were lost (seed 940417)."""
    scene = Scene()
    assert scene.begin(HEAD, since=2.0) == []
    assert not scene.ledger.violations


def test_a_cursor_that_was_kept_is_where_a_device_begins() -> None:
    """inv 4, 9: who is begun at the head although a cursor was kept has missed what is between."""
    scene = Scene()
    scene.keep(5, at=2.0)
    assert scene.begin(HEAD, since=3.0) == [6, 7, 8, 9]


def test_a_cursor_that_was_kept_meanwhile_may_not_be_seen_yet() -> None:
    """One that the store took in after the program had started says nothing of where it begins."""
    scene = Scene()
    scene.keep(5, at=3.5)
    assert scene.begin(HEAD, since=3.0) == []


def test_nobody_begins_before_the_last_cursor() -> None:
    """inv 4: what was kept is not shown again; where the store lost writes it may be."""
    scene = Scene()
    scene.keep(3, at=2.0)
    scene.keep(5, at=2.5)
    scene.begin(3, since=3.0)
    assert [violation.invariant for violation in scene.ledger.violations] == [4]
    scene = Scene()
    scene.keep(5, at=2.0)
    scene.tablet.world.losses.append(2.5)
    assert scene.begin(3, since=3.0) == []
    assert not scene.ledger.violations
