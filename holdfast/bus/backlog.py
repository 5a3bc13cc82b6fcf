"""How far a topic's readers are behind, looked at about once a second; at a bound no more is to be put in.

What is refused is refused before it is in the queue, so whoever sent it keeps it and comes back: a backlog is
felt as errors to retry, not as disk that fills up until retention drops what was acknowledged.

While Kafka does not answer, what was seen last holds for `TRUSTED` seconds, and then there is no bound. A
backlog that nobody can see is no reason to refuse what the queue takes: where the topic is away, producers
refuse by themselves, and where only the group's coordinator is, refusals would be an outage of our making.
"""

from __future__ import annotations

import asyncio
import logging
import random
from itertools import islice
from typing import TYPE_CHECKING, Final
from zlib import crc32

from holdfast.bus.port import MAX_NOTE
from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.failures import Failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.bus.port import Bus, Progress, Topic
    from holdfast.clock import Clock, Timer
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Kafka

EVERY: Final = 1.0
"""Seconds between looks, on average: processes that start together do not go on looking together."""

TRUSTED: Final = 5.0
"""Seconds for which what was seen last holds."""

SHORTEST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 10.0
"""Seconds that are told to who is refused, before a spread of half as much again."""

AGAIN: Final = 0.9
"""Share of a bound at which what was refused is taken again: what opens and closes does so in seconds, not
with every record."""

SLOW_WAIT: Final = 3.0
"""Seconds told to a sender of whom too much waits, before a spread of half as much again."""

FAR: Final = 2
"""Times what all partitions together may hold, at which those who cannot refuse (logic, with what handlers
put out) stop too. They stop for all, and one partition that stands still is no reason for that."""

_SMOOTH: Final = 0.3

_log = logging.getLogger(__name__)


class Backlog:
    """One topic's backlog, by partition: what its readers, who commit under `group`, have not finished.

    A partition is closed from when it is at the bound until it is at `AGAIN` of that. `full` tells whether
    anybody is refused, `far` whether all together hold `FAR` times what they may. With a `bound` (records) of
    0 nobody looks and nothing is refused.

    Besides, who commits may note senders (`marks`) of whom more waits than their share: these are refused
    alone, so that one whose messages are slow does not fill the partition for all.
    """

    def __init__(
        self, bus: Bus, topic: Topic, group: str, bound: int, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._bus = bus
        self._topic: Topic = topic
        self._group = group
        self._bound = bound
        self._clock = clock
        self._metrics = metrics
        self._refused = metrics.bus_backlog_refused.labels(topic)
        self._waits = [0.0] * bus.partitions
        self._rates = [0.0] * bus.partitions
        self._slow: list[frozenset[str]] = [frozenset()] * bus.partitions
        self._seen: Mapping[int, Progress] = {}
        self._seen_at = 0.0
        self._doubt: Timer | None = None
        self._failures = Failures("backlog", clock, metrics)
        self._task: asyncio.Task[None] | None = None
        self._random = random.Random()  # noqa: S311 - jitter
        self.full = False
        self.far = False

    def start(self) -> None:
        """Begin to look."""
        if self._bound:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more, and forget what was seen."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._forget()

    def check(self, key: str) -> None:
        """Raise Retry, with seconds to wait, where the partition of a record with this key is closed.

        Who calls this often looks at `full` first.
        """
        if not self.full:
            return
        partition = partition_of(key, self._bus.partitions)
        wait, reason = self._waits[partition], "more waits in the queue than is handled"
        if not wait and (slow := self._slow[partition]) and _mark(key) in slow:
            wait, reason = SLOW_WAIT, "more of this sender's waits than its share"
        if wait:
            self._refused.inc()
            raise Retry(reason, after=round(wait * self._random.uniform(1.0, 1.5), 3))

    async def _run(self) -> None:
        while True:
            try:
                self._saw(await self._bus.progress(self._topic, self._group))
            except Retry as error:
                self._metrics.bus_backlog_unknown.labels(self._topic).inc()
                _log.info("the backlog of %s is not known: %s", self._topic, error)
            except Exception:  # noqa: BLE001 - counted; nothing is refused meanwhile, see `TRUSTED`
                await self._failures.pause()
                continue
            await self._clock.sleep(EVERY * self._random.uniform(0.75, 1.25))

    def _saw(self, progress: Mapping[int, Progress]) -> None:
        """Take in how far each partition is."""
        now = self._clock.monotonic()
        most = total = 0
        for partition, (position, end, note) in progress.items():
            self._measure(partition, position, now)
            backlog = end - position
            most, total = max(most, backlog), total + backlog
            self._waits[partition] = self._wait(partition, backlog)
            # What was noted by one that died is nobody's to withdraw: it counts only while something waits.
            self._slow[partition] = frozenset(note.split(",") if note and backlog else ())
        full = sum(wait > 0 for wait in self._waits)
        if full and not self.full:
            _log.warning("%d partitions of %s have a backlog of up to %d records", full, self._topic, most)
        self.full = full > 0 or any(self._slow)
        limit = FAR * self._bound * len(progress)
        self.far = total >= limit or (self.far and total > AGAIN * limit)
        self._seen, self._seen_at = progress, now
        self._metrics.bus_backlog.labels(self._topic).set(most)
        self._metrics.bus_backlog_full.labels(self._topic).set(full)
        if self._doubt is not None:
            self._doubt.cancel()
        self._doubt = self._clock.call_later(TRUSTED, self._forget)

    def _measure(self, partition: int, position: int, now: float) -> None:
        """Follow how fast a partition is read. Commits come about once a second, so looks are averaged."""
        if partition in self._seen and now > self._seen_at:
            moved = max(position - self._seen[partition].position, 0) / (now - self._seen_at)
            self._rates[partition] += _SMOOTH * (moved - self._rates[partition])

    def _wait(self, partition: int, backlog: int) -> float:
        """Return the seconds until a partition, read as fast as lately, is open again; 0 where it is open."""
        excess = backlog - AGAIN * self._bound
        if backlog < self._bound and (excess <= 0 or not self._waits[partition]):
            return 0.0
        rate = self._rates[partition]
        return min(max(excess / rate, SHORTEST_WAIT), LONGEST_WAIT) if rate > 0 else LONGEST_WAIT

    def _forget(self) -> None:
        """Let go of what was seen: it is too old to refuse anything by it."""
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        self._waits = [0.0] * len(self._waits)
        self._slow = [frozenset()] * len(self._slow)
        self._seen = {}
        self.full = self.far = False
        self._metrics.bus_backlog.remove(self._topic)
        self._metrics.bus_backlog_full.labels(self._topic).set(0)


def marks(senders: Iterable[str]) -> str:
    """Return the note that names these senders, as many of them as it has room for."""
    return ",".join(islice(map(_mark, senders), (MAX_NOTE + 1) // 9))


def _mark(sender: str) -> str:
    return f"{crc32(sender.encode()):08x}"


def of_inbound(bus: Bus, kafka: Kafka, clock: Clock, metrics: Metrics) -> Backlog:
    """Return the backlog of inbound: what logic has not handled."""
    return Backlog(bus, "inbound", kafka.group, kafka.inbound_backlog, clock=clock, metrics=metrics)


def of_outbound(bus: Bus, kafka: Kafka, clock: Clock, metrics: Metrics) -> Backlog:
    """Return the backlog of outbound: what dispatch has not brought into the channels' logs."""
    group = f"{kafka.group}-dispatch"
    return Backlog(bus, "outbound", group, kafka.outbound_backlog, clock=clock, metrics=metrics)
