"""The Lua scripts, and calls of them and of commands over a few links, with times and failures counted."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

import hiredis

from holdfast.errors import Retry
from holdfast.log.redis_place import parse
from holdfast.log.redis_servers import pack, servers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.clock import Clock
    from holdfast.network import Network
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Redis

MOVES = 3
"""Times that one call follows a shard to another server."""


_ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "MOVED", "CLUSTERDOWN")


class Script:
    """A Lua script, as it is called and counted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files("holdfast.log").joinpath("lua", f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class Caller:
    """Makes calls. Each raises Retry when the store is away, full, or the outcome unknown."""

    def __init__(self, settings: Redis, metrics: Metrics, clock: Clock, network: Network) -> None:
        self._servers = servers(parse(settings.url), settings, network=network, clock=clock)
        self._metrics = metrics
        self._clock = clock
        self._timers: dict[str, Any] = {}

    async def run(self, shard: int, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script with one call; it is sent whole when the server does not know it."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            return await self.command(shard, script.name, command)
        except _Unknown:
            command = ("EVAL", script.text, *command[2:])
            return await self.command(shard, script.name, command)

    async def command(self, shard: int, name: str, command: Sequence[Any]) -> Any:
        """Make one call, counted under `name`."""
        timer = self._timers.get(name)
        if timer is None:
            timer = self._timers[name] = self._metrics.log_call_seconds.labels(name)
            self._metrics.log_call_failed.labels(name)  # it is there, at 0, before the first one
        start = self._clock.monotonic()
        packed = pack(*command)
        for _ in range(MOVES):
            link = self._servers.link(shard)
            try:
                reply = await link.call(packed)
            except Retry:
                self._servers.failed(shard)
                self._metrics.log_call_failed.labels(name).inc()
                raise
            if not isinstance(reply, hiredis.ReplyError) or not self._servers.moved(shard, str(reply)):
                break
        timer.observe(self._clock.monotonic() - start)
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if text.startswith("NOSCRIPT"):
                raise _Unknown
            self._metrics.log_call_failed.labels(name).inc()
            if text.startswith(_ELSEWHERE):
                link.reset(text)  # the next call looks again for who is in charge
                self._servers.failed(shard)
            raise Retry(f"redis: {name}: {text}")
        return reply

    async def find(self, partitions: int) -> Sequence[int]:
        """Find the servers; return a shard of each. Raises Retry."""
        return await self._servers.start(partitions)

    async def close(self) -> None:
        """Close the links."""
        await self._servers.close()


class _Unknown(Exception):  # noqa: N818
    """NOSCRIPT."""
