"""The connection state machine: every event in every state, and the rules of `n` (inv 12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Reject, Retry
from holdfast.protocol import frames
from holdfast.protocol.codes import CODES
from holdfast.protocol.connection import FLOOD, HELD, Bounds, Connection, Event, State
from holdfast.protocol.states import TABLE, markdown

BOUNDS = Bounds(rate=10, burst=20, in_flight=4, subscriptions=2)


class FakeHost:
    """A host that keeps what it was asked to do."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.answers: list[Any] = []
        self.ended: list[str] = []
        self.calls: list[tuple[str, Any]] = []
        self.published: list[int] = []
        self.refusal: Exception | None = None
        self.machine = Connection(self, bounds)

    def answer(self, frame: Any) -> None:
        self.answers.append(frame)

    def end(self, code: str, reason: str) -> None:
        assert CODES[code].close is not None
        assert reason
        self.ended.append(code)

    def publish(self, frame: frames.Send) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.published.append(frame.n)

    def ask(self, frame: frames.Request) -> float:
        self.calls.append(("ask", frame))
        return 10.0

    def drain(self) -> None:
        self.calls.append(("drain", None))

    def __getattr__(self, name: str) -> Any:
        return lambda frame: self.calls.append((name, frame))

    # helpers

    def open(self) -> FakeHost:
        self.machine.receive(frames.Connect("token"), 0.0)
        self.machine.signal(Event.ACCEPTED)
        return self

    def send(self, n: int, data: str = "1", now: float = 1000.0, frame_id: int | None = None) -> str | None:
        """Send; return the error's code, or None."""
        before = len(self.answers)
        raw = msgspec.Raw(data.encode())
        frame_id = n if frame_id is None else frame_id
        self.machine.receive(frames.Send(frame_id, n, "user:bob", "t", raw), now)
        errors = [answer.code for answer in self.answers[before:] if isinstance(answer, frames.Error)]
        return errors[0] if errors else None

    def acks(self) -> list[tuple[Any, str]]:
        return [(answer.id, answer.message) for answer in self.answers if isinstance(answer, frames.Ack)]


FRAMES: dict[Event, Any] = {
    Event.CONNECT: frames.Connect("token"),
    Event.SUBSCRIBE: frames.Subscribe(1, "room:1"),
    Event.UNSUBSCRIBE: frames.Unsubscribe(1, "room:1"),
    Event.SEND: frames.Send(1, 1, "room:1", "t"),
    Event.REQUEST: frames.Request(1, "t"),
    Event.CURSOR: frames.Cursor("room:1", 1),
    Event.REFRESH: frames.Refresh(1, "token"),
    Event.PING: frames.Ping(),
    Event.PONG: frames.Pong(),
}


def in_state(state: State) -> FakeHost:
    host = FakeHost()
    machine = host.machine
    if state is not State.NEW:
        machine.receive(FRAMES[Event.CONNECT], 0.0)
    if state in (State.OPEN, State.DRAINING):
        machine.signal(Event.ACCEPTED)
    if state is State.DRAINING:
        machine.signal(Event.DRAIN)
    if state is State.CLOSED:
        machine.signal(Event.LOST)
    assert machine.state is state
    host.answers.clear()
    host.calls.clear()
    return host


def happen(host: FakeHost, event: Event) -> None:
    if event in FRAMES:
        host.machine.receive(FRAMES[event], 1.0)
    elif event is Event.REJECTED:
        host.machine.reject(Reject("unknown_frame", "no such frame"), 1.0)
    elif event is Event.BROKEN:
        host.machine.reject(Reject("bad_frame", "no JSON"), 1.0)
    else:
        host.machine.signal(event, "slow" if event is Event.ENDED else "", "why")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state(state: State, event: Event) -> None:
    """Each event leads where the table says; an end is said once, and nothing is said after it."""
    host = in_state(state)
    happen(host, event)
    step = TABLE[state][event]
    assert host.machine.state is step.to
    assert len(host.ended) == (step.action.startswith("end"))
    if step.action == "nothing" and step.to is state:
        assert not host.answers
        assert not host.calls
    if host.machine.state is State.CLOSED:
        said = len(host.answers), len(host.ended), len(host.calls)
        for later in Event:
            happen(host, later)
        assert (len(host.answers), len(host.ended), len(host.calls)) == said


def test_documentation_is_the_table() -> None:
    """docs/connection.md is generated from the table."""
    page = Path(__file__).parents[2] / "docs" / "connection.md"
    assert page.read_text(encoding="utf-8") == markdown()


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_any_sequence_ends_at_most_once(events: list[Event]) -> None:
    """Whatever happens in whatever order, the machine raises nothing and ends once at most."""
    host = FakeHost()
    for event in events:
        happen(host, event)
    assert len(host.ended) <= 1
    assert host.machine.waiting >= 0


