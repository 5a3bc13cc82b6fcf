"""Every adapter of a port, for its contract."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from deploy.local.servers import start_kafka
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.redis import RedisLog
from holdfast.settings import Redis
from tests.contracts.bus_world import KafkaPlace, MemoryPlace
from tests.contracts.log_world import POLICIES, Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deploy.local.process import Running
    from holdfast.log.port import Log
    from tests.contracts.bus_world import Place


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[int], Log]]:
    """Make handles on one store, each for a number of partitions."""
    made: list[Log] = []
    if request.param == "memory":
        stores: dict[int, MemoryStore] = {}

        def make(partitions: int) -> Log:
            return MemoryLog(stores.setdefault(partitions, MemoryStore(partitions)), POLICIES)

    else:
        server = request.getfixturevalue("redis_server")
        settings = Redis(url=f"redis://{server.address}/0", prefix=request.getfixturevalue("unique_prefix"))

        def make(partitions: int) -> Log:
            made.append(RedisLog(settings, partitions, POLICIES))
            return made[-1]

    yield make
    for log in made:
        await log.close()


@pytest.fixture
async def log(logs: Callable[[int], Log]) -> Log:
    """One started handle."""
    log = logs(4)
    await log.start()
    return log


@pytest.fixture
async def owner(log: Log) -> Owner:
    """A dispatcher that owns shard 0."""
    owner = Owner(log)
    assert await owner.claim()
    return owner


@pytest.fixture(scope="module")
def broker(kafka_server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A Kafka of our own, to be frozen and killed."""
    if not kafka_server.ours:
        pytest.skip("a Kafka given by setting is not ours to kill")
    with start_kafka(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
async def place(request: pytest.FixtureRequest, unique_prefix: str) -> AsyncIterator[Place]:
    made: MemoryPlace | KafkaPlace
    if request.param == "memory":
        made = MemoryPlace()
    else:
        made = KafkaPlace(request.getfixturevalue("kafka_server").address, unique_prefix)
    yield made
    await made.close()
    gc.collect()  # what was left open warns now, within its own test
