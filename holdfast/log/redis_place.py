"""Where Redis is: one server, the master that Sentinels name, or the servers of a Cluster.

| `redis.url` | |
|---|---|
| `redis://[user:password@]host:port/db`, `rediss://…` | one server |
| `redis+sentinel://[user:password@]host:port,host:port/NAME/db` | the master NAME; the hosts are Sentinels |
| `redis+cluster://[user:password@]host:port,host:port` | the hosts are some servers of the Cluster |

With `rediss` in place of `redis` all of them are spoken to by TLS.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url

from holdfast.errors import Stop

Address = tuple[str, int]

_SENTINEL: Final = ("redis+sentinel", "rediss+sentinel")
_CLUSTER: Final = ("redis+cluster", "rediss+cluster")


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
    try:
        if urlsplit(url).query:
            raise Stop(
                "redis.url: nothing may follow a `?`; for TLS there are redis.tls_authority and others"
            )
        if scheme in (*_SENTINEL, *_CLUSTER):
            return _several(url, scheme)
        if scheme not in ("redis", "rediss"):
            raise Stop("redis.url must begin with redis:// or rediss://, or name Sentinels or a Cluster")
        found: dict[str, Any] = dict(parse_url(url))
    except ValueError:  # its text has parts of the URL: of a password, where that holds a `/`
        raise Stop("redis.url is no URL: in a password, encode what a URL cannot hold (`/` as %2F)") from None
    return Place(
        hosts=((found.get("host") or "localhost", int(found.get("port") or 6379)),),
        user=found.get("username") or "",
        password=found.get("password") or "",
        db=int(found.get("db") or 0),
        tls=scheme == "rediss",
    )


def _several(url: str, scheme: str) -> Place:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    port = 26379 if scheme in _SENTINEL else 6379
    place = Place(
        tuple(_address(host, port) for host in hosts.split(",")),
        unquote(user),
        unquote(password),
        tls=scheme.startswith("rediss"),
        cluster=scheme in _CLUSTER,
    )
    path = [part for part in parts.path.split("/") if part]
    if place.cluster:
        if path:
            raise Stop("redis.url: a Cluster has no databases")
        return place
    if not path:
        raise Stop(f"redis.url: {scheme}://host:port,host:port/NAME names the master")
    return place._replace(master=path[0], db=int(path[1]) if len(path) > 1 else 0)


def _address(text: str, port: int) -> Address:
    host, separator, number = text.rpartition(":")
    if not separator:
        host, number = text, str(port)
    if not host:
        raise ValueError("a host's name is missing")
    return host, int(number)
