"""Brokers that write to lists: what `kafka_sender` needs of aiokafka's client and of Kafka, faults included.

Requests are read by aiokafka's own classes, and answered in its bytes. Batches are taken by the rules of
KIP-98: in the order of their numbers, and once.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatch

from holdfast.bus.kafka_sender import _Produced

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

BROKERS = 2
REMEMBERED = 5
"""Batches of a producer and partition that a broker tells the offset of."""

NOT_LEADER, NOT_ENOUGH, NOT_ENOUGH_AFTER, TOO_OLD, OUT_OF_ORDER, NOT_ALLOWED = 6, 19, 20, 46, 45, 29

GOOD = "answers"
FAULTS = ("lost", "cut", "hangs", "refuses", "replicas", "replicas after", "not ready")


class Cluster:
    """Logs of the values that were written, and who leads which partition. `faults` are drawn from."""

    def __init__(self, partitions: int, random: Random) -> None:
        self.random = random
        self.logs: dict[int, list[bytes]] = {p: [] for p in range(partitions)}
        self.leaders: dict[int, int] = {p: p % BROKERS for p in range(partitions)}
        self.faults: Sequence[str] = (GOOD,)
        self.away = False
        self.clients: list[Client] = []
        self.told: Counter[str] = Counter()
        self.wrong: list[
            AssertionError
        ] = []  # what no request should be; whoever sent it only sees a failure
        self.numbers: dict[tuple[int, int], list[tuple[int, int, int]]] = {}

    def client(self, **options: Any) -> Client:
        made = Client(self, options)
        self.clients.append(made)
        return made

    def take(self, broker: int, partition: int, data: bytes, fault: str) -> tuple[int, int]:
        """Return error and offset."""
        if self.leaders[partition] != broker:
            return NOT_LEADER, -1
        if fault == "replicas":
            return NOT_ENOUGH, -1
        if fault == "refuses":
            return NOT_ALLOWED, -1
        batch = DefaultRecordBatch(bytes(data))
        assert batch.validate_crc()
        values = [record.value for record in batch]
        assert values
        known = self.numbers.setdefault((batch.producer_id, partition), [])
        for first, count, offset in known[-REMEMBERED:]:
            if (first, count) == (batch.base_sequence, len(values)):
                self.told["repeated"] += 1
                return 0, offset
        due = known[-1][0] + known[-1][1] if known else 0
        if batch.base_sequence != due:
            return (TOO_OLD if batch.base_sequence < due else OUT_OF_ORDER), -1
        log = self.logs[partition]
        known.append((due, len(values), len(log)))
        log += values
        return (NOT_ENOUGH_AFTER, -1) if fault == "replicas after" else (0, known[-1][2])


class Client:
    """What `Sender` uses of aiokafka's client. A broker has one request of it at a time."""

    def __init__(self, cluster: Cluster, options: dict[str, Any]) -> None:
        self.options = options
        self._cluster = cluster
        self._known: dict[int, int] = {}
        self._with: Counter[int] = Counter()
        self._sync_task: asyncio.Task[Any] | None = None
        self._conns: dict[Any, Any] = {0: self}
        self._writer = None
        self.is_cut = False
        self.cluster = self

    async def bootstrap(self) -> None:
        await asyncio.sleep(0)
        if self._cluster.away:
            raise KafkaConnectionError
        self._sync_task = asyncio.create_task(asyncio.Event().wait())

    def close(self) -> None:
        """End its connection, which it is itself."""
        self.is_cut = True

    async def set_topics(self, _: Sequence[str]) -> None:
        self._known = dict(self._cluster.leaders)

    def force_metadata_update(self) -> None:
        self._cluster.told["asked"] += 1
        asyncio.get_running_loop().call_soon(self._known.update, dict(self._cluster.leaders))

    def partitions_for_topic(self, _: str) -> set[int]:
        return set(self._known)

    def brokers(self) -> list[Any]:
        return [SimpleNamespace(nodeId=broker) for broker in range(BROKERS)]

    def leader_for_partition(self, tp: Any) -> int:
        return self._known[tp.partition]

    async def send(self, broker: int, request: Any) -> Any:
        cluster = self._cluster
        if isinstance(request, InitProducerIdRequest):
            return SimpleNamespace(error_code=0, producer_id=len(cluster.clients), producer_epoch=0)
        self._with[broker] += 1
        try:
            assert self._with[broker] == 1
            return await self._produce(broker, request)
        except AssertionError as error:
            cluster.wrong.append(error)
            raise
        finally:
            self._with[broker] -= 1

    async def _produce(self, broker: int, request: Any) -> Any:
        cluster, random = self._cluster, self._cluster.random
        body = request.prepare({0: (3, 9)}).encode()
        asked = ProduceRequest_v7.decode(body)
        assert (asked.transactional_id, asked.required_acks) == (None, -1)
        assert body == asked.encode()
        fault = random.choice(cluster.faults)
        cluster.told[fault] += 1
        for _ in range(random.choice((0, 1, 5))):
            await asyncio.sleep(0)
        if fault == "not ready":
            raise NodeNotReadyError
        if fault == "cut":
            raise KafkaConnectionError
        answered = []
        for topic, batches in asked.topics:
            outcomes = [
                (p, *cluster.take(broker, p, data, random.choice((fault, GOOD))), -1, 0)
                for p, data in batches
            ]
            answered.append((topic, outcomes))
        if fault == "hangs":
            await asyncio.Event().wait()
        if fault == "lost":
            raise KafkaConnectionError
        for _ in range(random.choice((0, 1, 5))):
            await asyncio.sleep(0)
        return _Produced.decode(io.BytesIO(ProduceResponse_v7(answered, 0).encode()))
