"""Entries as Redis keeps them: every form that was ever written is read, beside JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis as Client

from holdfast import records
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.packing import pack, unpack
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


PIECES: Final = (
    b'"ts":1,', b'"ts":170000000000000,', b'"id":"', b'","from":"', b'"from":null', b'","type":"',
    b'","data":', b',"cause":"', b'{"text":"', b'{"text":"}', b'"}', b"null", b'"', b"\\", b"\0", b"\x10",
    b"\x17", b"\n", b"\xc3\xa9", b"m-0", ID,
)  # fmt: skip
"""What a form is made of, and what could be taken for it."""

anything: Final = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=4).map(b"".join)
alike: Final = st.builds(
    b'"ts":%d,"id":"%b","from":%b,"type":"%b","data":%b%b'.__mod__,
    st.tuples(st.integers(0), anything, anything | st.just(b"null"), anything, anything, anything),
)
"""What looks like an entry at its beginning."""

NAMES: Final = st.text(max_size=20) | st.sampled_from(
    ('a"b', "a\\", "é", "\0", "\x10", ID.decode(), f"{ID.decode()}-0", "-", "", "{")
)


@given(st.binary() | anything | alike)
@example(b"")
@example(b"\0")
@example(b"\x10" + TS + b'a"b"c"d')
@example(b'"ts":99999999999999,"id":"","from":"","type":"","data":')
@example(b'"ts":999999999999999,"id":"","from":"","type":"","data":')
@example(b'"ts":01,"id":"","from":"","type":"","data":')
@example(b'"ts":1,"id":"a","from":null,"type":"t","data":{"text":"}')
@example(b'"ts":1,"id":"a","from":null,"type":"t","data":{"text":""}')
@example(b'"ts":1,"id":"a","from":null,"type":"t","data":{"text":"\n,"cause":"a"')
@example(b'"ts":1,"id":"a","from":null,"type":"t","data":{"text":"a","more":1}')
@example(b'"ts":1,"id":"","from":null,"type":"t","data":,"cause":""')
def test_what_is_packed_comes_back(entry: bytes) -> None:
    """Whatever the bytes are, they come back, and take one byte more at most."""
    stored = pack(entry)
    assert unpack(stored) == entry
    assert len(stored) <= len(entry) + 1


DATA: Final = st.recursive(
    st.none() | st.integers() | NAMES | st.fixed_dictionaries({"text": NAMES}, optional={"z": st.integers()}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


members: Final = st.fixed_dictionaries(
    {
        "id": NAMES,
        "sender": st.none() | NAMES,
        "type": NAMES,
        "data": DATA.map(msgspec.json.encode),
        "cause": NAMES,
    }
)


@given(st.integers(0, 2**53), members, members)
def test_entries_come_back(ts: int, members: dict[str, Any], inner: dict[str, Any]) -> None:
    """inv 3: an entry is what it was, whoever is named how, and whatever data holds: another entry, too."""
    nested = b"{%b}" % records.log_entry(ts, records.message_body(**inner))
    for data in (members["data"], nested, msgspec.json.encode(nested.decode())):
        entry = records.log_entry(ts, records.message_body(**members | {"data": data}))
        stored = pack(entry)
        assert unpack(stored) == entry
        assert len(stored) <= len(entry)


@pytest.mark.parametrize("stored", FORMS, ids=lambda stored: f"{stored[0]:02x}")
def test_every_form_is_written(stored: bytes) -> None:
    """What clients, handlers and the API put out is written in the shortest form, one for each kind."""
    assert pack(unpack(stored)) == stored


def test_an_entry_takes_two_thirds() -> None:
    """inv 7: of a client's message of 100 letters, what is the same in each takes no place."""
    send = records.message_id("ann", "c", 1)
    text = msgspec.json.encode({"text": "x" * 100})
    made = records.message_body(id=f"{send}-0", sender="ann", type="note", data=text, cause=send)
    entry = records.log_entry(1_700_000_000_000, made)
    assert (len(entry), len(pack(entry))) == (217, 131)


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


@pytest.mark.redis
async def test_redis_holds_the_shorter_form(redis: RedisLog, client: Client) -> None:
    """What is appended is stored packed, and what is no entry as it is."""
    odd = LogRecord(2, T0, Op.APPEND, "user:ann", body=b"\x10odd")
    await append(redis, message(1, T0), odd)
    assert client.lrange(redis._keys[0].list("user:ann"), 0, -1) == [packed(T0, 1), b"\0\x10odd"]
    assert [entry for _, entry in await entries(redis)] == [records.log_entry(T0, body(1)), b"\x10odd"]
