"""A member of a group that fetches all, commits one record, and waits to be killed: ADDRESS PREFIX."""

from __future__ import annotations

import asyncio
import sys

from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka


async def main(address: str, prefix: str) -> None:
    settings = Kafka(servers=address, prefix=prefix, partitions=3, replication=1, session_timeout=1.0)
    bus = KafkaBus(settings, Metrics(), SystemClock())
    await bus.start()

    async def moved(_: object) -> None:
        pass

    consumer = await bus.join_group("inbound", "g", on_assigned=moved, on_revoked=moved)
    while not await consumer.fetch(10, 0.5):
        pass
    await consumer.commit({0: 1})
    sys.stdout.write("committed\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
