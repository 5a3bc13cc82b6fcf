"""What the log costs: records per Redis core, client CPU per record, bytes per channel.

    python -m loadtest.log_bench
    python -m loadtest.log_bench --inboxes 1000000 [--messages 20] [--letters 20-180] [--sent] [--redis ...]

Starts a Redis of its own. CPU is user + system time, of this process and of Redis as it says itself. The
second one fills so many inboxes over 12 shards and says what they take; what they say is text, not one
letter, since Redis can be told to compress it. Inboxes of messages of one length are all in one of the
allocator's sizes, which are up to a quarter apart: only those of many lengths tell what a byte costs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from redis import Redis as Client

from deploy.local.servers import start_redis
from holdfast import records
from holdfast.channel import partition_of
from holdfast.log.packing import pack
from holdfast.log.port import Batch, Change, LogRecord, NodeUpdate, Op, Query, SessionInfo, Watermark
from holdfast.log.redis import RedisLog
from holdfast.policy import DEFAULT_POLICIES
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHANNELS = 10_000
SHARDS = 12
BATCH = 200
BODY = b'"id":"0123456789abcdef","from":"user123","type":"text","data":"%s"' % (b"x" * 120)


class Bench:
    """One shard, its owner, and the CPU spent since the last look."""

    def __init__(self, log: RedisLog, client: Client, channels: int = CHANNELS) -> None:
        self.log = log
        self.client = client
        self.watermark = Watermark()
        self.offset = 0
        self.now = time.time_ns() // 1_000_000
        self.channels = channels
        self.numbers = [0] * channels

    def cpu(self) -> tuple[float, float]:
        """Return (ours, Redis's) CPU seconds so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        info = self.client.info("cpu")
        ours = used.ru_utime + used.ru_stime
        return ours, info["used_cpu_user"] + info["used_cpu_sys"]

    async def measure(self, name: str, count: int, work: Callable[[], Awaitable[None]]) -> None:
        """Print what `work` costs for each of `count` things."""
        ours, redis = self.cpu()
        start = time.perf_counter()
        await work()
        wall = time.perf_counter() - start
        ours, redis = self.cpu()[0] - ours, self.cpu()[1] - redis
        print(
            f"{name:<44} {ours / count * 1e6:7.2f} {redis / count * 1e6:7.2f} {count / redis:10,.0f} "
            f"{wall / count * 1e6:7.2f}"
        )

    def batch(self, size: int, *, kind: str = "user") -> Batch:
        """Return the next `size` records, each to another channel, from a source of its own."""
        made = []
        for _ in range(size):
            self.offset += 1
            number = self.offset * 7919 % self.channels
            self.numbers[number] += 1
            made.append(
                LogRecord(
                    self.offset,
                    self.now,
                    Op.APPEND,
                    f"{kind}:u{number}",
                    f"u{number}\0client",
                    self.numbers[number] * records.MAX_OUTPUTS,
                    1,
                    records.log_entry(self.now, BODY),
                )
            )
        last = Watermark(self.offset, self.now, 1)
        batch = Batch("d", self.watermark, last, made, now_ms=self.now)
        self.watermark = last
        return batch

    async def apply(self, batches: list[Batch]) -> None:
        """Apply one after the other."""
        for batch in batches:
            applied = await self.log.apply(0, batch)
            assert applied.status == 0, applied

    async def nodes(self, count: int) -> None:
        """Write a route and a session for each of `count` users, 100 users an update."""
        for number in range(count // 100):
            changes = []
            for user in range(number * 100, number * 100 + 100):
                info = SessionInfo(f"s{user}", "node-1", "web", self.now, "client")
                changes += [Change("+r", f"user:u{user}"), Change("+s", f"u{user}", info)]
            assert await self.log.update(0, NodeUpdate("node-1", number + 1, changes)) == number + 1

    async def reads(self, count: int, entries: int) -> None:
        """Read channels' newest entries, 10 channels a call."""
        for number in range(count // 10):
            users = range(number * 10, number * 10 + 10)
            await self.log.read(0, [Query(f"user:u{u}", 0, limit=entries, newest=True) for u in users])

    async def memory(self) -> None:
        """Print the bytes that a channel takes, with 1 and with 20 messages of 200 bytes."""
        for messages in (1, 20):
            self.client.flushall()
            await self.claim()
            before = self.client.info("memory")["used_memory"]
            for _ in range(messages):
                await self.apply([self.batch(100) for _ in range(CHANNELS // 100)])
            size = (self.client.info("memory")["used_memory"] - before) / CHANNELS
            seen = sum(self.client.memory_usage(key) or 0 for key in self.client.scan_iter("*seen?"))
            print(
                f"a channel with {messages:2} messages of {len(BODY) + 20} bytes: {size:,.0f} bytes, "
                f"and of these {seen / CHANNELS:,.0f} for two windows at most (its sender)"
            )

    async def claim(self) -> None:
        """Own the shard, from the beginning."""
        self.watermark = Watermark()
        self.offset = 0
        self.numbers = [0] * self.channels
        await self.log.claim(0, "d", expected=await self.log.state(0), generation="3f9a0c21")


WORDS: Final = """
I you it the to a and that in is of what we me this he for my on have your do was no not be are know can with
but all so just there here they like get she go about if him out come tomorrow morning think meeting when
one where would train ticket station dinner tonight Thursday photo address number please thanks maybe
"""


def said(source: random.Random, letters: str, sent: bool) -> bytes:
    """Return a body with so many letters of text: as of a publish, or `sent`, as of a client's message."""
    least, _, most = letters.partition("-")
    size = source.randint(int(least), int(most or least))
    text = " ".join(source.choices(WORDS.split(), k=size // 3))[:size]
    identity, sender = (
        base64.urlsafe_b64encode(source.randbytes(16))[:22].decode(),
        f"u{source.randrange(10**6)}",
    )
    data = b'"%s"' % text.encode()
    if sent:
        cause = identity[:16]
        data = b'{"text":%s}' % data
        return records.message_body(id=f"{cause}-0", sender=sender, type="text", data=data, cause=cause)
    return records.message_body(id=identity, sender=sender, type="chat.text", data=data)


async def inboxes(
    address: str, count: int, messages: int, letters: str, *, sent: bool, config: list[str]
) -> None:
    """Fill inboxes and print what they take; each message is of another sender."""
    host, _, port = address.rpartition(":")
    client = Client(host=host, port=int(port))
    for setting in config:
        client.config_set(*setting.split("=", 1))
    log = RedisLog(Redis(url=f"redis://{address}/0"), SHARDS, DEFAULT_POLICIES)
    await log.start()
    source = random.Random(1)  # noqa: S311 - a load
    bodies = [said(source, letters, sent) for _ in range(5000)]
    entries = [records.log_entry(10**12, body) for body in bodies]
    json, stored = (sum(map(len, some)) / len(entries) for some in (entries, map(pack, entries)))
    shards: list[list[str]] = [[] for _ in range(SHARDS)]
    for number in range(count):
        name = f"user:u{number}"
        shards[partition_of(name, SHARDS)].append(name)
    before = client.info("memory")["used_memory"]
    offsets, watermarks = [0] * SHARDS, [Watermark()] * SHARDS
    for shard in range(SHARDS):
        await log.claim(shard, "d", expected=await log.state(shard), generation="3f9a0c21")
    spent = client.info("cpu")

    async def fill(shard: int, names: list[str], n: int) -> None:
        now = time.time_ns() // 1_000_000
        for start in range(0, len(names), BATCH):
            made = []
            for name in names[start : start + BATCH]:
                offsets[shard] += 1
                body = records.log_entry(now, bodies[offsets[shard] * 7919 % len(bodies)])
                row = (f"u{offsets[shard]}\0client", n * records.MAX_OUTPUTS, 1, body)
                made.append(LogRecord(offsets[shard], now, Op.APPEND, name, *row))
            last = Watermark(offsets[shard], now, 1)
            applied = await log.apply(shard, Batch("d", watermarks[shard], last, made, now_ms=now))
            assert applied.status == 0, applied
            watermarks[shard] = last

    for n in range(1, messages + 1):
        await asyncio.gather(*(fill(shard, names, n) for shard, names in enumerate(shards)))
        taken = client.info("memory")["used_memory"] - before
        seen = sum(client.memory_usage(key, samples=50) or 0 for key in client.scan_iter("*seen?", 10_000))
        if n in (1, messages):
            print(
                f"{count:,} inboxes with {n} of {letters} letters: {(taken - seen) / count:,.0f} bytes each, "
                f"{n * stored:,.0f} of them entries (as JSON {n * json:,.0f}); besides "
                f"{seen / count / n:,.0f} for each message's sender, for two windows at most; "
                f"{client.info('memory')['used_memory_rss'] / 2**30:.2f} GiB in all",
                flush=True,
            )
    cpu = client.info("cpu")
    redis = sum(cpu[name] - spent[name] for name in ("used_cpu_user", "used_cpu_sys"))
    print(f"Redis: {redis / count / messages * 1e6:.1f} us of CPU for a message")
    await log.close()


async def run(address: str, records_each: int) -> None:
    """Measure everything once."""
    host, _, port = address.rpartition(":")
    log = RedisLog(Redis(url=f"redis://{address}/0"), 12, DEFAULT_POLICIES)
    bench = Bench(log, Client(host=host, port=int(port)))
    await log.start()
    await bench.claim()
    await bench.apply([bench.batch(100) for _ in range(CHANNELS // 100)])
    print(f"{'CPU in us':<44} {'ours':>7} {'Redis':>7} {'per core':>10} {'wall':>7}")
    await bench.measure("update: a route and a session, 100 users", 10_000, lambda: bench.nodes(10_000))
    for size in (1, 10, 100, 200):
        count = max(records_each // (10 if size == 1 else 1), size) // size
        batches = [bench.batch(size) for _ in range(count)]
        name = f"apply: a record, {size} in a batch"
        await bench.measure(name, count * size, functools.partial(bench.apply, batches))
    await bench.measure("read: a channel, 20 entries, 10 in a call", 5_000, lambda: bench.reads(5_000, 20))
    await bench.measure("read: a channel's position, 10 in a call", 5_000, lambda: bench.reads(5_000, 0))
    await bench.memory()
    await log.close()


def main() -> None:
    """Run with a Redis of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000, help="records of each size of batch")
    parser.add_argument("--inboxes", type=int, help="fill so many, and only that")
    parser.add_argument("--messages", type=int, default=20, help="in each inbox (default 20)")
    parser.add_argument("--letters", default="100", help="of each message, 100 (the default) or 20-180")
    parser.add_argument("--sent", action="store_true", help="as clients' messages, not as publishes")
    parser.add_argument("--redis", nargs="*", default=[], help="NAME=VALUE: of Redis's configuration")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_redis(Path(folder)) as server:
        if wanted.inboxes:
            shape = (wanted.inboxes, wanted.messages, wanted.letters)
            uvloop.run(inboxes(server.address, *shape, sent=wanted.sent, config=wanted.redis))
        else:
            uvloop.run(run(server.address, wanted.records))


if __name__ == "__main__":
    main()
