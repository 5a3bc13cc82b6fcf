"""The Lua scripts, and calls of them and of commands over a few links, with times and failures counted."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from importlib import resources
from typing import TYPE_CHECKING, Any

import hiredis
from redis.asyncio.connection import parse_url

from holdfast.errors import Retry, Stop
from holdfast.log.redis_link import Link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.clock import Clock
    from holdfast.network import Network
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Redis

LINKS = 2
"""Links of one process: one carries as much as Redis can do; with two, one long answer holds up half."""


def _pack(*command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


class Script:
    """A Lua script, as it is called and counted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files("holdfast.log").joinpath("lua", f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class Caller:
    """Makes calls. Each raises Retry when the store is away, full, or the outcome unknown."""

    def __init__(self, settings: Redis, metrics: Metrics, clock: Clock, network: Network) -> None:
        try:
            url: dict[str, Any] = dict(parse_url(settings.url))
        except ValueError as error:
            raise Stop(f"redis.url: {error}") from error
        if "path" in url:
            raise Stop("redis.url: a Unix socket is not supported")
        hello = []
        if url.get("password"):
            user = (url["username"],) if url.get("username") else ()
            hello.append(_pack("AUTH", *user, url["password"]))
        if url.get("db"):
            hello.append(_pack("SELECT", url["db"]))
        tls = ssl.create_default_context() if settings.url.startswith("rediss:") else None
        self._links = [
            Link(
                network,
                url.get("host") or "localhost",
                int(url.get("port") or 6379),
                hello=hello,
                clock=clock,
                timeout=settings.timeout,
                tls=tls,
            )
            for _ in range(min(LINKS, settings.connections))
        ]
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
        start = self._clock.monotonic()
        link = self._links[shard % len(self._links)]
        try:
            reply = await link.call(_pack(*command))
        except Retry:
            self._metrics.log_call_failed.labels(name).inc()
            raise
        timer.observe(self._clock.monotonic() - start)
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if text.startswith("NOSCRIPT"):
                raise _Unknown
            self._metrics.log_call_failed.labels(name).inc()
            if text.startswith(("READONLY", "LOADING", "MASTERDOWN", "MOVED", "CLUSTERDOWN")):
                link.reset(text)  # the next call looks again for who is in charge
            raise Retry(f"redis: {name}: {text}")
        return reply

    async def close(self) -> None:
        """Close the links."""
        await asyncio.gather(*(link.close() for link in self._links))


class _Unknown(Exception):  # noqa: N818
    """NOSCRIPT."""
