"""Carries out the faults of a plan, and puts everything right again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

DEATH_LIMIT: Final = 6.0 + 0.3
"""Seconds after which nobody counts a dead node's sessions as online; and what the network adds."""

STOP_LIMIT: Final = 12.0
"""Seconds that a supervisor gives a process to end."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.loop import Process
    from tests.simulation.plan import Fault
    from tests.simulation.world import World


class Disturber:
    """Begins faults and ends them after their time; `heal` ends all that still last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lasting: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._stopping: list[Any] = []
        self._anew_at = -1.0

    def begin(self, fault: Fault) -> None:
        """Let a fault begin."""
        # Only a node's death leaves those alone who watch for deaths; another logic worker watches anew.
        if not fault.what.startswith(("crash", "client", "kafka", "consul")) or "logic" in str(fault.names):
            world = self._world
            world.blind = max(world.blind, world.loop.now + fault.seconds + DEATH_LIMIT + STOP_LIMIT)
        getattr(self, f"_{fault.what}")(fault)

    async def heal(self) -> None:
        """End what lasts, and bring back who is down."""
        world = self._world
        world.ambushes.clear()
        for end in tuple(self._lasting.values()):
            end()
        for task in self._stopping:
            await task
        for node in world.nodes.values():
            if not node.up:
                world.start(node)

    def _last(self, fault: Fault, end: Callable[[], None]) -> None:
        self._count += 1
        number = self._count

        def over() -> None:
            if self._lasting.pop(number, None) is not None:
                self._world.ledger.note(f"OVER {fault.what} {' '.join(fault.names)}")
                end()

        self._lasting[number] = over
        self._world.loop.call_later(fault.seconds, over)

    # nodes

    def _crash(self, fault: Fault) -> None:
        self._die(fault, silent=False)

    def _crash_silent(self, fault: Fault) -> None:
        self._die(fault, silent=True)

    def _die(self, fault: Fault, *, silent: bool) -> None:
        world = self._world
        node = world.nodes[fault.names[0]]
        if not node.up:
            return
        node.serving = False
        world.kill(node, silent=silent)
        self._last(fault, lambda: None if node.up else world.start(node))

    def _stop(self, fault: Fault) -> None:
        world = self._world
        node = world.nodes[fault.names[0]]

        async def stop_and_start() -> None:
            await world.stop(node)
            if not node.up:
                world.start(node)

        self._stopping.append(world.loop.spawn(world.loop.world, stop_and_start()))

    def _pause(self, fault: Fault) -> None:
        node = self._world.nodes[fault.names[0]]
        if node.process is not None and not node.process.paused:
            self._hold(fault, node.process)

    def _hold(self, fault: Fault, process: Process) -> None:
        loop = self._world.loop
        loop.pause(process)

        def resume() -> None:
            loop.resume(process)
            for person in self._world.people:
                if person.process is process:
                    person.held_until = loop.now

        self._last(fault, resume)

    def _slow(self, fault: Fault) -> None:
        slow, name = self._world.links.slow, fault.names[0]
        slow[name] = fault.share * 0.3

        def fast() -> None:
            slow.pop(name, None)

        self._last(fault, fast)

    def _cut(self, fault: Fault) -> None:
        links, pairs = self._world.links, [frozenset(fault.names)]
        links.sever(pairs)
        self._last(fault, lambda: links.mend(pairs))

    def _reset(self, fault: Fault) -> None:
        self._world.net.break_some(fault.names[0], fault.share)

    # what happens as the next session begins

    def _ambush_crash(self, fault: Fault) -> None:
        self._world.ambushes.append(lambda node: self._in_a_moment(fault, self._crash, node))

    def _ambush_kafka(self, fault: Fault) -> None:
        self._world.ambushes.append(lambda node: self._in_a_moment(fault, self._refuse_batches, node))

    def _in_a_moment(self, fault: Fault, call: Callable[[Fault], None], node: str) -> None:
        world = self._world
        moment = fault.share * 8.0 * world.plan.latency
        hit = msgspec.structs.replace(fault, names=(node,), share=0.8)
        world.ledger.note(f"AMBUSH {hit}")
        world.loop.call_later(moment, call, hit, context=world.loop.world.context)

    def _refuse_batches(self, fault: Fault) -> None:
        self._rate(fault, self._world.kafka, "lose_batch")

    # Kafka

    def _kafka_down(self, fault: Fault) -> None:
        kafka = self._world.kafka
        kafka.set_down(True)
        self._last(fault, lambda: kafka.set_down(False))

    def _kafka_lose(self, fault: Fault) -> None:
        self._rate(fault, self._world.kafka, "lose_batch")

    def _kafka_unanswered(self, fault: Fault) -> None:
        self._rate(fault, self._world.kafka, "lose_answer")

    def _kafka_late(self, fault: Fault) -> None:
        self._rate(fault, self._world.kafka, "hold_batch")

    def _rebalance(self, fault: Fault) -> None:
        world = self._world
        world.kafka.group(world.settings.kafka.group, "inbound").rebalance()

    def _rate(self, fault: Fault, target: Any, name: str) -> None:
        setattr(target, name, fault.share)
        self._last(fault, lambda: setattr(target, name, 0.0))

    def _recreate(self, fault: Fault) -> None:
        world = self._world
        number = min(int(fault.share * world.plan.partitions), world.plan.partitions - 1)
        self._stopping.append(world.loop.spawn(world.loop.world, self._make_anew(number)))

    async def _make_anew(self, number: int) -> None:
        """Delete what a partition of outbound holds, when the shard has taken all of it in."""
        world = self._world
        log = world.kafka.broker.partition("outbound", number)
        for _ in range(200):
            await asyncio.sleep(0.02)
            shard = world.redis.store.shards.get(number)
            if (
                shard is not None
                and log.end
                and not shard.rebuilding
                and shard.watermark.offset == log.end - 1
            ):
                world.ledger.note(f"ANEW outbound {number}")
                world.ledger.may_reset = world.ledger.anew = True
                self._anew_at = world.loop.now
                log.records.clear()
                log.start = log.end = 0
                world.kafka.wake()
                return

    # Redis

    def _redis_down(self, fault: Fault) -> None:
        redis = self._world.redis
        redis.down = True

        def up() -> None:
            redis.down = False

        self._last(fault, up)

    def _redis_stall(self, fault: Fault) -> None:
        redis = self._world.redis
        if redis._stalled is None:
            redis.stall()
            self._last(fault, redis.resume)

    def _redis_lossy(self, fault: Fault) -> None:
        self._rate(fault, self._world.redis, "lost_requests")

    def _redis_unanswered(self, fault: Fault) -> None:
        self._rate(fault, self._world.redis, "lost_replies")

    def _suffix(self, fault: Fault) -> None:
        redis = self._world.redis
        before, since = redis.snapshot(), self._world.loop.now
        self._last(fault, lambda: self._fall_back(since, lambda: redis.restore(before)))

    def _suffix_shard(self, fault: Fault) -> None:
        redis = self._world.redis
        shard = int(fault.share * redis.store.partitions)
        before, since = redis.store.snapshot(shard), self._world.loop.now
        self._last(fault, lambda: self._fall_back(since, lambda: redis.store.restore(shard, before)))

    def _lose(self, restore: Callable[[], None]) -> None:
        self._world.losses.append(self._world.loop.now)
        restore()

    def _fall_back(self, since: float, restore: Callable[[], None]) -> None:
        # Both at once, a log made anew and a store that falls back to before it, is more than is promised.
        if self._anew_at < since:
            self._lose(restore)

    def _flush(self, fault: Fault) -> None:
        world = self._world
        world.ledger.may_reset = True
        self._lose(world.redis.store.flush)

    def _surprise(self, fault: Fault) -> None:
        world = self._world
        node = world.nodes[fault.names[0]]
        if node.process is not None and node.serving:
            surprises, process = world.redis.surprises, node.process
            surprises[process] = fault.share * 0.5

            def over() -> None:
                surprises.pop(process, None)

            self._last(fault, over)

    # Consul and clients

    def _consul_down(self, fault: Fault) -> None:
        consul = self._world.consul
        consul.down = True

        def up() -> None:
            consul.down = False

        self._last(fault, up)

    def _person(self, fault: Fault) -> Any:
        return next(person for person in self._world.people if person.name == fault.names[0])

    def _client_restart(self, fault: Fault) -> None:
        person = self._person(fault)
        self._world.loop.spawn(person.process, person.restart(forget=False))

    def _client_forget(self, fault: Fault) -> None:
        person = self._person(fault)
        self._world.loop.spawn(person.process, person.restart(forget=True))

    def _client_slow(self, fault: Fault) -> None:
        person = self._person(fault)
        person.slow = fault.share

        def fast() -> None:
            person.slow, person.held_until = 0.0, self._world.loop.now

        self._last(fault, fast)

    def _client_pause(self, fault: Fault) -> None:
        self._hold(fault, self._person(fault).process)
