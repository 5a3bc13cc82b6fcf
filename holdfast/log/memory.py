"""The log in memory: what the embedded cluster, the test kit and the simulation run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.clock import SystemClock
from holdfast.log.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.clock import Clock
    from holdfast.log.port import (
        Applied,
        Batch,
        BeatAnswer,
        Membership,
        NodeUpdate,
        Query,
        SessionInfo,
        ShardState,
        Swept,
        View,
        Watermark,
    )
    from holdfast.policy import Policy
    from holdfast.records import StateRecord


class MemoryStore:
    """What several `MemoryLog`s share, as processes share a Redis."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.shards: dict[int, Shard] = {}

    def flush(self) -> None:
        """Forget everything."""
        self.shards.clear()

    def snapshot(self, shard: int) -> Shard | None:
        """Return a copy of a shard (None: it is empty), for `restore`."""
        held = self.shards.get(shard)
        return None if held is None else held.copy()

    def restore(self, shard: int, snapshot: Shard | None) -> None:
        """Put a shard back to what it was: the writes since then are lost."""
        if snapshot is None:
            self.shards.pop(shard, None)
        else:
            self.shards[shard] = snapshot.copy()

    def damage(self, shard: int) -> None:
        """Leave a shard as an apply does that failed while it wrote."""
        held = self.shards.get(shard)
        if held is not None:
            held.damaged = True
            for channel in sorted(held.headers)[::2]:
                del held.headers[channel]
                held.bodies.pop(channel, None)
                held.last_offsets.pop(channel, None)


class MemoryLog:
    """One handle on a `MemoryStore`. Each call is done at once; none fails."""

    def __init__(
        self, store: MemoryStore, policies: Mapping[str, Policy], clock: Clock | None = None
    ) -> None:
        self.partitions = store.partitions
        self._store = store
        self._policies = policies
        self._clock = clock or SystemClock()

    def _shard(self, number: int) -> Shard:
        if not 0 <= number < self.partitions:
            raise ValueError(f"shard {number} of {self.partitions}")
        shard = self._store.shards.get(number)
        if shard is None:
            shard = self._store.shards[number] = Shard(self._policies)
        return shard

    async def start(self) -> None:
        """See `Log`."""

    async def close(self) -> None:
        """See `Log`."""

    async def healthy(self) -> bool:
        """See `Log`."""
        return True

    async def state(self, shard: int) -> ShardState:
        """See `Log`."""
        return self._shard(shard).state()

    async def claim(self, shard: int, owner: str, *, expected: ShardState, generation: str) -> ShardState:
        """See `Log`."""
        return self._shard(shard).claim(owner, expected, generation, self.partitions)

    async def load(self, shard: int, owner: str, facts: Sequence[StateRecord]) -> bool:
        """See `Log`."""
        return self._shard(shard).load(owner, facts)

    async def begin(
        self, shard: int, owner: str, *, generation: str, until: int, wipe: bool = False
    ) -> ShardState:
        """See `Log`."""
        return self._shard(shard).begin(owner, generation, until, wipe=wipe)

    async def release(self, shard: int, owner: str) -> None:
        """See `Log`."""
        self._shard(shard).release(owner)

    async def apply(self, shard: int, batch: Batch) -> Applied:
        """See `Log`."""
        return self._shard(shard).apply(batch, self._clock.now_ms())

    async def update(self, shard: int, update: NodeUpdate) -> int:
        """See `Log`."""
        return self._shard(shard).nodes.update(update)

    async def sweep(
        self, shard: int, owner: str, incarnation: str, done: Sequence[tuple[str, str]], limit: int
    ) -> Swept | None:
        """See `Log`."""
        return self._shard(shard).sweep(owner, incarnation, done, limit)

    async def tombstones(self, shard: int) -> dict[str, int]:
        """See `Log`."""
        return dict(self._shard(shard).nodes.dead)

    async def beat(self, shard: int, incarnation: str, *, told: int = 0, load: int = -1) -> BeatAnswer:
        """See `Log`."""
        return self._shard(shard).beat(incarnation, told, load)

    async def read(self, shard: int, queries: Sequence[Query]) -> Sequence[View]:
        """See `Log`."""
        return self._shard(shard).read(queries, self._clock.now_ms())

    async def changed(
        self, shard: int, since: int, limit: int
    ) -> tuple[Watermark, Sequence[tuple[str, int]]]:
        """See `Log`."""
        return self._shard(shard).changed(since, limit)

    async def beats(self, shard: int) -> dict[str, int]:
        """See `Log`."""
        return dict(self._shard(shard).nodes.beats)

    async def loads(self, shard: int) -> dict[str, int]:
        """See `Log`."""
        return dict(self._shard(shard).nodes.loads)

    async def sessions(self, shard: int, users: Sequence[str]) -> Sequence[Sequence[SessionInfo]]:
        """See `Log`."""
        nodes = self._shard(shard).nodes
        return [nodes.sessions(user) for user in users]

    async def kick(self, shard: int, user: str, sessions: Sequence[str], code: str, reason: str) -> int:
        """See `Log`."""
        return self._shard(shard).nodes.kick(user, sessions, code, reason)

    async def ask(self, shard: int, incarnation: str, what: str) -> None:
        """See `Log`."""
        self._shard(shard).nodes.ask(incarnation, what)

    async def members(self, shard: int, group: str) -> Sequence[Membership]:
        """See `Log`."""
        held = self._shard(shard)
        held.settled()
        return held.facts.of_group(group)