def test_a_connection_without_sends_costs_no_containers() -> None:
    """An idle connection has no dict, list or tuple of its own."""
    machine = FakeHost().open().machine
    held = [getattr(machine, slot) for slot in Connection.__slots__]
    assert not [value for value in held if isinstance(value, dict | list) or value == ()]


def test_frames_are_held_while_connecting() -> None:
    """What comes before `connected` is done after it, in order; above the bound it is refused (inv 7)."""
    host = FakeHost(Bounds(10, 20, 100, 2))
    host.machine.receive(FRAMES[Event.CONNECT], 0.0)
    for n in range(5, 5 + HELD + 2):
        host.send(n, now=0.0)
    assert [answer.code for answer in host.answers] == ["too_many"] * 2
    assert not host.published
    host.machine.signal(Event.ACCEPTED)
    assert host.published == list(range(5, 5 + HELD))
    assert host.send(5 + HELD + 2) == "out_of_order"
    assert host.send(5 + HELD) is None


def test_a_gap_in_n_is_refused() -> None:
    """inv 12: the first n is taken as it is, a gap after it is out_of_order and changes nothing."""
    host = FakeHost().open()
    assert host.send(7) is None
    assert host.send(9) == "out_of_order"
    assert host.send(8) is None
    assert host.published == [7, 8]


def test_repetitions() -> None:
    """inv 12: a repeated n is acked again without another content, n_reused with one."""
    host = FakeHost().open()
    host.send(1, frame_id=10)
    host.send(1, frame_id=11)
    assert host.published == [1]
    assert host.send(1, data="2", frame_id=12) == "n_reused"
    host.machine.acked(1, "m1")
    assert host.acks() == [(10, "m1"), (11, "m1")]
    host.send(1, frame_id=13)
    assert host.acks()[-1] == (13, "m1")
    assert host.send(1, data="2") == "n_reused"
    assert host.published == [1]
    host.send(2)
    host.machine.acked(2, "m2")
    assert host.send(1, frame_id=14) is None  # no longer remembered: dispatch recognises it
    assert host.published == [1, 2, 1]
    assert host.send(3) is None


def test_after_a_failure_later_ones_wait() -> None:
    """inv 12: after n failed, later ones are refused until n, with the same content, came again."""
    host = FakeHost().open()
    for n in (1, 2, 3):
        host.send(n)
    host.machine.acked(1, "m1")
    host.machine.failed(2, "unknown")
    host.machine.failed(3, "unknown")
    errors = [(answer.id, answer.code, answer.retry) for answer in host.answers if hasattr(answer, "code")]
    assert errors == [(2, "unavailable", True), (3, "unavailable", True)]
    assert host.send(4) == "out_of_order"
    assert host.send(3) == "out_of_order"
    assert host.send(2, data="else") == "n_reused"
    assert host.send(2) is None
    assert host.send(3) is None
    assert host.send(4) is None
    assert host.published == [1, 2, 3, 2, 3, 4]


def test_a_failed_repetition_of_an_old_one_sets_nothing_back() -> None:
    """An n that was acked long ago and fails when sent again does not hold up the newest."""
    host = FakeHost().open()
    for n in (1, 2):
        host.send(n)
        host.machine.acked(n, f"m{n}")
    host.send(1)
    host.machine.failed(1, "unknown")
    assert host.send(3) is None


def test_refused_for_good_leaves_no_gap_and_full_does() -> None:
    """inv 12: a send that can never be in the queue is passed over, one that may later be is waited for."""
    host = FakeHost().open()
    host.refusal = Reject("forbidden", "no")
    assert host.send(1) == "forbidden"
    host.refusal = Retry("full", after=1.5)
    assert host.send(2) == "unavailable"
    assert host.answers[-1].retry == 1.5
    host.refusal = None
    assert host.send(3) == "out_of_order"
    assert host.send(2) is None


def test_what_never_was_in_the_queue_cannot_come_behind_a_later_one() -> None:
    """inv 12: acked behind a later n it would be taken for a repetition, and be lost."""
    host = FakeHost().open()
    host.send(5)
    assert host.send(4) == "out_of_order"
    assert host.answers[-1].retry is False
    host.refusal = Reject("forbidden", "no")
    assert host.send(6) == "forbidden"
    host.refusal = None
    assert host.send(7) is None
    assert host.send(6, data="allowed") == "out_of_order"
    assert host.published == [5, 7]


def test_rate_limit_is_a_token_bucket() -> None:
    """inv 7: `burst` at once, then `rate` a second; a first n that is refused is waited for."""
    host = FakeHost(Bounds(10, 3, 100, 2)).open()
    assert [host.send(n, now=5.0) for n in (1, 2, 3, 4)] == [None, None, None, "rate_limited"]
    assert host.answers[-1].retry == pytest.approx(0.1)
    assert host.send(5, now=5.05) == "rate_limited"
    assert host.send(5, now=5.1) == "out_of_order"
    assert host.send(4, now=5.2) is None
    first = FakeHost(Bounds(10, 1, 100, 2)).open()
    first.machine.receive(frames.Ping(), 1.0)
    assert first.send(1, now=1.0) == "rate_limited"
    assert first.send(2, now=2.0) == "out_of_order"


