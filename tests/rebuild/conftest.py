"""Dispatch's world, in memory and on real servers, ended with each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.local.cluster import LocalCluster
from tests.dispatch.world import World
from tests.log.servers import Servers
from tests.rebuild.people import People
from tests.rebuild.real import Real
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from deploy.local.servers import Running


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.stop()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.stop()


class Making:
    """Makes a `Real` on a Redis, and stops it."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self.made: Real | None = None

    async def __call__(self, redis: str) -> Real:
        self.made = Real(self._kafka, redis, self._prefix)
        await self.made.start()
        return self.made


@pytest.fixture
async def making(kafka_server: Running, unique_prefix: str) -> AsyncIterator[Making]:
    making = Making(kafka_server.address, unique_prefix)
    yield making
    if making.made is not None:
        await making.made.stop()


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Kafka, Redis, Consul; two access nodes, two dispatchers, one worker of logic."""
    running = LocalCluster(
        tmp_path_factory.mktemp("rebuild"),
        access=2,
        logic=1,
        dispatch=2,
        settings={
            "channels.room.keep_count": 20_000
        },  # what comes in during a slow machine's outage, and more
    )
    with available():
        running.start()
    yield running
    running.stop()


@pytest.fixture
async def people(cluster: LocalCluster) -> AsyncIterator[People]:
    """The clients of this test."""
    people = People(cluster)
    yield people
    await people.close()
