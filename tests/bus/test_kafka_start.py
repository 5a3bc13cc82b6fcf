"""A Kafka client that is given up while it starts."""

from __future__ import annotations

import asyncio
import gc

import aiokafka.client
import pytest

from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka


class Connection:
    """A connection to a broker that takes the first question and never answers."""

    def __init__(self) -> None:
        self.closed = False
        self.asked = asyncio.Event()

    async def send(self, _: object) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


async def test_the_first_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: whoever gives up while the cluster is first asked for closes the connection that asks."""
    made: list[Connection] = []

    async def connect(*_: object, **__: object) -> Connection:
        made.append(Connection())
        return made[-1]

    monkeypatch.setattr(aiokafka.client, "create_conn", connect)
    before = asyncio.all_tasks()
    bus = KafkaBus(Kafka(servers="127.0.0.1:1"), Metrics(), SystemClock())
    starting = asyncio.create_task(bus._started_probe())
    while not made:
        await asyncio.sleep(0)
    await made[0].asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [connection.closed for connection in made] == [True]
    assert asyncio.all_tasks() == before
    gc.collect()
