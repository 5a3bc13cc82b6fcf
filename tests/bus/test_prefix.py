"""Searched: whatever fails and wherever a sender goes, what Kafka has of it is a prefix without gaps."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from tests.bus.moving import Sender

NODES = 3
DEADLINE = 2.0

steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(2, 12)),
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(2, 12)),
        st.tuples(st.just("move"), st.integers(0, 2)),
        st.tuples(st.just("away"), st.sampled_from((True, True, False))),
        st.tuples(st.just("lose acks"), st.booleans()),
        st.tuples(st.just("fill"), st.integers(0, NODES - 1)),
        st.tuples(st.just("advance"), st.sampled_from((0.1, DEADLINE / 2, DEADLINE + 0.1, DEADLINE + 0.1))),
    ),
    min_size=8,
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(steps)
def test_a_sender_is_a_prefix(made: list[Any]) -> None:
    """inv 1, 12: over outages, lost acks, full buffers and moves between nodes, zombies' batches included."""
    asyncio.run(play(made))


async def play(made: list[Any]) -> None:
    clock = ManualClock(settle=5)
    broker = MemoryBroker(1, clock)
    producers = [
        await MemoryBus(broker, buffer=(20, 100_000)).producer(deadline=DEADLINE) for _ in range(NODES)
    ]
    senders = [Sender(b"s%d" % number, 0, producers[number:] + producers[:number]) for number in range(3)]
    for what, *more in made:
        if what == "send":
            senders[more[0]].pump(more[1])
        elif what == "move":
            senders[more[0]].move()
        elif what == "away":
            broker.away = more[0]
        elif what == "lose acks":
            broker.drop_acks = more[0]
        elif what == "fill":
            try:
                for _ in range(21):
                    producers[more[0]].produce("inbound", 0, None, b"other")
            except Retry:
                event("a buffer was full")
        else:
            await clock.advance(more[0])
        if what != "send":
            await clock.settle()
    broker.away = broker.drop_acks = False
    await clock.advance(DEADLINE + 0.1)
    for _ in range(8):
        for sender in senders:
            sender.pump(5)
        await clock.settle()
    log = [(record.offset, record.value) for record in broker.partition("inbound", 0).records]
    for sender in senders:
        sender.check(log)
        event(f"failures: {min(sender.failures, 3)}, moves: {min(sender.moves, 2)}")
        assert len(sender.acked) > 20, "a sender does not go on"
    for producer in producers:
        await producer.close()
