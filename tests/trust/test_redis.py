"""Redis by TLS and with an ACL user, against real servers: alone, named by a Sentinel, and as a Cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis as Client

from deploy.local.certificate import Authority
from deploy.local.servers import free_port
from holdfast import records, tls
from holdfast.clock import SystemClock
from holdfast.errors import Retry, Stop
from holdfast.log import redis_link
from holdfast.log.port import NEW, Batch, Change, LogRecord, NodeUpdate, Op, Query, Watermark
from holdfast.log.redis import RedisLog
from holdfast.log.redis_place import parse
from holdfast.membership.port import Node
from holdfast.membership.redis import RedisDirectory
from holdfast.observe.metrics import Metrics
from holdfast.settings import Membership, Redis
from tests.trust.secure_redis import ENCODED, PASSWORD, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.trust.secure_redis import Site


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., RedisLog]]:
    """Make logs, closed at the end."""
    logs: list[RedisLog] = []

    def make(url: str, **more: Any) -> RedisLog:
        logs.append(RedisLog(Redis(url=url, timeout=2.0, **more), 4, {}, Metrics(), SystemClock()))
        return logs[-1]

    yield make
    for log in logs:
        await log.close()


async def works(log: RedisLog) -> None:
    """Own each shard, write, route, read, beat: all scripts."""
    await log.start()
    assert await log.healthy()
    for shard in range(4):
        channel = f"room:{shard}"
        state = await log.claim(shard, "d", expected=await log.state(shard), generation="")
        assert state.owner == "d"
        await log.begin(shard, "d", generation="g", until=NEW)
        await log.update(shard, NodeUpdate("n", 1, [Change("+r", channel)]))
        body = records.log_entry(1, b'"id":1')
        record = LogRecord(1, 1, Op.APPEND, channel, body=body)
        batch = Batch("d", Watermark(), Watermark(1, 1, 1), [record], now_ms=1)
        assert (await log.apply(shard, batch)).placed[0].nodes == ("n",)
        (view,) = await log.read(shard, [Query(channel, 0)])
        assert view.head == 1
        assert (await log.beat(shard, "n")).number == 1
        assert await log.beats(shard) == {"n": 1}


@pytest.mark.redis
async def test_one_server(site: Site, made: Callable[..., RedisLog], tmp_path: Path) -> None:
    """By TLS in both directions and as an ACL user who may do no more than docs/security.md gives him."""
    port = free_port()
    site.start(port, mutual=True)
    url = f"rediss://holdfast:{ENCODED}@localhost:{port}/0"
    files = {"tls_authority": site.authority_file, "tls_certificate": str(site.own)}
    await works(made(url, **files))
    with pytest.raises(Retry, match="certificate verify failed"):
        await made(url, **files | {"tls_authority": str(Authority(tmp_path, "other").file)}).start()
    with pytest.raises(Retry):
        await made(url, tls_authority=site.authority_file).start()
    with pytest.raises(Retry, match="WRONGPASS") as refusal:
        await made(url.replace(ENCODED, "guessed"), **files).start()
    assert "guessed" not in str(refusal.value)


@pytest.mark.redis
async def test_the_name_is_compared(site: Site, made: Callable[..., RedisLog]) -> None:
    """A certificate of the authority for another host is not enough."""
    port = free_port()
    site.authority.issue("server", hosts=("elsewhere.example",))
    options = site.options(port)
    site.authority.issue("server", hosts=("elsewhere.example",))
    site.servers.start(*options)
    with pytest.raises(Retry, match=r"(?i)mismatch"):
        await made(f"rediss://localhost:{port}/0", tls_authority=site.authority_file).start()


@pytest.mark.redis
async def test_files_are_read_again(site: Site, made: Callable[..., RedisLog], tmp_path: Path) -> None:
    """A certificate of ours that is replaced is shown by the next connection, without a restart."""
    port = free_port()
    site.start(port, mutual=True)
    file = Authority(tmp_path, "other").issue("ours")
    log = made(
        f"rediss://holdfast:{ENCODED}@localhost:{port}/0",
        tls_authority=site.authority_file,
        tls_certificate=str(file),
    )
    with pytest.raises(Retry):
        await log.start()
    site.authority.issue("ours", path=file)
    tls.look(Metrics())
    await asyncio.sleep(redis_link._FIRST_PAUSE)  # after a failure it is not tried again at once
    await works(log)


@pytest.mark.redis
async def test_sentinel(site: Site, made: Callable[..., RedisLog]) -> None:
    """A Sentinel is asked by TLS as its own user, and the master it names is spoken to as another."""
    master, watched = free_port(), free_port()
    site.start(master)
    site.sentinel(watched, master)
    url = f"rediss+sentinel://holdfast:{ENCODED}@localhost:{watched}/main"
    more = {"tls_authority": site.authority_file, "sentinel_user": "watcher"}
    await works(made(url, **more, sentinel_password="eye"))
    with pytest.raises(Retry, match="WRONGPASS"):
        await made(url, **more, sentinel_password="wrong").start()


@pytest.mark.redis
async def test_cluster(site: Site, made: Callable[..., RedisLog]) -> None:
    """The servers that a Cluster names are spoken to by TLS and as the same user."""
    port = free_port()
    running = site.start(
        port, "--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(free_port())
    )
    with plain(running) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in bytes(
            str(admin.execute_command("CLUSTER", "INFO")), "ascii"
        ).replace(b"': '", b":"):
            pass
    await works(
        made(f"rediss+cluster://holdfast:{ENCODED}@localhost:{port}", tls_authority=site.authority_file)
    )


@pytest.mark.redis
async def test_membership(site: Site) -> None:
    """Membership in Redis goes by the same settings."""
    port = free_port()
    site.start(port, mutual=True)
    settings = Redis(
        url=f"rediss://holdfast:{ENCODED}@localhost:{port}/0",
        tls_authority=site.authority_file,
        tls_certificate=str(site.own),
        timeout=2.0,
    )
    directory = RedisDirectory(settings, Membership(kind="redis"), Metrics(), SystemClock())
    await directory.start()
    await directory.join(Node("a", "a-1", "access", "127.0.0.1:1"))
    assert [node.name for node in directory.nodes("access")] == ["a"]
    assert await directory.healthy()
    await directory.close()


@pytest.mark.redis
def test_what_the_user_may_not(site: Site) -> None:
    """The ACL of docs/security.md keeps a stolen password from other keys, and from administration."""
    port = free_port()
    site.start(port)
    ours = Client(
        port=port,
        host="localhost",
        ssl=True,
        ssl_ca_certs=site.authority_file,
        username="holdfast",
        password=PASSWORD,
    )
    assert ours.get("hf:x") is None
    for command in (
        ("GET", "other"),
        ("EVAL", "return redis.call('GET', 'other')", "0"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("KEYS", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("REPLICAOF", "127.0.0.1", "1"),
    ):
        with pytest.raises(Exception, match=r"(?i)permission|NOPERM|access at least one of the keys"):
            ours.execute_command(*command)
    ours.close()


@pytest.mark.parametrize(
    "url",
    [
        "rediss://h:1/0?ssl_cert_reqs=none",
        "redis://u:pa/ss@h:1/0",
        "unix:///x",
        "rediss+sentinel://u:hidden@h",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    """inv 11: what a URL could switch off, and what is none, is refused; no part of it is shown."""
    with pytest.raises(Stop, match=r"redis\.url") as refusal:
        parse(url)
    assert refusal.value.__cause__ is None
    for part in ("pa/ss", "ss@h", "hidden"):
        assert part not in str(refusal.value)


def test_urls_with_tls() -> None:
    """`rediss` means TLS for each of the three ways in which Redis is run."""
    for url in ("rediss://h/0", "rediss+sentinel://h/main", "rediss+cluster://h"):
        assert parse(url).tls
        assert not parse(url.replace("rediss", "redis")).tls
