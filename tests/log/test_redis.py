"""The Redis adapter when Redis is away, slow, full, or not what it should be."""

from __future__ import annotations

import asyncio
import binascii
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis as Client

from deploy.local.servers import start_redis
from holdfast.clock import ManualClock
from holdfast.errors import Retry, Stop
from holdfast.log import redis_link
from holdfast.log.port import Batch, Change, LogRecord, NodeUpdate, Op, Query, SessionInfo, Status, Watermark
from holdfast.log.redis import RedisLog
from holdfast.network import MemoryNetwork
from holdfast.observe.metrics import Metrics
from holdfast.settings import Redis
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from deploy.local.servers import Running

pytestmark = pytest.mark.redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A Redis that this test may stop."""
    with available():
        running = start_redis(tmp_path)
    if not running.ours:
        pytest.skip("HF_LOCAL_REDIS names a server that is not ours to stop")
    yield running
    running.stop()


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., RedisLog]]:
    """Make logs, closed at the end."""
    logs: list[RedisLog] = []

    def make(server: Running, *, timeout: float = 3.0, metrics: Metrics | None = None) -> RedisLog:
        chosen = Redis(url=f"redis://{server.address}/0", prefix="t", timeout=timeout)
        logs.append(RedisLog(chosen, 4, {}, metrics))
        return logs[-1]

    yield make
    for log in logs:
        await log.close()


def client(server: Running) -> Client:
    host, _, port = server.address.rpartition(":")
    return Client(host=host, port=int(port))


async def eventually(call: Callable[[], object], seconds: float = 10.0) -> object:
    """Await `call()` until it does not raise Retry."""
    end = time.monotonic() + seconds
    while True:
        try:
            return await call()  # type: ignore[misc]
        except Retry:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.02)


async def test_comes_back(server: Running, made: Callable[..., RedisLog]) -> None:
    """While Redis is gone, calls fail with Retry at once; when it is back they go on, scripts too (inv 9)."""
    log = made(server)
    await log.start()
    await log.update(0, NodeUpdate("n", 1, []))
    server.kill()
    for _ in range(3):
        with pytest.raises(Retry):
            await log.beats(0)
    assert not await log.healthy()
    server.start()
    await asyncio.to_thread(server.wait_ready)
    answer = await eventually(lambda: log.beat(0, "n"))
    assert answer.number == 0  # type: ignore[attr-defined]
    assert await log.healthy()


async def test_silence_is_retry(server: Running, made: Callable[..., RedisLog]) -> None:
    """A Redis that does not answer makes every waiting call fail with Retry at the timeout (inv 7)."""
    metrics = Metrics()
    log = made(server, timeout=0.3, metrics=metrics)
    await log.start()
    server.pause()
    start = time.monotonic()
    results = await asyncio.gather(*(log.beat(shard, "n") for shard in range(4)), return_exceptions=True)
    assert {type(result) for result in results} == {Retry}
    assert time.monotonic() - start < 2.0
    assert metrics.registry.get_sample_value("holdfast_log_call_failed_total", {"call": "beat"}) == 4
    server.resume()
    await eventually(lambda: log.beat(0, "n"))


async def test_out_of_memory_is_retry(server: Running, made: Callable[..., RedisLog]) -> None:
    """A full Redis refuses batches and updates whole; the same call works later (inv 6, 9).

    Beats go on, so that being full makes nobody dead.
    """
    log = made(server)
    await log.start()
    await log.claim(0, "d", expected=await log.state(0), generation="g")
    last = Watermark(1, 1, 1)
    batch = Batch("d", Watermark(), last, [LogRecord(1, 1, Op.APPEND, "user:a", body=b'"ts":1,x')])
    with client(server) as admin:
        admin.config_set("maxmemory", 1)
        with pytest.raises(Retry, match="OOM"):
            await log.apply(0, batch)
        with pytest.raises(Retry, match="OOM"):
            await log.update(0, NodeUpdate("n", 1, [Change("-r", "user:a"), Change("+r", "user:a")]))
        await log.beat(0, "n")
        await log.beat(0, "n")
        admin.config_set("maxmemory", 0)
    assert (await log.state(0)).watermark == Watermark()
    assert (await log.beats(0), (await log.beat(0, "n")).number) == ({"n": 2}, 0)
    assert (await log.apply(0, batch)).placed[0].seq == 1


async def test_eviction_is_refused(server: Running, made: Callable[..., RedisLog]) -> None:
    """A Redis that evicts keys is refused at start, by the name of what is to be changed (inv 11)."""
    with client(server) as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(Stop, match="maxmemory-policy"):
        await made(server).start()


async def test_read_only_is_retry(server: Running, made: Callable[..., RedisLog]) -> None:
    """A replica in the master's place is no place to write to (inv 9)."""
    log = made(server)
    await log.start()
    with client(server) as admin:
        admin.replicaof("127.0.0.1", "1")
        with pytest.raises(Retry):
            await log.claim(0, "d", expected=await log.state(0), generation="g")
        admin.replicaof("NO", "ONE")
    await eventually(log.healthy)


