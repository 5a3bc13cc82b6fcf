"""Redis: each server's version, memory, persistence, replicas, room, speed and clock."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from holdfast.doctor.finding import Findings
from holdfast.errors import Retry
from holdfast.log.redis import OLDEST
from holdfast.log.redis_place import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from holdfast.clock import Clock
    from holdfast.doctor.finding import Finding
    from holdfast.log.redis_scripts import Caller
    from holdfast.settings import Redis

FULL: Final = 0.9
"""Share of a bound (memory, clients) from which on it is a matter for the doctor."""

SLOW: Final = 0.01
"""Seconds of a round trip from which on Redis is far away."""

ASKEW: Final = 0.5
"""Seconds by which clocks may differ: delivery times are measured by them, and are good to about this."""

ROUNDS: Final = 5


async def look(settings: Redis, caller: Caller, partitions: int, clock: Clock) -> Sequence[Finding]:
    """Look at every server of the store. Raises Stop for a URL that is none."""
    findings = Findings("Redis")
    place = parse(settings.url)
    hosts = ",".join(f"{host}:{port}" for host, port in place.hosts)
    try:
        shards = await caller.find(partitions)
        for shard in shards:
            await _look_at_server(findings, caller, shard, clock)
            if place.cluster:
                with _where_allowed(findings, "cluster", "cluster|info", "its state"):
                    await _look_at_cluster(findings, caller, shard)
    except Retry as error:
        findings.wrong("servers", f"{hosts}: {error}", "start Redis, or correct redis.url")
    return findings.all


async def _look_at_server(findings: Findings, caller: Caller, shard: int, clock: Clock) -> None:
    info = await _info(caller, shard)
    name = f"port {info.get('tcp_port', '?')}"
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        findings.wrong(name, f"version {version}", "take Redis 6.2 or newer")
    else:
        findings.good(name, f"version {version}, {info.get('role', '?')}")
    if info.get("role") == "slave":
        findings.wrong(
            name, "it is a replica, which takes no writes", "name the master in redis.url, or Sentinels"
        )
    if info.get("loading") == "1":
        findings.wrong(name, "it is loading its data", "wait; nothing is answered until it is done")
    _look_at_memory(findings, name, info)
    _look_at_persistence(findings, name, info)
    _look_at_replicas(findings, name, info)
    await _look_at_room(findings, name, info, caller, shard)
    with _where_allowed(findings, name, "time", "its clock and the round trip to it"):
        await _look_at_time(findings, name, caller, shard, clock)


@contextlib.contextmanager
def _where_allowed(findings: Findings, name: str, command: str, what: str) -> Iterator[None]:
    """Say what cannot be looked at where our user may not run the command that tells it."""
    try:
        yield
    except Retry as error:
        if "NOPERM" not in str(error):
            raise
        findings.advice(
            name,
            f"{what} cannot be looked at: our user may not run {command.replace('|', ' ').upper()}",
            f"where that is to be known: ACL SETUSER with +{command}; services do without",
        )


async def _info(caller: Caller, shard: int) -> Mapping[str, str]:
    info: dict[str, str] = {}
    for section in ("server", "memory", "persistence", "replication", "clients"):
        text: bytes = await caller.command(shard, "info", ("INFO", section))
        for line in text.decode().splitlines():
            name, _, value = line.partition(":")
            info[name] = value
    return info


async def _configured(caller: Caller, shard: int, option: str) -> str | None:
    """Return a setting of the server; None where it does not tell, as managed ones do not."""
    try:
        reply: Any = await caller.command(shard, "config", ("CONFIG", "GET", option))
        return reply[1].decode() if len(reply) == 2 else None
    except Retry:
        return None


def _look_at_memory(findings: Findings, name: str, info: Mapping[str, str]) -> None:
    policy, bound, used = (
        info.get("maxmemory_policy", "?"),
        int(info.get("maxmemory", 0)),
        int(info["used_memory"]),
    )
    if policy != "noeviction":
        findings.wrong(
            name,
            f"maxmemory-policy {policy}",
            "set maxmemory-policy noeviction: a key that is evicted is a message or a session lost",
        )
    else:
        findings.good(name, "maxmemory-policy noeviction: nothing is evicted")
    if not bound:
        findings.advice(
            name,
            f"{_size(used)} of memory used, no maxmemory",
            "set maxmemory below the machine's: full, Redis then refuses writes, which wait in Kafka, "
            "instead of being killed",
        )
    elif used > bound * FULL:
        findings.wrong(
            name,
            f"{_size(used)} of {_size(bound)} of memory used",
            "raise maxmemory, or let channels keep less (keep_count, keep_seconds): in a full one nothing is "
            "delivered",
        )
    else:
        findings.good(name, f"{_size(used)} of {_size(bound)} of memory used")


def _look_at_persistence(findings: Findings, name: str, info: Mapping[str, str]) -> None:
    appends, failed = info.get("aof_enabled") == "1", []
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        failed.append("rdb_last_bgsave_status")
    if appends and info.get("aof_last_write_status", "ok") != "ok":
        failed.append("aof_last_write_status")
    if appends and info.get("aof_last_bgrewrite_status", "ok") != "ok":
        failed.append("aof_last_bgrewrite_status")
    if failed:
        findings.wrong(
            name,
            f"{', '.join(failed)} is not ok",
            "look at its disk (space, permissions) and its log: Redis may refuse writes until it can save",
        )
    if appends:
        findings.good(name, "append-only file on")
    else:
        findings.advice(
            name,
            "no append-only file",
            "set appendonly yes (appendfsync everysec): without it a restart begins empty, and is replayed "
            "from Kafka while new subscribers wait",
        )


def _look_at_replicas(findings: Findings, name: str, info: Mapping[str, str]) -> None:
    count = int(info.get("connected_slaves", 0))
    away = [
        key
        for key, value in info.items()
        if key.startswith("slave") and key[5:].isdigit() and "state=online" not in value
    ]
    if away:
        findings.advice(name, f"{len(away)} of {count} replicas are not in sync", "look at these replicas")
    elif count:
        findings.good(name, f"{count} replicas, in sync")


async def _look_at_room(
    findings: Findings, name: str, info: Mapping[str, str], caller: Caller, shard: int
) -> None:
    clients, bound = int(info.get("connected_clients", 0)), info.get("maxclients")
    bound = bound or await _configured(caller, shard, "maxclients")
    if bound and clients > int(bound) * FULL:
        findings.wrong(name, f"{clients} of {bound} clients", "raise maxclients, or find who opens so many")
    fsync = await _configured(caller, shard, "appendfsync")
    if info.get("aof_enabled") == "1" and fsync == "always":
        findings.advice(
            name,
            "appendfsync always",
            "set appendfsync everysec: Kafka keeps what a crash loses, and every batch waits for the disk",
        )


async def _look_at_time(findings: Findings, name: str, caller: Caller, shard: int, clock: Clock) -> None:
    trips, askew = [], []
    for _ in range(ROUNDS):
        began, at = clock.monotonic(), clock.now_ms()
        seconds, micros = await caller.command(shard, "time", ("TIME",))
        trip = clock.monotonic() - began
        trips.append(trip)
        askew.append((int(seconds) + int(micros) / 1e6) - (at / 1000 + trip / 2))
    trip, off = min(zip(trips, askew, strict=True))
    found = f"round trip {trip * 1000:.1f} ms, clock {off * 1000:+.0f} ms from this machine's"
    if abs(off) - trip > ASKEW:
        findings.wrong(name, found, "set both clocks by NTP: ages and delivery times are measured by them")
    elif trip > SLOW:
        findings.advice(name, found, "run Redis nearer: dispatch waits for a round trip per batch")
    else:
        findings.good(name, found)


async def _look_at_cluster(findings: Findings, caller: Caller, shard: int) -> None:
    text: bytes = await caller.command(shard, "cluster", ("CLUSTER", "INFO"))
    info = dict(line.partition(":")[::2] for line in text.decode().splitlines())
    found = f"cluster_state {info.get('cluster_state')}, {info.get('cluster_slots_ok')} slots ok"
    if info.get("cluster_state") == "ok" and info.get("cluster_slots_ok") == "16384":
        findings.good("cluster", found)
    else:
        findings.wrong(
            "cluster", found, "look at `redis-cli --cluster check`: shards in other slots stand still"
        )


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count //= 1024
    return f"{count} GiB"
