"""A consumer group with a coordinator: sessions that run out, rebalances that wait only so long, zombies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tests.simulation.kafka import SimKafka
    from tests.simulation.loop import Process

HEARTBEAT: Final = 0.5
REBALANCE: Final = 5.0
"""Seconds that members have to give up what they had."""


class Member:
    """One consumer. It reads while `reading`: also for a while after the group gave it up, as a zombie."""

    def __init__(
        self,
        process: Process,
        on_assigned: Callable[[Sequence[int]], Awaitable[None]],
        on_revoked: Callable[[Sequence[int]], Awaitable[None]],
    ) -> None:
        self.process = process
        self.on_assigned = on_assigned
        self.on_revoked = on_revoked
        self.partitions: tuple[int, ...] = ()
        self.reading = False
        self.beat = 0.0
        self.gone = False
        self.take_over: Callable[[Sequence[int]], None] = lambda _: None
        self.lock = asyncio.Lock()  # what befalls a member befalls it one by one


class Group:
    """Members, and the offsets from which partitions go on."""

    def __init__(self, kafka: SimKafka, partitions: int) -> None:
        self.committed: dict[int, int] = {}
        self.notes: dict[int, str] = {}
        self._kafka = kafka
        self._partitions = partitions
        self._members: list[Member] = []
        self._owner: dict[int, Member] = {}
        self._generation = 0
        self._changed = asyncio.Event()
        loop = kafka.loop
        self._tasks = [loop.spawn(loop.world, self._coordinate()), loop.spawn(loop.world, self._monitor())]

    def join(self, member: Member) -> None:
        """Take a member in, at the next rebalance."""
        member.beat = self._kafka.loop.now
        member.gone = False
        self._members.append(member)
        self._changed.set()
        self._kafka.loop.spawn(member.process, self._heartbeat(member))

    def leave(self, member: Member) -> None:
        """Take a member out."""
        member.reading = False
        member.gone = True
        if member in self._members:
            self._members.remove(member)
            self._changed.set()

    def may_commit(self, member: Member, offsets: Mapping[int, int]) -> bool:
        """Tell whether these partitions are this member's, as far as the group is concerned."""
        return all(self._owner.get(partition) is member for partition in offsets)

    def rebalance(self) -> None:
        """Deal again, whatever for."""
        self._changed.set()

    def _reaches(self, member: Member) -> bool:
        kafka = self._kafka
        return not kafka.down and kafka.links.reachable(member.process.name, "kafka")

    async def _heartbeat(self, member: Member) -> None:
        # In the member's own process: one that is stopped does not beat, and learns late that it is out.
        while not member.gone:
            if member not in self._members and self._reaches(member):
                await self._thrown_out(member)
                return
            if self._reaches(member):
                member.beat = self._kafka.loop.now
            await asyncio.sleep(HEARTBEAT)

    async def _thrown_out(self, member: Member) -> None:
        await self._revoke(member)
        if not member.gone:
            self.join(member)

    async def _revoke(self, member: Member) -> None:
        async with member.lock:
            member.reading = False
            partitions, member.partitions = member.partitions, ()
            if partitions:
                await member.on_revoked(partitions)

    async def _monitor(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            if self._kafka.down:
                for member in self._members:
                    member.beat = self._kafka.loop.now  # a coordinator that was away counts anew
            late = self._kafka.loop.now - self._kafka.timeout
            for member in [member for member in self._members if member.beat < late]:
                self._members.remove(member)
                self._changed.set()

    async def _coordinate(self) -> None:
        loop = self._kafka.loop
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._kafka.down:
                await asyncio.sleep(0.2)
            self._generation += 1
            await self._all(list(self._members), self._give_up)
            members = list(self._members)
            self._owner.clear()
            shares = {
                index: tuple(range(index, self._partitions, len(members))) for index in range(len(members))
            }
            for index, member in enumerate(members):
                for partition in shares[index]:
                    self._owner[partition] = member
            for index, member in enumerate(members):
                loop.spawn(member.process, self._take_up(member, shares[index], self._generation))

    async def _all(self, members: Sequence[Member], work: Callable[[Member], Any]) -> None:
        """Let members do something, each in its own process; throw out who does not in time."""
        loop = self._kafka.loop
        tasks = {member: loop.spawn(member.process, work(member)) for member in members}
        until = loop.now + REBALANCE

        def waiting() -> bool:
            return any(not task.done() for member, task in tasks.items() if member in self._members)

        while loop.now < until and waiting():
            await asyncio.sleep(0.02)
        for member, task in tasks.items():
            if not task.done() and member in self._members:
                self._members.remove(member)

    async def _give_up(self, member: Member) -> None:
        await asyncio.sleep(self._kafka.links.delay("kafka", member.process.name))
        while not self._reaches(member):
            await asyncio.sleep(0.2)
        await self._revoke(member)

    async def _take_up(self, member: Member, partitions: tuple[int, ...], generation: int) -> None:
        await asyncio.sleep(self._kafka.links.delay("kafka", member.process.name))
        async with member.lock:
            if generation != self._generation or member.gone or member not in self._members:
                return  # dealt again meanwhile
            member.partitions = partitions
            member.take_over(partitions)
            await member.on_assigned(partitions)
            member.reading = True
