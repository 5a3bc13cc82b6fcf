"""Which link a call of a shard goes through: see `redis_place` for the three ways in which Redis is run."""

from __future__ import annotations

import asyncio
import binascii
from typing import TYPE_CHECKING, Any, Final

import hiredis

from holdfast import tls
from holdfast.channel import hash_tags
from holdfast.errors import Retry
from holdfast.log.redis_link import Link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.clock import Clock
    from holdfast.log.redis_place import Address, Place
    from holdfast.network import Network
    from holdfast.settings import Redis

LINKS: Final = 2
"""Links of one process to one server: one carries as much as Redis can do; with two, one long answer holds up
half."""

_SLOTS: Final = 16_384


def pack(*command: Any) -> bytes:
    """Return a command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(command)
    return packed


class Servers:
    """Links to one server, or to the master that Sentinels name."""

    def __init__(self, place: Place, settings: Redis, *, network: Network, clock: Clock) -> None:
        self._place = place
        self._network = network
        self._clock = clock
        self._timeout = timeout = settings.timeout
        self._count = max(1, min(LINKS, settings.connections))
        self._trust = tls.calling("redis", settings) if place.tls else None
        self._tls = self._trust.context if self._trust is not None else None
        self._links: dict[Address, list[Link]] = {}
        self._sentinels = [
            Link(
                network,
                _fixed(address),
                hello=_auth(settings.sentinel_user, settings.sentinel_password),
                clock=clock,
                timeout=timeout,
                tls=self._tls,
            )
            for address in (place.hosts if place.master else ())
        ]

    async def start(self, partitions: int) -> Sequence[int]:
        """Find the servers; return a shard of each. Raises Retry."""
        del partitions
        return (0,)

    def link(self, shard: int) -> Link:
        """Return the link that a shard's calls go through now."""
        links = self._to(self._place.hosts[0])
        return links[shard % len(links)]

    def moved(self, shard: int, error: str) -> bool:
        """Take an error that says that a shard is elsewhere; tell whether to call again at once."""
        del shard, error
        return False

    def failed(self, shard: int) -> None:
        """Note that a shard's server did not answer."""

    async def close(self) -> None:
        """Close all links."""
        every = [link for links in self._links.values() for link in links]
        await asyncio.gather(*(link.close() for link in (*every, *self._sentinels)))

    def _to(self, address: Address) -> list[Link]:
        links = self._links.get(address)
        if links is None:
            place = self._place
            hello = _auth(place.user, place.password)
            if place.db:
                hello.append(pack("SELECT", place.db))
            where = self._master if place.master else _fixed(address)
            links = self._links[address] = [
                Link(
                    self._network,
                    where,
                    hello=hello,
                    clock=self._clock,
                    timeout=self._timeout,
                    tls=self._tls,
                    master=bool(place.master),
                )
                for _ in range(self._count)
            ]
        return links

    async def _master(self) -> Address:
        """Ask the Sentinels, one after the other, until one knows."""
        asked = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._place.master)
        why = "none knows it"
        for sentinel in self._sentinels:
            try:
                found = await sentinel.call(asked)
            except Retry as error:
                why = str(error)
                continue
            if isinstance(found, list) and len(found) == 2:
                return found[0].decode(), int(found[1])
            why = str(found) if isinstance(found, hiredis.ReplyError) else why
        raise Retry(f"redis: no Sentinel names the master {self._place.master}: {why}")


class ClusterServers(Servers):
    """Links to the servers of a Cluster. A shard lives in one slot; who has it says so with MOVED."""

    def __init__(self, place: Place, settings: Redis, *, network: Network, clock: Clock) -> None:
        super().__init__(place, settings, network=network, clock=clock)
        self._known = list(place.hosts)
        self._homes: dict[int, Address] = {}
        self._turn = 0

    async def start(self, partitions: int) -> Sequence[int]:
        """See `Servers.start`."""
        why = ""
        for address in tuple(self._known):
            try:
                ranges = await self._to(address)[0].call(pack("CLUSTER", "SLOTS"))
            except Retry as error:
                why = str(error)
                continue
            if not isinstance(ranges, list):
                why = str(ranges)
                continue
            for first, last, *servers in ranges:
                addresses = [(host.decode() or address[0], int(port)) for host, port, *_ in servers]
                self._know(addresses)
                for shard, tag in enumerate(hash_tags(partitions)):
                    if first <= binascii.crc_hqx(tag.encode(), 0) % _SLOTS <= last:
                        self._homes[shard] = addresses[0]
            firsts = {home: shard for shard, home in reversed(self._homes.items())}
            return sorted(firsts.values())
        raise Retry(f"redis: no server of the Cluster answers: {why}")

    def link(self, shard: int) -> Link:
        """See `Servers.link`. A shard whose home is not known is asked of any server."""
        links = self._to(self._homes.get(shard) or self._known[self._turn % len(self._known)])
        return links[shard % len(links)]

    def moved(self, shard: int, error: str) -> bool:
        """See `Servers.moved`."""
        if not error.startswith("MOVED "):
            return False
        host, _, port = error.split()[2].rpartition(":")
        address = host or self._known[0][0], int(port)
        self._know([address])
        self._homes[shard] = address
        return True

    def failed(self, shard: int) -> None:
        """See `Servers.failed`."""
        self._homes.pop(shard, None)
        self._turn += 1

    def _know(self, addresses: Sequence[Address]) -> None:
        self._known += [address for address in addresses if address not in self._known]


def _auth(user: str, password: str) -> list[bytes]:
    """Return the commands that show a user's password; the default user has no name."""
    return [pack("AUTH", *((user,) if user else ()), password)] if password else []


def _fixed(address: Address) -> Any:
    async def where() -> Address:
        return address

    return where


def servers(place: Place, settings: Redis, *, network: Network, clock: Clock) -> Servers:
    """Return the links for what `redis.url` says."""
    kind = ClusterServers if place.cluster else Servers
    return kind(place, settings, network=network, clock=clock)
