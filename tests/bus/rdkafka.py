"""A librdkafka that reads from lists: what `kafka_poll` needs of it, as free in what comes when."""

from __future__ import annotations

import bisect
import threading
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

WAIT = 0.0005
"""Seconds of a poll that finds nothing."""


class Log:
    """The offsets that each partition has, with gaps as compaction leaves them. Shared by all consumers."""

    def __init__(self, partitions: int, random: Random) -> None:
        self.partitions: dict[int, list[int]] = {p: [] for p in range(partitions)}
        self.starts = dict.fromkeys(range(partitions), 0)  # what is below is gone by retention
        self.random = random
        self.chunks: tuple[int, ...] = (0, 1, 5, 50)
        self.consumers: list[Consumer] = []
        self.committed: dict[int, int] = {}
        self.assigning: list[int] = []
        self.refusing = 0
        self.failing = 0

    def consumer(self, config: dict[str, Any], **_: Any) -> Consumer:
        del config
        made = Consumer(self)
        self.consumers.append(made)
        return made


class Message:
    def __init__(self, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self._partition = partition
        self._offset = offset
        self._error = error

    def error(self) -> KafkaError | None:
        return self._error

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 2, 1_000 + self._offset

    def key(self) -> bytes:
        return b"%d" % self._partition

    def value(self) -> bytes:
        return b"%d" % self._offset

    def headers(self) -> None:
        return None


class Consumer:
    """Called by one thread at a time, which is what the real one demands."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.closed = False
        self.positions: dict[int, int] = {}
        self.paused: set[int] = set()
        self.lost: set[int] = set()
        self.thread: int | None = None
        self._moves: dict[str, Callable[..., None]] = {}

    def _enter(self) -> None:
        assert not self.closed, "a consumer was used after its end"
        assert self.thread in (None, threading.get_ident()), "two threads use one consumer"
        self.thread = threading.get_ident()

    def list_topics(self, topic: str, timeout: float) -> None:
        del topic, timeout
        self._enter()
        if self.log.refusing:
            self.log.refusing -= 1
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def subscribe(self, topics: Sequence[str], on_assign: Any, on_revoke: Any) -> None:
        self._enter()
        self._moves = {"assign": on_assign, "revoke": on_revoke}
        self._topic = topics[0]

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p) for p in self.positions]

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        del timeout
        self._enter()
        return [
            TopicPartition(p.topic, p.partition, self.log.committed.get(p.partition, -1001)) for p in places
        ]

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self._enter()
        self.positions = {place.partition: max(place.offset, 0) for place in places}

    def incremental_assign(self, places: Sequence[TopicPartition]) -> None:
        self._enter()
        for place in places:
            assert place.partition not in self.positions
            self.positions[place.partition] = place.offset

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        self._enter()
        for place in places:
            self.positions.pop(place.partition)
            self.lost.discard(place.partition)

    def seek(self, place: TopicPartition) -> None:
        self._enter()
        if place.partition not in self.positions:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.positions[place.partition] = place.offset
        self.lost.discard(place.partition)

    def pause(self, places: Sequence[TopicPartition]) -> None:
        self._enter()
        self.paused |= {place.partition for place in places}

    def resume(self, places: Sequence[TopicPartition]) -> None:
        self._enter()
        self.paused -= {place.partition for place in places}

    def commit(self, offsets: Sequence[TopicPartition], *, asynchronous: bool) -> list[TopicPartition]:
        self._enter()
        assert not asynchronous
        self.log.committed |= {place.partition: place.offset for place in offsets}
        return list(offsets)

    def poll(self, timeout: float) -> Message | None:
        del timeout
        self._enter()
        if self.log.failing:
            self.log.failing -= 1
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if self._moves and self.log.assigning and not self.positions:
            self._moves["assign"](self, [TopicPartition(self._topic, p) for p in self.log.assigning])
        if (found := self._next()) is None:
            threading.Event().wait(WAIT)
        return found

    def consume(self, most: int, timeout: float) -> list[Message]:
        assert timeout == 0.0
        self._enter()
        found: list[Message] = []
        most = min(most, self.log.random.choice(self.log.chunks))
        while len(found) < most and (message := self._next()) is not None:
            found.append(message)
        return found

    def close(self) -> None:
        self._enter()
        if self._moves and self.positions:
            self._moves["revoke"](self, self.assignment())
        self.closed = True

    def _next(self) -> Message | None:
        ready = [p for p in self.positions if p not in self.paused | self.lost]
        self.log.random.shuffle(ready)
        for partition in ready:
            position, offsets = self.positions[partition], self.log.partitions[partition]
            if not self.log.starts[partition] <= position <= (offsets[-1] + 1 if offsets else 0):
                self.lost.add(partition)  # it reads no further
                return Message(partition, position, KafkaError(KafkaError._AUTO_OFFSET_RESET))
            index = bisect.bisect_left(offsets, position)
            if index < len(offsets):
                self.positions[partition] = offsets[index] + 1
                return Message(partition, offsets[index])
        return None
