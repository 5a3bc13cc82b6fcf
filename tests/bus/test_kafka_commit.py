"""A commit to Kafka that takes too long."""

from __future__ import annotations

import asyncio
import gc

import pytest
from confluent_kafka import KafkaException

from holdfast.bus.kafka_consumer import KafkaConsumer
from holdfast.bus.kafka_poll import _settle
from holdfast.errors import Retry
from holdfast.settings import Kafka


class Beneath:
    """Takes commits, and ends them when told to."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.done: list[asyncio.Future[None]] = []

    def commit(self, offsets, notes) -> asyncio.Future[None]:
        del notes
        self.committed += offsets.values()
        self.done.append(asyncio.get_running_loop().create_future())
        return self.done[-1]


def made(beneath: Beneath) -> KafkaConsumer:
    consumer = KafkaConsumer(Kafka(deadline=0.05), "topic", "group", ends=None)  # type: ignore[arg-type]
    consumer._committer = beneath  # type: ignore[assignment]
    return consumer


async def test_a_late_failure_is_nobody_s_surprise() -> None:
    """A commit that is given up says so at its deadline, and its own end later is not an unhandled error."""
    beneath, errors = Beneath(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    consumer = made(beneath)
    with pytest.raises(Retry):
        await consumer.commit({0: 7})
    _settle(beneath.done.pop(), KafkaException("no answer"))
    task = asyncio.create_task(consumer.commit({0: 8}))
    while len(beneath.committed) < 2:
        await asyncio.sleep(0)
    _settle(beneath.done.pop(), None)
    await task
    gc.collect()
    assert errors == []
    assert beneath.committed == [7, 8]


async def test_one_commit_at_a_time() -> None:
    """A commit waits for the one before, however late that is: an older place never comes last."""
    beneath = Beneath()
    consumer = made(beneath)
    for offset in (7, 8):
        with pytest.raises(Retry):
            await consumer.commit({0: offset})
    assert beneath.committed == [7]
    _settle(beneath.done.pop(), None)
    task = asyncio.create_task(consumer.commit({0: 9}))
    while len(beneath.committed) < 2:
        await asyncio.sleep(0)
    _settle(beneath.done.pop(), None)
    await task
    assert beneath.committed == [7, 9]


async def test_a_commit_of_who_is_revoked_beside_another() -> None:
    """inv 8: two ask at once, as one who is told of a revocation while it commits: one after the other."""
    beneath = Beneath()
    consumer = made(beneath)
    tasks = [asyncio.create_task(consumer.commit({0: offset})) for offset in (7, 8, 9)]
    for offsets in ([7], [7, 8], [7, 8, 9]):
        while beneath.committed != offsets:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert beneath.committed == offsets
        _settle(beneath.done.pop(), KafkaException("refused") if offsets[-1] == 8 else None)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Retry, type(None)]
