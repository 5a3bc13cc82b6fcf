"""The ledger finds what is lost, doubled and reordered, and nothing else."""

from __future__ import annotations

import pytest

from chaos.ledger import Delays, Ledger


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


@pytest.fixture
def ledger():
    return Ledger(Clock())


def send(ledger: Ledger, count: int, channel: str = "room:a", source: str = "ann.1") -> list[int]:
    """Send and ack so many messages."""
    numbers = [ledger.sent(source, [channel]) for _ in range(count)]
    for number in numbers:
        ledger.acked(number, f"id{number}")
    return numbers


def kinds(ledger: Ledger) -> list[str]:
    """Settle, and return the kinds of violations."""
    ledger.settle()
    return [violation.kind for violation in ledger.violations]


def test_all_in_order_is_well(ledger) -> None:
    """Each acked message once and in order: nothing is broken."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 4)
    for seq, number in enumerate(send(ledger, 3), 5):
        ledger.presented(view, "room:a", "e", seq, number)
    assert kinds(ledger) == []
    assert (ledger.counts["sent"], ledger.counts["acked"], ledger.counts["delivered"]) == (3, 3, 3)


def test_what_never_came_is_lost(ledger) -> None:
    """inv 4: an acked message that a subscriber was not given is lost, at the end of a channel too."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    one, _ = send(ledger, 2)
    ledger.presented(view, "room:a", "e", 1, one)
    assert kinds(ledger) == ["lost"]


def test_a_hole_in_seq_is_lost(ledger) -> None:
    """inv 4: a jump is noticed when it happens, whatever was in the hole."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    one, two = send(ledger, 2)
    ledger.presented(view, "room:a", "e", 1, one)
    ledger.presented(view, "room:a", "e", 3, two)
    assert kinds(ledger) == ["lost"]


def test_a_reset_excuses_nothing(ledger) -> None:
    """What a reset skips counts as lost, and the reset is counted besides."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    send(ledger, 2)
    ledger.reset(view, "room:a", "f", 2, "not recovered")
    assert kinds(ledger) == ["lost", "lost"]
    assert len(ledger.resets) == 1


def test_twice_is_doubled(ledger) -> None:
    """inv 3: one message at two places is doubled."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    (one,) = send(ledger, 1)
    ledger.presented(view, "room:a", "e", 1, one)
    ledger.presented(view, "room:a", "e", 2, one)
    assert kinds(ledger) == ["doubled"]


def test_a_source_out_of_order_is_reordered(ledger) -> None:
    """inv 12: the messages of one source come in the order in which they were sent."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    one, two = send(ledger, 2)
    ledger.presented(view, "room:a", "e", 1, two)
    ledger.presented(view, "room:a", "e", 2, one)
    assert kinds(ledger) == ["reordered"]


def test_one_place_holds_one_message(ledger) -> None:
    """inv 3: two programs that are given different messages at one place disagree about the order."""
    views = [ledger.view("bob"), ledger.view("cid")]
    one = send(ledger, 1)[0]
    two = send(ledger, 1, source="dan.1")[0]
    for view, numbers in zip(views, ((one, two), (two, one)), strict=True):
        ledger.stands(view, "room:a", "e", 0)
        for seq, number in enumerate(numbers, 1):
            ledger.presented(view, "room:a", "e", seq, number)
    assert set(kinds(ledger)) == {"reordered"}


