"""What access puts into the queue, where the producer fails between two turns of the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.protocol.frames import Send
from holdfast.records import decode_inbound
from services.access.produce import EVENTS, EVENTS_SECONDS, Produce
from services.access.sessions import Session
from services.access.turns import Turns


class Queue:
    """A bus whose producer answers when the test says so."""

    partitions = 1

    def __init__(self) -> None:
        self.written: list[asyncio.Future[int]] = []
        self.records: list[tuple[Any, ...]] = []

    async def producer(self, *, deadline: float) -> Queue:
        return self

    def produce(self, *record: Any) -> asyncio.Future[int]:
        self.records.append(record)
        self.written.append(asyncio.get_running_loop().create_future())
        return self.written[-1]


class Sender:
    """Stands for a driver and its machine."""

    number = 1

    def __init__(self) -> None:
        self.machine = self
        self.lost: list[int] = []

    def failed(self, n: int, reason: str) -> None:
        self.lost.append(n)

    def acked(self, n: int, message: str) -> None:
        raise AssertionError("nothing is durable here")


async def test_nothing_goes_past_a_failure_that_its_sender_has_not_heard_of() -> None:
    """inv 12: between a producer's failure and the turn in which senders learn of it, nothing is written."""
    queue: Any = Queue()
    sender: Any = Sender()
    produce = Produce(queue, ManualClock(), Metrics(), "node", 10.0, turns=Turns(ManualClock(), Metrics()))
    await produce.start(10.0)
    session = Session("s", "ann", "c", "", 0, 0.0, 0.0, "", ())

    def send(n: int) -> None:
        frame = Send(id=n, n=n, to="room:x", type="t", data=msgspec.Raw(b"null"))
        produce.send(sender, session, frame, granted=False)

    send(1)
    send(2)
    for future in queue.written:
        future.set_exception(Retry("the outcome is unknown"))
    with pytest.raises(Retry):
        send(3)
    assert sender.lost == []
    assert len(queue.written) == 2
    await asyncio.sleep(0)
    assert sender.lost == [1, 2]
    send(1)
    assert len(queue.written) == 3


async def test_a_session_s_events_wait_in_a_storm_and_its_sends_stay_behind_them() -> None:
    """inv 12: what a session sends while its `connect` waits for a storm's next round comes after it."""
    queue: Any = Queue()
    clock = ManualClock()
    produce = Produce(queue, clock, Metrics(), "node", 10.0, turns=Turns(clock, Metrics()))
    await produce.start(10.0)
    sessions = [Session(f"s{n}", f"u{n}", "c", "", 0, 0.0, 0.0, "", ()) for n in range(EVENTS + 2)]

    def kinds() -> list[str]:
        return [type(decode_inbound(record[3])).__name__ for record in queue.records]

    for session in sessions[:-2]:
        produce.event(session, "connect")
    assert kinds() == ["SessionEvent"] * EVENTS, "more than that do not wait"
    produce.event(sessions[-2], "connect")
    await clock.settle()
    assert len(queue.records) == EVENTS
    frame = Send(id=1, n=1, to="room:x", type="t", data=msgspec.Raw(b"null"))
    sender: Any = Sender()
    produce.send(sender, sessions[-2], frame, granted=False)
    assert kinds()[EVENTS:] == ["SessionEvent", "Send"]
    produce.event(sessions[-1], "connect")
    await clock.advance(EVENTS_SECONDS)
    assert kinds()[EVENTS:] == ["SessionEvent", "Send", "SessionEvent"]
    assert produce.unfinished == len(sessions)


async def test_an_end_does_not_overtake_a_beginning_whose_failure_is_told_a_turn_later() -> None:
    """inv 6: a session that ends in the turn in which its `connect` fails is told of in order.

    Found by simulated seed 10700745.
    """
    queue: Any = Queue()
    clock = ManualClock()
    produce = Produce(queue, clock, Metrics(), "node", 10.0, turns=Turns(ManualClock(), Metrics()))
    await produce.start(10.0)
    session = Session("s", "ann", "c", "", 0, 0.0, 0.0, "", ())
    produce.event(session, "connect")
    await clock.settle()
    queue.written[0].set_exception(Retry("the outcome is unknown"))
    for _ in range(EVENTS):  # in a storm events go out at once
        produce.event(session, "disconnect")
    assert len(queue.records) == 1
    await clock.settle()
    produce.tick()
    assert [decode_inbound(record[3]).kind for record in queue.records] == [
        "connect",
        "connect",
        "disconnect",
    ]
