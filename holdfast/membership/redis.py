"""Membership in Redis: one hash of nodes, each with a count of beats that its process moves.

A node is there while observers see its count move: no clock of one machine is compared with another's, and
an outage of Redis, in which nobody reads anything, makes nobody disappear. A node that finds its own entry
gone, or older than it wrote it, knows that Redis has lost writes, and that whoever is missing may be alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.exceptions import RedisError

from holdfast import tls
from holdfast.clock import within
from holdfast.errors import Retry, Stop
from holdfast.failures import forever
from holdfast.log.redis_place import parse
from holdfast.membership.port import Node  # noqa: TC001 - msgspec reads the annotation
from holdfast.membership.watchers import Known
from holdfast.tasks import cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.clock import Clock
    from holdfast.membership.port import Role
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Membership
    from holdfast.settings import Redis as RedisSettings

BEATS: Final = 5
"""Beats, and looks at the others, within a ttl."""

FORGET: Final = 20
"""Times the ttl after which the entry of a node that died is removed by whoever still reads it."""


class _Entry(msgspec.Struct, array_like=True):
    beat: int
    node: Node


class _Seen:
    """One entry as this observer saw it move; `still` is in seconds of successful reads."""

    __slots__ = ("beat", "missing", "node", "still")

    def __init__(self, entry: _Entry) -> None:
        self.node = entry.node
        self.beat = entry.beat
        self.still = 0.0
        self.missing = False


class _Secure(SSLConnection):
    """By the context that is the newest: redis-py's own keeps the files that it read first."""

    def __init__(self, *, trust: tls.Trust, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._trust = trust

    def _connection_arguments(self) -> Any:
        return {**super()._connection_arguments(), "ssl": self._trust.context}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Entry).decode
_log = logging.getLogger(__name__)


