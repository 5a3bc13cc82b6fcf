"""The log in Redis: one script call per batch, update, beat or read. `docs/redis.md` shows the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.channel import hash_tags
from holdfast.clock import SystemClock, within
from holdfast.errors import HoldfastError, Stop
from holdfast.log import redis_apply, redis_load
from holdfast.log.keys import Keys
from holdfast.log.packing import unpack
from holdfast.log.port import (
    FORMAT,
    NEW,
    REPLACED,
    WINDOW_MS,
    BeatAnswer,
    Kick,
    Membership,
    Rebuilding,
    SessionInfo,
    ShardState,
    Swept,
    View,
    Watermark,
)
from holdfast.log.redis_scripts import Caller, Script
from holdfast.network import TcpNetwork
from holdfast.observe.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.clock import Clock
    from holdfast.log.port import Applied, Batch, Change, NodeUpdate, Query
    from holdfast.network import Network
    from holdfast.policy import Policy
    from holdfast.records import StateRecord
    from holdfast.settings import Redis

OLDEST: Final = (6, 2)
"""The oldest Redis that is accepted."""

_META: Final = (
    "owner",
    "moved",
    "offset",
    "ts",
    "checksum",
    "saved",
    "generation",
    "until",
    "partitions",
    "damaged",
)

FORGET: Final = 200
"""Channels whose logs are forgotten in one call."""

_encode = msgspec.msgpack.Encoder().encode
_info = msgspec.msgpack.Decoder(SessionInfo).decode


class RedisLog:
    """See `holdfast.log.port.Log`. A handle for one process; its two links carry all calls."""

    def __init__(
        self,
        settings: Redis,
        partitions: int,
        policies: Mapping[str, Policy],
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        *,
        network: Network | None = None,
    ) -> None:
        self.partitions = partitions
        self._policies = policies
        self._clock = clock or SystemClock()
        self._caller = Caller(settings, metrics or Metrics(), self._clock, network or TcpNetwork())
        self._keys = [Keys(settings.prefix, tag) for tag in hash_tags(partitions)]
        self._scripts = {
            name: Script(name)
            for name in (
                "apply",
                "ask",
                "beat",
                "beats",
                "begin",
                "changed",
                "claim",
                "forget",
                "kick",
                "load",
                "members",
                "read",
                "release",
                "sessions",
                "sweep",
                "update",
            )
        }

    async def _run(self, shard: int, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await self._caller.run(shard, self._scripts[name], keys, args)

    async def _settled(self, shard: int, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        reply = await self._run(shard, name, keys, args)
        if reply is None:
            raise Rebuilding("the shard is being rebuilt")
        return reply

    async def start(self) -> None:
        """See `Log`."""
        for shard in await self._caller.find(self.partitions):
            await self._check(shard)

    async def _check(self, shard: int) -> None:
        """Refuse a server that breaks a promise."""
        info: dict[str, str] = {}
        for section in ("server", "memory"):
            text: bytes = await self._caller.command(shard, "info", ("INFO", section))
            for line in text.decode().splitlines():
                name, _, value = line.partition(":")
                info[name] = value
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        if version < OLDEST:
            raise Stop(f"redis.url: Redis {info['redis_version']} is too old, 6.2 is needed")
        policy = info["maxmemory_policy"]
        if policy != "noeviction":
            raise Stop(
                f"redis.url: this Redis evicts keys (maxmemory-policy {policy}), which loses messages: "
                "set maxmemory-policy noeviction"
            )

    async def close(self) -> None:
        """See `Log`."""
        await self._caller.close()

    async def healthy(self) -> bool:
        """See `Log`."""
        try:
            return bool(await within(self._clock, 1.0, self._caller.command(0, "ping", ("PING",))) == b"PONG")
        except (HoldfastError, TimeoutError):
            return False

    # dispatch

    async def state(self, shard: int) -> ShardState:
        """See `Log`."""
        command = ("HMGET", self._keys[shard].meta, *_META)
        return _state(await self._caller.command(shard, "state", command))

    async def claim(self, shard: int, owner: str, *, expected: ShardState, generation: str) -> ShardState:
        """See `Log`."""
        args = (owner, expected.owner, expected.moved, generation, self.partitions, FORMAT)
        reply = await self._run(shard, "claim", (self._keys[shard].meta,), args)
        if len(reply) == 2:
            stored = reply[1].decode()
            if reply[0] == b"partitions":
                raise Stop(f"kafka.partitions is {self.partitions}, but the store was made with {stored}")
            raise Stop(f"the store has format {stored}, this program reads {FORMAT}")
        return _state(reply)

    async def load(self, shard: int, owner: str, facts: Sequence[StateRecord]) -> bool:
        """See `Log`."""
        keys, args = redis_load.arguments(owner, facts, self._keys[shard])
        return bool(await self._run(shard, "load", keys, args))

    async def begin(
        self, shard: int, owner: str, *, generation: str, until: int, wipe: bool = False
    ) -> ShardState:
        """See `Log`."""
        keys = self._keys[shard]
        while wipe:
            # A shard has more lists than one call may remove.
            names = await self._caller.command(shard, "forget", ("ZRANGE", keys.changed, 0, FORGET - 1))
            lists = [keys.list(name.decode()) for name in names]
            fixed = (keys.meta, keys.changed, keys.headers)
            if not names or not await self._run(shard, "forget", (*fixed, *lists), (owner, *names)):
                break
        args = (owner, generation, until, "1" if wipe else "")
        return _state(await self._run(shard, "begin", keys.for_begin, args))

    async def release(self, shard: int, owner: str) -> None:
        """See `Log`."""
        await self._run(shard, "release", (self._keys[shard].meta,), (owner,))

    async def apply(self, shard: int, batch: Batch) -> Applied:
        """See `Log`."""
        keys, args, of_record = redis_apply.arguments(batch, self._keys[shard], self._policies)
        return redis_apply.answer(await self._run(shard, "apply", keys, args), batch, of_record)

    async def sweep(
        self, shard: int, owner: str, incarnation: str, done: Sequence[tuple[str, str]], limit: int
    ) -> Swept | None:
        """See `Log`."""
        packed = _encode((owner, incarnation, limit, done))
        reply = await self._run(shard, "sweep", self._keys[shard].for_sweep(incarnation), (packed,))
        if reply is None:
            return None
        over, told, members = reply
        found = ((user.decode(), _info(info)) for user, _, info in (one.split(b"\0", 2) for one in members))
        return Swept(sorted(found, key=lambda one: (one[0], one[1].session)), int(told), bool(over))

    async def tombstones(self, shard: int) -> dict[str, int]:
        """See `Log`."""
        return _numbers(await self._caller.command(shard, "tombstones", ("HGETALL", self._keys[shard].dead)))

    # access

    async def update(self, shard: int, update: NodeUpdate) -> int:
        """See `Log`."""
        keys, node = self._keys[shard], update.incarnation
        changes = [_change(change) for change in update.changes]
        packed = _encode((node, update.number, update.whole, changes, REPLACED))
        return int(await self._run(shard, "update", keys.for_update(node), (packed,)))

    async def beat(self, shard: int, incarnation: str, *, told: int = 0, load: int = -1) -> BeatAnswer:
        """See `Log`."""
        reply = await self._run(shard, "beat", self._keys[shard].for_beat, (incarnation, told, load))
        number, meta, kicks, asks, fenced, loads = reply
        return BeatAnswer(
            number=int(number or 0),
            watermark=_watermark(meta),
            generation=(meta[3] or b"").decode(),
            kicks=[_kick(member) for member in kicks],
            asks=asks.decode().split("\n") if asks else (),
            rebuilding=bool(meta[5]) or not meta[3] or _watermark(meta).offset < int(meta[4] or NEW),
            fenced=bool(fenced),
            loads=_numbers(loads),
        )

    async def read(self, shard: int, queries: Sequence[Query]) -> Sequence[View]:
        """See `Log`."""
        keys = self._keys[shard]
        names = [keys.meta, keys.headers, keys.revoked]

        def number(name: str) -> int:
            names.append(name)
            return len(names)

        rows = [
            (
                query.channel,
                number(keys.list(query.channel)),
                False if query.after is None else query.after,
                False if query.before is None else query.before,
                query.limit,
                query.newest,
                query.epoch,
                number(keys.cursors(query.channel)) if query.device else 0,
                query.device,
                number(keys.members(query.channel)) if query.member else 0,
                query.member,
                number(keys.groups(query.channel)) if query.user else 0,
            )
            for query in queries
        ]
        generation, position, views = await self._settled(shard, "read", names, (_encode((WINDOW_MS, rows)),))
        at = generation.decode(), position
        return [_view(query, view, at) for query, view in zip(queries, views, strict=True)]

    async def changed(
        self, shard: int, since: int, limit: int
    ) -> tuple[Watermark, Sequence[tuple[str, int]]]:
        """See `Log`."""
        keys = self._keys[shard]
        meta, flat = await self._settled(shard, "changed", (keys.meta, keys.changed), (since, limit))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return _watermark(meta), [(channel.decode(), int(offset)) for channel, offset in pairs]

    # logic

    async def beats(self, shard: int) -> dict[str, int]:
        """See `Log`."""
        return _numbers(await self._run(shard, "beats", (self._keys[shard].beats,), ()))

    async def loads(self, shard: int) -> dict[str, int]:
        """See `Log`."""
        return _numbers(await self._caller.command(shard, "loads", ("HGETALL", self._keys[shard].loads)))

    async def sessions(self, shard: int, users: Sequence[str]) -> Sequence[Sequence[SessionInfo]]:
        """See `Log`."""
        reply = await self._run(shard, "sessions", (self._keys[shard].sessions,), users)
        return [[_info(member.split(b"\0", 2)[2]) for member in members] for members in reply]

    async def kick(self, shard: int, user: str, sessions: Sequence[str], code: str, reason: str) -> int:
        """See `Log`."""
        keys = self._keys[shard]
        return int(
            await self._run(shard, "kick", (keys.sessions, keys.kicks), (user, code, reason, *sessions))
        )

    async def ask(self, shard: int, incarnation: str, what: str) -> None:
        """See `Log`."""
        await self._run(shard, "ask", (self._keys[shard].asks,), (incarnation, what))

    async def members(self, shard: int, group: str) -> Sequence[Membership]:
        """See `Log`."""
        keys = self._keys[shard]
        flat = await self._settled(shard, "members", (keys.meta, keys.members(group)), ())
        return _memberships(flat)


def _state(meta: Sequence[bytes | None]) -> ShardState:
    owner, moved, *watermark, saved, generation, until, partitions, damaged = meta
    position = _watermark(watermark)
    rebuilding = int(NEW if until is None else until)
    return ShardState(
        owner=(owner or b"").decode(),
        moved=int(moved or 0),
        watermark=position,
        saved=int(NEW if saved is None else saved),
        generation=(generation or b"").decode(),
        until=rebuilding if position.offset < rebuilding else NEW,
        partitions=int(partitions or 0),
        damaged=bool(damaged),
    )


def _watermark(meta: Sequence[bytes | None]) -> Watermark:
    offset, ts, checksum = meta[:3]
    return Watermark(int(NEW if offset is None else offset), int(ts or 0), int(checksum or 0))


def _numbers(flat: Sequence[bytes]) -> dict[str, int]:
    return {name.decode(): int(number) for name, number in zip(flat[::2], flat[1::2], strict=True)}


def _change(change: Change) -> tuple[Any, ...]:
    if change.op == "+s":
        return change.op, change.name, change.info
    return (change.op, change.name, change.session) if change.op == "-s" else (change.op, change.name)


def _kick(member: bytes) -> Kick:
    _, session, user, code, reason = member.decode().split("\0", 4)
    return Kick(user, session, code, reason)


def _fact(name: str, fact: bytes) -> Membership:
    version, seq, epoch = fact.decode().split(" ", 2)
    return Membership(name, int(version), epoch, int(seq))


def _memberships(flat: Sequence[bytes]) -> list[Membership]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return sorted((_fact(name.decode(), fact) for name, fact in pairs), key=lambda held: held.name)


def _view(query: Query, view: Sequence[Any], at: tuple[str, int]) -> View:
    epoch, head, first, low, entries, cursor, member, groups, revoked = view
    place = _fact("", cursor) if cursor else None
    return View(
        epoch=epoch.decode(),
        head=head,
        first=first,
        entries=tuple(enumerate(map(unpack, entries), low)),
        cursor=(place.epoch, place.seq) if place else None,
        membership=_fact(query.member, member) if member else None,
        groups=_memberships(groups),
        revoked=int(revoked),
        generation=at[0],
        position=at[1],
    )
