"""The sign of life: one beat per shard and second, and what it brings back.

The beats to shard 0 also carry this node's connections, and bring back everybody's (`rebalance`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import Retry
from holdfast.failures import Failures, forever
from holdfast.log.port import TOMBSTONE_SECONDS, Change
from holdfast.protocol.connection import Event

if TYPE_CHECKING:
    from holdfast.log.port import BeatAnswer, Kick

    from .node import AccessNode

EVERY: Final = 1.0

_log = logging.getLogger(__name__)


class Beat:
    """Beats until stopped."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self._failures = Failures("beats", node.clock, node.metrics)
        self._task: asyncio.Task[None] | None = None
        self._beats: dict[int, asyncio.Task[None]] = {}
        self._answered: dict[int, float] = {}

    async def start(self) -> None:
        """Beat once, to learn where each shard stands before anybody subscribes, then go on. Raises Retry."""
        node = self._node
        answers = await asyncio.gather(
            *(node.parts.log.beat(shard, node.incarnation) for shard in range(node.parts.log.partitions))
        )
        for shard, answer in enumerate(answers):
            node.links.begin(shard, answer.generation, answer.watermark.offset)
            self._answered[shard] = node.clock.monotonic()
        self._task = asyncio.get_running_loop().create_task(
            forever("beats", self._second, node.clock, node.metrics)
        )

    async def stop(self) -> None:
        """Beat no more."""
        tasks = [*self._beats.values(), *((self._task,) if self._task else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    async def _second(self) -> None:
        node = self._node
        await node.clock.sleep(EVERY)
        self._failures.call(node.second)  # whatever goes wrong there, this node lives
        told = node.roster.told()
        for shard in range(node.parts.log.partitions):
            # A shard that does not answer delays no other one's beat.
            if shard not in self._beats:
                self._beats[shard] = asyncio.get_running_loop().create_task(self._beat(shard, told))

    async def _beat(self, shard: int, told: int) -> None:
        node = self._node
        incarnation, known = node.incarnation, node.routes.number(shard)
        try:
            load = -1 if shard else len(node.drivers)
            answer = await node.parts.log.beat(shard, incarnation, told=told, load=load)
        except Retry as error:
            _log.debug("a beat failed: %s", error, extra={"shard": shard})
        except Exception:  # noqa: BLE001 - counted; the next one comes in a second
            self._failures.note()
        else:
            self._heard(shard, incarnation, known, answer)
        finally:
            self._beats.pop(shard, None)

    def _heard(self, shard: int, incarnation: str, known: int, answer: BeatAnswer) -> None:
        node = self._node
        now = node.clock.monotonic()
        last, self._answered[shard] = self._answered[shard], now
        # Tombstones are not kept for ever: who heard nothing for so long may have had one.
        if answer.fenced or now - last > TOMBSTONE_SECONDS / 2:
            node.fenced(incarnation)
        if incarnation != node.incarnation or node.is_fenced:
            return
        if not shard:
            node.rebalance.loads = answer.loads
        if answer.number < known:
            node.routes.forgot(shard, known, answer.number)
        if not answer.rebuilding:
            node.links.answered(shard, answer.generation, answer.watermark.offset)
        self._take(answer, shard)

    def _take(self, answer: BeatAnswer, shard: int) -> None:
        for kick in answer.kicks:
            self._kick(kick, shard)
        if "drain" in answer.asks:
            self._node.drain()

    def _kick(self, kick: Kick, shard: int) -> None:
        node = self._node
        driver = node.roster.driver_of(kick.user, kick.session)
        if driver is not None:
            driver.machine.signal(Event.ENDED, kick.code, kick.reason or "the session was ended")
        elif not node.roster.is_leaving(kick.session):
            # An entry that nobody here knows: whatever wrote it, it is not a session.
            node.routes.change(shard, Change("-s", kick.user, session=kick.session))
