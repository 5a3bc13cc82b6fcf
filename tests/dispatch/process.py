"""One dispatcher as a process has it, on a real Kafka and a real Redis, within the test's own process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.log.redis import RedisLog
from holdfast.membership.memory import MemoryDirectory
from holdfast.network import TcpNetwork
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts
from services.dispatch.node import DispatchNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.membership.memory import MemoryRegistry
    from holdfast.settings import Settings


async def until(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


class Process:
    """What one dispatcher process has of its own."""

    def __init__(self, settings: Settings, registry: MemoryRegistry, name: str) -> None:
        self.metrics = Metrics()
        clock = SystemClock()
        self.parts = Parts(
            settings,
            clock,
            TcpNetwork(),
            KafkaBus(settings.kafka, self.metrics, clock),
            RedisLog(settings.redis, settings.kafka.partitions, settings.policies(), self.metrics, clock),
            MemoryDirectory(registry),
            self.metrics,
        )
        self.node = DispatchNode(self.parts, name)

    async def start(self) -> None:
        await self.parts.bus.start()
        await self.parts.log.start()
        await self.parts.directory.start()
        await self.node.start()

    async def stop(self) -> None:
        await self.node.stop()
        await self.parts.directory.close()
        await self.parts.log.close()
        await self.parts.bus.close()

    def partitions(self) -> list[int]:
        owned: list[int] = self.node.details()["partitions"]
        return owned

    def count(self, metric: str, **labels: str) -> float:
        """Return a metric of dispatch."""
        return self.metrics.registry.get_sample_value(f"holdfast_dispatch_{metric}", labels) or 0.0