@pytest.mark.parametrize(("times", "ends"), [(0.9, False), (1.9, False), (4.0, True), (100.0, True)])
def test_a_flood_is_what_stays_above_twice_the_rate(times: float, ends: bool) -> None:
    """inv 7: refusals add up only where fewer frames are taken than refused."""
    host = FakeHost().open()
    for number in range(2000):
        host.machine.receive(frames.Ping(), number / (BOUNDS.rate * times))
    assert host.ended == (["flooding"] if ends else [])


def test_controls_count_as_frames() -> None:
    """inv 7: what the carrier itself sends takes from the same bucket, and floods as other frames do."""
    host = FakeHost().open()
    host.machine.controls(BOUNDS.burst, 0.0)
    assert host.ended == []
    host.machine.receive(frames.Ping(), 0.0)
    assert host.answers[-1].code == "rate_limited"
    host.machine.controls(FLOOD * BOUNDS.burst + 1, 0.0)
    assert host.ended == ["flooding"]
    host.machine.controls(1000, 0.0)
    assert host.ended == ["flooding"]


def test_a_request_that_failed_is_told_from_a_later_one() -> None:
    """A failure is told once, and not to a later request that has the same id."""
    host = FakeHost().open()
    host.machine.receive(frames.Request(1, "q"), 0.0)
    host.machine.unasked(1, 9.0)
    assert host.machine.waiting == 1
    host.machine.unasked(1, 10.0)
    host.machine.unasked(1, 10.0)
    assert [answer.code for answer in host.answers if isinstance(answer, frames.Error)] == ["unavailable"]
    assert host.machine.waiting == 0


def test_in_flight_is_bounded() -> None:
    """inv 7: sends and requests without an answer, at most `in_flight` together."""
    host = FakeHost().open()
    for n in (1, 2, 3):
        assert host.send(n) is None
    host.machine.receive(frames.Request("r", "t"), 1000.0)
    assert host.send(4) == "too_many"
    assert host.answers[-1].retry is True
    assert host.machine.answered("r")
    assert not host.machine.answered("r")
    assert host.send(4) is None
    assert host.machine.waiting == 4


def test_requests_expire() -> None:
    """A request without an answer fails as unavailable at its deadline, and its reply is late then."""
    host = FakeHost().open()
    host.machine.receive(frames.Request("r", "t"), 0.0)
    host.machine.receive(frames.Request("r", "t"), 0.0)
    assert host.answers.pop().code == "bad_request"
    assert host.machine.expire_requests(9.0) == 10.0
    assert host.machine.expire_requests(10.0) is None
    assert (host.answers[-1].id, host.answers[-1].code) == ("r", "unavailable")
    assert not host.machine.answered("r")


def test_subscriptions_are_bounded() -> None:
    """inv 7: channels that were asked for, at most `subscriptions`."""
    host = FakeHost().open()
    for number in range(3):
        host.machine.receive(frames.Subscribe(number, f"room:{number}"), 1.0)
    assert host.answers[-1].code == "too_many"
    host.machine.released()
    host.machine.receive(frames.Subscribe(9, "room:9"), 1.0)
    assert len([call for call in host.calls if call[0] == "subscribe"]) == 3


class Sender:
    """A model of the queue and of a client that sends in order and repeats what failed."""

    def __init__(self) -> None:
        self.host = FakeHost(Bounds(1e9, 10**6, 8, 2)).open()
        self.pending: list[int] = []
        self.log: list[int] = []


@given(st.lists(st.tuples(st.sampled_from(["send", "done", "fail"]), st.integers(1, 12)), max_size=60))
def test_what_enters_the_queue_is_a_prefix(steps: list[tuple[str, int]]) -> None:
    """inv 12: whatever n a client sends and whichever produces fail, the log has no gap."""
    sender = Sender()
    for step, n in steps:
        if step == "send":
            before = len(sender.host.published)
            sender.host.send(n)
            sender.pending += sender.host.published[before:]
        elif step == "done" and sender.pending:
            done = sender.pending.pop(0)
            sender.log.append(done)
            sender.host.machine.acked(done, f"m{done}")
        elif step == "fail":
            failed, sender.pending = sender.pending, []
            for one in failed:  # all that is pending in a producer fails together
                sender.host.machine.failed(one, "unknown")
    seen: set[int] = set()
    for n in sender.log:
        assert not seen or n - 1 in seen or n in seen
        seen.add(n)
    assert sender.host.machine.waiting == sum(
        len(sent.ids) for sent in (sender.host.machine._sends or {}).values()
    )
