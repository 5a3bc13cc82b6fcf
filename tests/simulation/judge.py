"""What must be so at rest: everything healed, all calls answered, every subscriber at its channel's head."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from holdfast.log.facts import generation_of
from holdfast.log.port import NEW
from services.dispatch.rebuild import fact_of
from services.dispatch.saver import LATE
from tests.simulation.disturb import DEATH_LIMIT
from tests.simulation.people import GROUP

if TYPE_CHECKING:
    from holdfast.records import StateRecord
    from tests.simulation.world import World

GROUP_CHANNEL: Final = f"group:{GROUP}"

QUIET_LIMIT: Final = 60.0
"""Simulated seconds after everything was healed by which all must have come to rest."""


class Judge:
    """Waits for rest, and judges."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def quiet(self) -> None:
        # Who is refused for a backlog is told to wait for up to 15 s, and may be refused again.
        limit = QUIET_LIMIT * (2 if self.world.plan.backlog else 1)
        until = self.world.loop.now + limit
        why = "not looked"
        calm = 0
        while self.world.loop.now < until:
            await asyncio.sleep(0.5)
            why = self._unrest()
            calm = 0 if why else calm + 1
            if calm >= 4:
                return
        self.world.ledger.violated(4, f"not at rest {limit:.0f} s after all was healed: {why}")

    def _unrest(self) -> str:
        for node in self.world.nodes.values():
            if not node.serving:
                return f"{node.name} is not serving"
            if problems := node.service.problems():
                return f"{node.name}: {problems}"
        if self.world.caller.open:
            return "the API has not answered all calls"
        for person in self.world.people:
            if person.open:
                return f"{person.name}: {person.open} sends without an answer"
            if not person.session:
                return f"{person.name}: not connected"
        for use in self.world.uses:
            if why := use.unrest():
                return why
        return self._behind() or self._presence()

    def _behind(self) -> str:
        for number in range(self.world.plan.partitions):
            log = self.world.kafka.broker.partition("outbound", number)
            shard = self.world.redis.store.shards.get(number)
            done = shard.watermark.offset if shard is not None else -1
            if log.end - 1 != done:
                return f"shard {number} is at {done}, the log at {log.end - 1}"
            group = self.world.kafka.group(self.world.settings.kafka.group, "inbound")
            handled = group.committed.get(number, 0)
            if handled != self.world.kafka.broker.partition("inbound", number).end:
                return f"inbound {number} is handled up to {handled}"
        for person in self.world.people:
            for room in self.world.rooms:
                if room not in person.memory.places:
                    return f"{person.name} is not in {room}"
            for channel, (_, seq) in person.memory.places.items():
                if seq != (head := self.head(channel)):
                    return f"{person.name} is at {seq} of {channel}, whose head is {head}"
        return ""

    def _held_up(self) -> int:
        """Return how often nodes that live have refused something because of a backlog."""
        return sum(
            int(metrics.bus_backlog_refused.labels(topic)._value.get())
            for node in self.world.nodes.values()
            if (metrics := node.metrics) is not None
            for topic in ("inbound", "outbound")
        )

    def head(self, channel: str) -> int:
        """Return the head of a channel, as the store has it."""
        for shard in self.world.redis.store.shards.values():
            if channel in shard.headers:
                return shard.headers[channel].next - 1
        return 0

    async def judge(self) -> None:
        self.world.ledger.settle()
        self.world.loop.look_at_tasks()
        self.world.ledger.counts["held up"] += self._held_up()
        for person in self.world.people:
            person.check()
            if person.user in self.world.members and GROUP_CHANNEL not in person.memory.places:
                self.world.ledger.violated(5, f"{person.name} is a member, and not in the group's channel")
        for person, memory, session, head in self.world.joined:
            if person.session == session and person.memory is memory:
                self.world.ledger.saw_all(memory, GROUP_CHANNEL, head)
        for use in self.world.uses:
            await use.judge()
        await self._state()
        await asyncio.sleep(DEATH_LIMIT + 1.0)  # who died last is not online any more
        there = sorted(self.world.sessions())
        found = []
        for user in sorted({person.user for person in self.world.people}):
            answer = await self.world.caller.until_answered("GET", f"/v1/users/{user}/presence", None)
            found += [session["session"] for session in answer["sessions"]]
        if not self.world.ledger.violations and sorted(found) != there:
            self.world.ledger.violated(6, f"online by the API: {sorted(found)}, connected: {there}")

    async def _state(self) -> None:
        """Check that the state topic keeps the newest of each membership: compaction leaves the last one."""
        if any(map(self._stale, range(self.world.plan.partitions))):
            await asyncio.sleep(LATE + 3.0)
            for number in range(self.world.plan.partitions):
                for text in self._stale(number):
                    self.world.ledger.violated(9, text)

    def _stale(self, number: int) -> list[str]:
        """Tell of what an older record came last, though who wrote the newest serves the partition still."""
        world = self.world
        began = world.clock.now_ms() - 1000 * (world.loop.now - world.redis.begun.get(number, 0.0))
        last: dict[tuple[str, str], StateRecord] = {}
        newest: dict[tuple[str, str], tuple[int, int]] = {}
        for record in world.kafka.broker.partition("state", number).records:
            fact = fact_of(record)
            if fact is not None and fact.kind in ("member", "group", "revoke"):
                key = fact.key, generation_of(fact.epoch)
                last[key] = fact
                newest[key] = max(newest.get(key, (NEW, 0)), (fact.version, record.ts))
        return [
            f"the state topic keeps {fact}, not version {newest[key][0]}"
            for key, fact in last.items()
            if fact.version < newest[key][0] and newest[key][1] >= began
        ]

    def _presence(self) -> str:
        """Compare who is online by the store, on nodes that live, with who is connected."""
        held = {
            session.session
            for shard in self.world.redis.store.shards.values()
            for user in sorted({person.user for person in self.world.people})
            for session in shard.nodes.sessions(user)
            if any(
                node.role == "access" and node.incarnation == session.node
                for node in self.world.nodes.values()
            )
        }
        there = set(self.world.sessions())
        return "" if held == there else f"online by the store: {sorted(held)}, connected: {sorted(there)}"
