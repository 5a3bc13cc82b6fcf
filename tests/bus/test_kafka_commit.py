"""A commit to Kafka that takes too long."""

from __future__ import annotations

import asyncio
import gc

import pytest

from holdfast.bus.kafka_consumer import KafkaConsumer
from holdfast.errors import Retry
from holdfast.settings import Kafka


class Beneath:
    """Commits as aiokafka does: the request is shielded from whoever gives up waiting."""

    def __init__(self) -> None:
        self.request: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.committed: list[int] = []

    async def commit(self, where) -> None:
        await asyncio.shield(asyncio.ensure_future(self._send()))
        self.committed += [offset for offset, _ in where.values()]

    async def _send(self) -> None:
        await self.request

    async def stop(self) -> None:
        pass


async def test_a_late_failure_is_nobody_s_surprise() -> None:
    """A commit that is given up says so at its deadline, and its own end later is not an unhandled error."""
    beneath, errors = Beneath(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    consumer = KafkaConsumer(beneath, "topic", "group", Kafka(deadline=0.05), ends=None)  # type: ignore[arg-type]
    with pytest.raises(Retry):
        await consumer.commit({0: 7})
    beneath.request.set_exception(Retry("no answer"))
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert errors == []

    beneath.request = asyncio.get_running_loop().create_future()
    beneath.request.set_result(None)
    await consumer.commit({0: 8})
    assert beneath.committed == [8]


async def test_one_commit_at_a_time() -> None:
    """A commit waits for the one before, however late that is: an older place never comes last."""
    beneath = Beneath()
    consumer = KafkaConsumer(beneath, "topic", "group", Kafka(deadline=0.05), ends=None)  # type: ignore[arg-type]
    for offset in (7, 8):
        with pytest.raises(Retry):
            await consumer.commit({0: offset})
    beneath.request.set_result(None)
    await consumer.commit({0: 9})
    assert beneath.committed == [7, 9]