async def test_password(server: Running) -> None:
    """The URL's password and database are used; a wrong password is said."""
    with client(server) as admin:
        admin.config_set("requirepass", "secret")
    good = RedisLog(Redis(url=f"redis://:secret@{server.address}/3", prefix="t"), 1, {})
    await good.start()
    await good.beat(0, "n")
    await good.close()
    with Client.from_url(f"redis://:secret@{server.address}/3") as admin:
        assert admin.dbsize() == 1
    bad = RedisLog(Redis(url=f"redis://:wrong@{server.address}/0", prefix="t"), 1, {})
    with pytest.raises(Retry, match="WRONGPASS"):
        await bad.start()
    await bad.close()


async def test_one_slot_for_a_shard(server: Running, made: Callable[..., RedisLog]) -> None:
    """All keys of a shard, whatever they hold, are in one Cluster slot."""
    log = made(server)
    await log.claim(2, "d", expected=await log.state(2), generation="g")
    info = SessionInfo("s", "n", "web", 1, "c")
    await log.update(2, NodeUpdate("n", 1, [Change("+r", "user:a"), Change("+s", "a", info)]))
    batch = [
        LogRecord(1, 1, Op.APPEND, "user:a", "s", 1, body=b"x"),
        LogRecord(2, 1, Op.JOIN, "group:g", "a"),
        LogRecord(3, 1, Op.GROUP, "user:a", "group:g", 1, 1),
        LogRecord(4, 1, Op.CURSOR, "user:a", "a\0web", 1),
        LogRecord(5, 1, Op.REVOKE, "token:x", score=1),
    ]
    applied = await log.apply(2, Batch("d", Watermark(), Watermark(5, 1, 1), batch, now_ms=1))
    assert applied.status is Status.APPLIED
    await log.kick(2, "a", ["s"], "disconnected", "")
    await log.ask(2, "n", "drain")
    await log.beat(2, "n")
    with client(server) as admin:
        names = [key.decode() for key in admin.scan_iter()]
    slots = {
        binascii.crc_hqx(name[name.index("{") + 1 : name.index("}")].encode(), 0) % 16384 for name in names
    }
    assert len(names) == 17
    assert len(slots) == 1


async def test_bytes_to_be_sent_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too much waiting to be sent, the next call is refused with Retry, and counted (inv 7)."""
    monkeypatch.setattr(redis_link, "MAX_BUFFER", 2000)
    network, clock, metrics = MemoryNetwork(), ManualClock(), Metrics()
    await network.listen(asyncio.Protocol, "silent", 6379)
    log = RedisLog(Redis(url="redis://silent:6379"), 1, {}, metrics, clock, network=network)
    calls = [log.sessions(0, ["u" * 1500]) for _ in range(2)]
    waiting = [asyncio.ensure_future(call) for call in calls]
    await clock.settle()
    assert [type(call.exception()) for call in waiting if call.done()] == [Retry]
    assert metrics.log_call_failed.labels("sessions")._value.get() == 1
    await clock.advance(3.1)
    await asyncio.gather(*waiting, return_exceptions=True)
    await log.close()


async def test_pending_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many calls unanswered on a link, the next is refused with Retry (inv 7)."""
    monkeypatch.setattr(redis_link, "MAX_PENDING", 2)
    network, clock = MemoryNetwork(), ManualClock()
    await network.listen(asyncio.Protocol, "silent", 6379)
    log = RedisLog(Redis(url="redis://silent:6379"), 1, {}, Metrics(), clock, network=network)
    waiting = [asyncio.ensure_future(log.read(0, [Query("user:a")])) for _ in range(2)]
    await clock.settle()
    with pytest.raises(Retry, match="too many"):
        await log.beat(0, "n")
    await clock.advance(3.1)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {Retry}
    await log.close()
