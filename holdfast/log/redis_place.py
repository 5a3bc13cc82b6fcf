"""Where Redis is: one server, the master that Sentinels name, or the servers of a Cluster.

| `redis.url` | |
|---|---|
| `redis://[user:password@]host:port/db`, `rediss://…` | one server |
| `redis+sentinel://[user:password@]host:port,host:port/NAME/db` | the master NAME; the hosts are Sentinels |
| `redis+cluster://[user:password@]host:port,host:port` | the hosts are some servers of the Cluster |
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url

from holdfast.errors import Stop

Address = tuple[str, int]

_SENTINEL: Final = "redis+sentinel"
_CLUSTER: Final = "redis+cluster"


class Place(NamedTuple):
    """What `redis.url` says. `master` is the name that Sentinels know, "" without them."""

    hosts: tuple[Address, ...]
    user: str = ""
    password: str = ""
    db: int = 0
    tls: bool = False
    master: str = ""
    cluster: bool = False


def parse(url: str) -> Place:
    """Return what a URL says. Raises Stop, without showing the URL, which may have a password in it."""
    scheme = url.partition("://")[0]
    if scheme in (_SENTINEL, _CLUSTER):
        return _several(url, scheme)
    try:
        found: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise Stop(f"redis.url: {error}") from error
    if "path" in found:
        raise Stop("redis.url: a Unix socket is not supported")
    return Place(
        hosts=((found.get("host") or "localhost", int(found.get("port") or 6379)),),
        user=found.get("username") or "",
        password=found.get("password") or "",
        db=int(found.get("db") or 0),
        tls=scheme == "rediss",
    )


def _several(url: str, scheme: str) -> Place:
    try:
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        port = 26379 if scheme == _SENTINEL else 6379
        addresses = tuple(_address(host, port) for host in hosts.split(","))
        path = [part for part in parts.path.split("/") if part]
        place = Place(addresses, unquote(user), unquote(password), cluster=scheme == _CLUSTER)
        if scheme == _CLUSTER:
            if path:
                raise Stop("redis.url: a Cluster has no databases")
            return place
        if not path:
            raise Stop(f"redis.url: {_SENTINEL}://host:port,host:port/NAME names the master")
        return place._replace(master=path[0], db=int(path[1]) if len(path) > 1 else 0)
    except ValueError as error:
        raise Stop(f"redis.url: {error}") from error


def _address(text: str, port: int) -> Address:
    host, separator, number = text.rpartition(":")
    if not separator:
        host, number = text, str(port)
    if not host:
        raise ValueError("a host's name is missing")
    return host, int(number)