class RedisDirectory:
    """See `holdfast.membership.port.Directory`."""

    def __init__(self, redis: RedisSettings, membership: Membership, metrics: Metrics, clock: Clock) -> None:
        self._redis_settings = redis
        self._key = f"{redis.prefix}:nodes"
        self._ttl = membership.ttl
        self._clock = clock
        self._metrics = metrics
        self._known = Known(metrics)
        self._redis: Any = None
        self._node: Node | None = None
        self._beat = 0
        self._stored = 0  # the last beat that Redis has confirmed
        self._seen: dict[str, _Seen] = {}
        self._read_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `Directory`."""
        if self._redis is None:
            self._redis = self._client()
        await self._look()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                forever("membership", self._turn, self._clock, self._metrics)
            )

    async def close(self) -> None:
        """See `Directory`."""
        if self._task is not None:
            await cancelled([self._task])
            self._task = None
        if self._redis is not None:
            await self.leave()
            await self._redis.aclose()
            self._redis = None

    async def join(self, node: Node) -> None:
        """See `Directory`. While Redis is away this node is registered later."""
        if self._node is not None and self._node.incarnation != node.incarnation:
            await self.leave()
        self._node = node
        try:
            await self._look()
        except Retry as error:
            _log.warning("not registered yet: %s", error)

    async def leave(self) -> None:
        """See `Directory`. While Redis is away others see it after the ttl."""
        node, self._node = self._node, None
        self._stored = 0
        if node is None or self._redis is None:
            return
        with contextlib.suppress(Retry):
            await self._call("leave", self._redis.hdel(self._key, node.incarnation))
            await self._look()

    def nodes(self, role: Role) -> Sequence[Node]:
        """See `Directory`."""
        return self._known.of_role(role)

    def watch(self, call: Callable[[], object]) -> Callable[[], None]:
        """See `Directory`."""
        return self._known.watchers.add(call)

    async def healthy(self) -> bool:
        """See `Directory`."""
        if self._redis is None:
            return False
        try:
            await within(self._clock, 1.0, self._redis.ping())
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def _turn(self) -> None:
        await self._clock.sleep(self._ttl / BEATS)
        try:
            await self._look()
        except Retry as error:
            _log.warning("membership is not read: %s", error)

    async def _look(self) -> None:
        """Beat, and read everybody, in one round trip. Raises Retry."""
        own, beat = self._node, self._beat + 1
        pipeline = self._redis.pipeline()
        if own is not None:
            self._beat = beat
            pipeline.hget(self._key, own.incarnation)
            pipeline.hset(self._key, own.incarnation, _encode(_Entry(beat, own)))
        pipeline.hgetall(self._key)
        try:
            answers = await self._call("look", pipeline.execute())
        except Retry:
            # What passes until the next successful read is nobody's silence.
            self._read_at = None
            raise
        entries = _decoded(answers[-1])
        if own is None:
            forgot = len(self._seen) > 1 and not self._seen.keys() & entries.keys()
        else:
            before = _decoded({own.incarnation.encode(): answers[0]} if answers[0] else {})
            forgot = self._stored > max((entry.beat for entry in before.values()), default=0)
            if own is self._node:
                self._stored = beat
        await self._observe(entries, own, forgot)

    async def _observe(self, found: dict[str, _Entry], own: Node | None, forgot: bool) -> None:
        """Take what was read. `forgot`: Redis has lost writes, so who is missing need not have left.

        Whoever is alive writes itself again, so those are given a ttl. After an outage everybody is: they may
        need longer than we did to find Redis again.
        """
        now = self._clock.monotonic()
        again = self._read_at is None
        passed = 0.0 if self._read_at is None else now - self._read_at
        self._read_at = now
        forgot = forgot or any(
            name in self._seen and entry.beat < self._seen[name].beat for name, entry in found.items()
        )
        for name, entry in found.items():
            seen = self._seen.get(name)
            if seen is None:
                self._seen[name] = _Seen(entry)
            elif seen.missing or entry.beat != seen.beat:
                seen.node, seen.beat, seen.still, seen.missing = entry.node, entry.beat, 0.0, False
            elif again and seen.still < self._ttl:
                seen.still = 0.0
            else:
                seen.still += passed
        for name in self._seen.keys() - found.keys():
            seen = self._seen[name]
            if forgot:
                seen.missing, seen.still = True, 0.0
            elif seen.missing and seen.still + passed < self._ttl:
                seen.still += passed
            else:
                del self._seen[name]
        self._known.set(
            {
                name: seen.node
                for name, seen in self._seen.items()
                if seen.still < self._ttl or (own is not None and name == own.incarnation)
            }
        )
        dead = [name for name, seen in self._seen.items() if seen.still >= FORGET * self._ttl]
        if dead:
            await self._call("forget", self._redis.hdel(self._key, *dead))

    def _client(self) -> Any:
        settings = self._redis_settings
        place = parse(settings.url)
        if place.master or place.cluster:
            raise Stop('redis.url: with membership.kind = "redis" it must name one server')
        ((host, port),) = place.hosts
        secure: dict[str, Any] = {}
        if place.tls:
            secure = {"connection_class": _Secure, "trust": tls.calling("redis", settings)}
        pool: Any = ConnectionPool(
            host=host,
            port=port,
            username=place.user or None,
            password=place.password or None,
            db=place.db,
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            protocol=3,
            **secure,
        )
        return Redis.from_pool(pool)

    async def _call(self, what: str, call: Any) -> Any:
        try:
            with self._known.timed(what):
                return await call
        except (RedisError, OSError, TimeoutError) as error:
            raise Retry(f"Redis: {error}") from error


def _decoded(entries: dict[bytes, bytes]) -> dict[str, _Entry]:
    """Return what can be read of the hash, by incarnation."""
    found: dict[str, _Entry] = {}
    for raw, value in entries.items():
        try:
            found[raw.decode()] = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.warning("an entry of the membership cannot be read: %r", raw[:80])
    return found
