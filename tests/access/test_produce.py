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
from services.access.produce import Produce
from services.access.sessions import Session


class Queue:
    """A bus whose producer answers when the test says so."""

    partitions = 1

    def __init__(self) -> None:
        self.written: list[asyncio.Future[int]] = []

    async def producer(self, *, deadline: float) -> Queue:
        return self

    def produce(self, *_: Any) -> asyncio.Future[int]:
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
    produce = Produce(queue, ManualClock(), Metrics(), "node", 10.0)
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
