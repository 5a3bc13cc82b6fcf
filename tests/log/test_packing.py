"""Entries as Redis keeps them: every form that was ever written is read, beside JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from redis import Redis as Client

from holdfast import records
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.packing import unpack
from holdfast.log.port import WINDOW_MS, Batch, LogRecord, Op, Query, Status, Watermark
from holdfast.log.redis import RedisLog
from holdfast.policy import Policy
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from deploy.local.servers import Running
    from holdfast.log.port import Log

T0: Final = 6000 * WINDOW_MS
KEPT: Final = 1000
POLICIES: Final = {"user": Policy(keep_seconds=KEPT)}

TS: Final = b"\x01\x8b\xcf\xe5\x68\x00"
ID: Final = b"-bCdEfGhIjKlMnO_"
NAME: Final = b"\xf9\xb0\x9d\x11\xf1\xa1\x22\x32\xa5\x32\x73\xbf"
"""The bytes that `ID` means."""

FORMS: Final = {
    b"\x10" + TS + b'm-0"ann"note"[1]': b'"id":"m-0","from":"ann","type":"note","data":[1]',
    b"\x11" + TS + b'm-0""note"[1]': b'"id":"m-0","from":null,"type":"note","data":[1]',
    b"\x14" + TS + b'm-0"ann"note"hi': b'"id":"m-0","from":"ann","type":"note","data":{"text":"hi"}',
    b"\x15" + TS + b'm-0""note"hi': b'"id":"m-0","from":null,"type":"note","data":{"text":"hi"}',
    b"\x18" + TS + NAME + b'-0"ann"note"[1]': b'"id":"-bCdEfGhIjKlMnO_-0","from":"ann","type":"note",'
    b'"data":[1]',
    b"\x19" + TS + NAME + b'""note"[1]': b'"id":"-bCdEfGhIjKlMnO_","from":null,"type":"note","data":[1]',
    b"\x1a" + TS + NAME + b'-0"ann"note"[1]': b'"id":"-bCdEfGhIjKlMnO_-0","from":"ann","type":"note",'
    b'"data":[1],"cause":"-bCdEfGhIjKlMnO_"',
    b"\x1b" + TS + NAME + b'-0""note"[1]': b'"id":"-bCdEfGhIjKlMnO_-0","from":null,"type":"note",'
    b'"data":[1],"cause":"-bCdEfGhIjKlMnO_"',
    b"\x1c" + TS + NAME + b'-0"ann"note"hi': b'"id":"-bCdEfGhIjKlMnO_-0","from":"ann","type":"note",'
    b'"data":{"text":"hi"}',
    b"\x1d" + TS + NAME + b'""note"hi': b'"id":"-bCdEfGhIjKlMnO_","from":null,"type":"note",'
    b'"data":{"text":"hi"}',
    b"\x1e" + TS + NAME + b'-0"ann"note"hi': b'"id":"-bCdEfGhIjKlMnO_-0","from":"ann","type":"note",'
    b'"data":{"text":"hi"},"cause":"-bCdEfGhIjKlMnO_"',
    b"\x1f" + TS + NAME + b'-0""note"hi': b'"id":"-bCdEfGhIjKlMnO_-0","from":null,"type":"note",'
    b'"data":{"text":"hi"},"cause":"-bCdEfGhIjKlMnO_"',
}  # fmt: skip
"""Stored entries, and what follows the time in each: written down, as earlier versions wrote them."""


@pytest.mark.parametrize("stored", FORMS, ids=lambda stored: f"{stored[0]:02x}")
def test_every_form_is_read(stored: bytes) -> None:
    """What an earlier version has written is read as it was, quotes and commas of data included."""
    head = b'"ts":1700000000000,'
    assert unpack(stored) == head + FORMS[stored]
    more = rb'"\"x\","data":\u00e9"'
    if not stored[0] & 4:
        assert unpack(stored.replace(b"[1]", more)) == head + FORMS[stored].replace(b"[1]", more)


@pytest.mark.parametrize(
    "stored",
    [
        records.log_entry(T0, records.message_body(id="m", sender="ann", type="note", data=b"1")),
        b"",
        b"text",
        b"\x01later",
        b"\x12" + TS + b'no"such"form"1',
        b"\x10" + TS + b'torn"',
        b"\x10",
        b"\x18" + TS + b"torn",
    ],
)
def test_what_is_not_known_is_left_alone(stored: bytes) -> None:
    """JSON, later forms and what is torn are returned as they are."""
    assert unpack(stored) == stored


def test_a_plain_entry_may_begin_like_a_mark() -> None:
    """The zero byte before an entry says that nothing is packed in it."""
    assert unpack(b"\0\x10" + TS + b'a"b"c"d') == b"\x10" + TS + b'a"b"c"d'


def body(number: int) -> bytes:
    """Return the body of a message of ann's."""
    return records.message_body(id=f"m{number}", sender="ann", type="note", data=b'{"text":"hi"}')


def packed(ts: int, number: int) -> bytes:
    """Return the entry of such a message as it is stored packed, made without the code that is tested."""
    return b'\x14%bm%d"ann"note"hi' % (ts.to_bytes(6, "big"), number)


def message(offset: int, ts: int) -> LogRecord:
    """Return the record of such a message."""
    entry = records.log_entry(ts, body(offset))
    return LogRecord(offset, ts, Op.APPEND, "user:ann", body=entry)


@pytest.fixture
async def redis(redis_server: Running, unique_prefix: str) -> AsyncIterator[RedisLog]:
    """A log in a real Redis."""
    log = RedisLog(Redis(url=f"redis://{redis_server.address}/0", prefix=unique_prefix), 1, POLICIES)
    yield log
    await log.close()


@pytest.fixture
def client(redis_server: Running) -> Iterator[Client]:
    """That Redis itself."""
    host, _, port = redis_server.address.rpartition(":")
    with Client(host=host, port=int(port)) as client:
        yield client


async def append(log: Log, *batch: LogRecord) -> None:
    """Apply records as the owner of the shard."""
    state = await log.state(0)
    if not state.owner:
        state = await log.claim(0, "d", expected=state, generation="g")
    last = Watermark(batch[-1].offset, batch[-1].ts, 0)
    applied = await log.apply(0, Batch("d", state.watermark, last, batch, now_ms=last.ts))
    assert applied.status is Status.APPLIED


async def entries(log: Log) -> list[tuple[int, bytes]]:
    """Return all that ann's inbox holds."""
    (view,) = await log.read(0, [Query("user:ann", 0, limit=1000)])
    return list(view.entries)


@pytest.mark.redis
@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_list_may_hold_both_forms(redis: RedisLog, client: Client, step: int) -> None:
    """inv 4: entries of two versions in one list are read, and go by their age, as if they were of one.

    Each `step`th is packed. More are old than one call drops, so two calls share them.
    """
    memory = MemoryLog(MemoryStore(1), POLICIES)
    old = [message(n, T0 + n) for n in range(40)]
    for log in (memory, redis):
        await append(log, *old)
    key = redis._keys[0].list("user:ann")
    for n in range(40):
        stored = records.log_entry(T0 + n, body(n)) if n % step else packed(T0 + n, n)
        client.execute_command("LSET", key, n, stored)
    assert await entries(redis) == await entries(memory)
    left = []
    for n in range(40, 43):
        for log in (memory, redis):
            await append(log, message(n, T0 + KEPT * 1000 + n - 5))
        assert await entries(redis) == await entries(memory)
        left.append(len(await entries(redis)))
    assert left == [9, 6, 6]