def test_unanswered_sends(ledger) -> None:
    """One whose program ended may be there or not; one that still waits at the end is lost."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    ledger.unknown(ledger.sent("ann.1", ["room:a"]))
    ledger.sent("ann.2", ["room:a"])
    assert kinds(ledger) == ["lost"]


def test_the_log_at_the_end(ledger) -> None:
    """inv 1, 3: the log holds each acked message once, where programs were given it."""
    view = ledger.view("bob")
    ledger.stands(view, "room:a", "e", 0)
    one, two = send(ledger, 2)
    for seq, number in ((1, one), (2, two)):
        ledger.presented(view, "room:a", "e", seq, number)
    ledger.logged("room:a", "e", [(1, one), (2, two)])
    assert kinds(ledger) == []
    ledger.logged("room:a", "e", [(1, one)])
    assert kinds(ledger) == ["lost"]
    ledger.logged("room:a", "e", [(1, two), (2, one), (3, one)])
    assert sorted(kinds(ledger)) == ["doubled", "lost", "reordered", "reordered"]


def test_delays_by_when_it_was_sent(ledger) -> None:
    """The longest delay of a fault is that of what was sent while it lasted."""
    for sent, delay in ((1.0, 0.01), (2.0, 3.0), (9.0, 5.0)):
        ledger.deliveries.add(sent, delay)
    assert ledger.deliveries.longest_sent_within(0.0, 4.0) == 3.0
    assert ledger.deliveries.longest_sent_within(0.0, 1.5) == 0.0
    assert ledger.deliveries.longest == 5.0
    assert ledger.deliveries.share(0.3) == 0.01


def test_the_slowest_are_named() -> None:
    """Of the longest delays it is known what they were of."""
    delays = Delays()
    for number in range(1, 20):
        delays.add(float(number), number / 10, f"message {number}")
    assert [of for _, _, of in sorted(delays.slowest)] == [f"message {number}" for number in range(15, 20)]


def test_a_joiner_is_to_see_what_follows_its_answer(ledger) -> None:
    """inv 5: what was sent from the answer on is to come, though the program was told of its join later."""
    view = ledger.view("bob")
    before, answered = ledger.sent("ann.1", ["group:a"]), ledger.now()
    (one,) = send(ledger, 1, "group:a")
    ledger.acked(before, "id")
    ledger.stands(view, "group:a", "e", 7)
    ledger.promised(view, "group:a", answered)
    assert not ledger.has_all(view, "group:a", ledger.now())
    assert [number for _, _, number in ledger.missing()] == [one]
    ledger.presented(view, "group:a", "e", 8, one)
    assert ledger.has_all(view, "group:a", ledger.now())
    assert kinds(ledger) == []


def test_an_open_send_is_waited_for(ledger) -> None:
    """Who is to have all that was sent has not while a send may still come to be acked."""
    view = ledger.view("bob")
    ledger.stands(view, "group:a", "e", 0)
    number = ledger.sent("ann.1", ["group:a"])
    until = ledger.now()
    assert not ledger.has_all(view, "group:a", until)
    ledger.unknown(number)
    assert ledger.has_all(view, "group:a", until)


def test_who_left_lacks_nothing(ledger) -> None:
    """Between two stays nothing is lost, and nothing may come."""
    view = ledger.view("bob")
    ledger.stands(view, "group:a", "e", 0)
    (one,) = send(ledger, 1, "group:a")
    ledger.presented(view, "group:a", "e", 1, one)
    ledger.leaves(view, "group:a", ledger.now())
    between = send(ledger, 2, "group:a")
    ledger.presented(view, "group:a", "e", 2, between[0])  # it had not heard of it
    ledger.left(view, "group:a", "was unsubscribed")
    ledger.stands(view, "group:a", "e", 3)
    (last,) = send(ledger, 1, "group:a")
    assert [number for _, _, number in ledger.missing()] == [last]
    ledger.presented(view, "group:a", "e", 4, last)
    assert kinds(ledger) == []
    ledger.leaves(view, "group:a", ledger.now())
    ledger.left(view, "group:a", "was unsubscribed")
    (late,) = send(ledger, 1, "group:a")
    ledger.presented(view, "group:a", "e", 5, late)
    assert kinds(ledger) == ["reordered"]


def test_who_is_sent_away_is_lost(ledger) -> None:
    """inv 9: nobody may be told that it is not in a channel that nobody took it out of."""
    view = ledger.view("bob")
    ledger.stands(view, "group:a", "e", 0)
    ledger.left(view, "group:a", "was unsubscribed")
    assert kinds(ledger) == ["lost"]
