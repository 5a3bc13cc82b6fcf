"""The dead letters: what could not be handled or delivered, and handling it again.

A letter is named by where it lies in the dead-letter topic, `PARTITION-OFFSET`. What it was and why it is
there is in its headers (`records.dead_headers`); its key and value are the original's.

A letter is handled again under a key of its own, made of the original's place and content, so that the same
original, retried twice, is one message: for as long as keys are remembered (`WINDOW_MS`) by the shard, and
after that by the marks that a retry leaves in the topic itself, one before (`BEGUN`) and one after (`DONE`).
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast import records
from holdfast.bus import span
from holdfast.channel import partition_of
from holdfast.errors import Reject, Retry
from holdfast.log.port import WINDOW_MS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.bus.port import Bus, Producer, Record
    from holdfast.clock import Clock

MAX_MARKS: Final = 100_000
"""Marks of retries that are remembered while the topic is read, at most; the oldest is forgotten."""

AT_ONCE: Final = 100
"""Letters retried at the same time."""

BEGUN: Final = "begun"
DONE: Final = "done"


class Letter(msgspec.Struct):
    """One dead letter. `at` (when it became one) and `retried` (0: never) are Unix ms.

    `topic`, `partition` and `offset` are where the original was, `what` its kind (`send`, `connect`, …),
    `state` is `dead`, `begun` (a retry whose end nobody knows) or `retried`.
    """

    id: str
    at: int
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    what: str
    key: str
    state: str = "dead"
    retried: int = 0


class Found(msgspec.Struct):
    """A letter with its original."""

    letter: Letter
    record: Record
    value: Any = None
    retry_key: str = ""


class DeadLetters:
    """Reads the dead-letter topic, and puts letters back on their way."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock

    async def newest(self, limit: int, *, reason: str = "") -> Sequence[Found]:
        """Return the newest `limit` letters (with this reason, if given), oldest first. Raises Retry.

        The whole topic is read; no more than the answer is kept.
        """
        scan = _Scan(limit, reason)
        await self._read(scan, await self._bus.ends("dead"))
        return scan.result()

    async def find(self, name: str) -> Found:
        """Return one letter. Raises Reject (`not_found`) where there is none of this name, and Retry."""
        partition, offset = _place(name, self._bus.partitions)
        start, end = (await self._bus.ends("dead"))[partition]
        scan = _Scan(1, only=offset)
        if start <= offset < end:
            await self._read(scan, {partition: (offset, end)})
        if not (found := scan.result()):
            raise Reject("not_found", f"there is no dead letter {name}")
        return found[0]

    async def _read(self, scan: _Scan, spans: Mapping[int, tuple[int, int]]) -> None:
        async for batch in span.read(self._bus, self._clock, "dead", spans):
            for record in batch:
                scan.add(record)

    async def retry(
        self, letters: Sequence[Found], producer: Producer, *, force: bool = False
    ) -> Mapping[str, str]:
        """Handle letters again, in the order given; return what became of each, by its name.

        `retried`; `skipped: why`, and nothing was written; or `unknown: why`: repeat it within 5 minutes.
        With `force`, a letter that was retried before, or of which that is unknown, is retried all the same:
        once its key is forgotten it then is a second message.
        """
        outcome: dict[str, str] = {}
        for start in range(0, len(letters), AT_ONCE):
            ready: list[tuple[Found, records.Inbound | records.Outbound]] = []
            for found in letters[start : start + AT_ONCE]:
                try:
                    if not force:
                        self._check(found.letter)
                    ready.append((found, again(found)))
                except Reject as reject:
                    outcome[found.letter.id] = f"skipped: {reject}"
            ready = await self._mark(producer, ready, BEGUN, outcome)
            ready = await self._put(producer, ready, outcome)
            for found, _ in await self._mark(producer, ready, DONE, outcome):
                outcome[found.letter.id] = "retried"
        return outcome

    def _check(self, letter: Letter) -> None:
        """Raise Reject where a retry might be a second message."""
        if letter.state == "retried":
            raise Reject("conflict", "it was retried before")
        if letter.state == BEGUN and self._clock.now_ms() - letter.retried > WINDOW_MS:
            raise Reject(
                "conflict",
                f"a retry was begun over {WINDOW_MS // 60_000} minutes ago, and nobody knows its outcome",
            )

    async def _put(
        self,
        producer: Producer,
        ready: Sequence[tuple[Found, records.Inbound | records.Outbound]],
        outcome: dict[str, str],
    ) -> list[tuple[Found, records.Inbound | records.Outbound]]:
        futures: list[asyncio.Future[int] | Exception] = []
        for found, record in ready:
            inbound = isinstance(record, records.Send | records.Request | records.SessionEvent)
            key = record.user if inbound else record.channel  # type: ignore[union-attr]
            topic = "inbound" if inbound else "outbound"
            partition = partition_of(key, self._bus.partitions)
            try:
                futures.append(
                    producer.produce(
                        topic,  # type: ignore[arg-type]
                        partition,
                        key.encode(),
                        records.encode(record),
                        (("retry", found.retry_key.encode()),),
                    )
                )
            except (Retry, Reject) as error:
                futures.append(error)
        return await _settled(ready, futures, outcome)

    async def _mark(
        self,
        producer: Producer,
        ready: Sequence[tuple[Found, records.Inbound | records.Outbound]],
        phase: str,
        outcome: dict[str, str],
    ) -> list[tuple[Found, records.Inbound | records.Outbound]]:
        futures: list[asyncio.Future[int] | Exception] = []
        for found, _ in ready:
            headers = (("retry", found.retry_key.encode()), ("phase", phase.encode()))
            try:
                futures.append(
                    producer.produce("dead", found.record.partition, found.record.key, None, headers)
                )
            except (Retry, Reject) as error:
                futures.append(error)
        return await _settled(ready, futures, outcome)


async def _settled(
    ready: Sequence[tuple[Found, records.Inbound | records.Outbound]],
    futures: Sequence[asyncio.Future[int] | Exception],
    outcome: dict[str, str],
) -> list[tuple[Found, records.Inbound | records.Outbound]]:
    """Wait for writes; return what was written, and say of the rest that nobody knows."""
    waiting = [future for future in futures if isinstance(future, asyncio.Future)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    by_future = dict(zip(waiting, results, strict=True))
    good = []
    for one, future in zip(ready, futures, strict=True):
        result = by_future[future] if isinstance(future, asyncio.Future) else future
        if isinstance(result, BaseException):
            outcome[one[0].letter.id] = f"unknown: {result}"
        else:
            good.append(one)
    return good


class _Scan:
    """Takes in the records of the topic; keeps the newest letters, and what marks say of them."""

    def __init__(self, limit: int, reason: str = "", only: int | None = None) -> None:
        self._limit = limit
        self._reason = reason
        self._only = only
        self._found: OrderedDict[int, OrderedDict[int, Found]] = OrderedDict()
        self._marks: OrderedDict[str, tuple[str, Record]] = OrderedDict()

    def add(self, record: Record) -> None:
        """Take in one record, in the order of its partition."""
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        if "phase" in headers:
            name = headers.get("retry", "")
            self._marks.pop(name, None)
            self._marks[name] = (headers["phase"], record)
            if len(self._marks) > MAX_MARKS:
                self._marks.popitem(last=False)
            return
        if self._only is not None and record.offset != self._only:
            return
        if self._reason and headers.get("reason") != self._reason:
            return
        of_partition = self._found.setdefault(record.partition, OrderedDict())
        of_partition[record.offset] = _found(record, headers)
        if len(of_partition) > self._limit:
            of_partition.popitem(last=False)

    def result(self) -> Sequence[Found]:
        """Return what was asked for, oldest first."""
        every = [found for of_partition in self._found.values() for found in of_partition.values()]
        every.sort(key=lambda found: (found.letter.at, found.record.partition, found.record.offset))
        for found in every:
            phase, mark = self._marks.get(found.retry_key, ("", found.record))
            # What came of a retry that failed has its key too: the marks before it are not about it.
            if phase and (not getattr(found.value, "retry", "") or mark.offset > found.record.offset):
                found.letter.state = "retried" if phase == DONE else BEGUN
                found.letter.retried = mark.ts
        return every[-self._limit :]


def _found(record: Record, headers: Mapping[str, str]) -> Found:
    topic = headers.get("topic", "")
    offset, partition = (int(headers.get(name, "-1")) for name in ("offset", "partition"))
    value = _decoded(topic, record.value)
    retry = getattr(value, "retry", "")
    name = retry or f"{topic}/{partition}/{offset}/{records.checksum(record.value or b''):08x}"
    letter = Letter(
        id=f"{record.partition}-{record.offset}",
        at=record.ts,
        reason=headers.get("reason", ""),
        detail=headers.get("detail", ""),
        topic=topic,
        partition=partition,
        offset=offset,
        what=_what(value),
        key=(record.key or b"").decode(errors="replace"),
    )
    return Found(letter, record, value, name)


def _decoded(topic: str, value: bytes | None) -> records.Inbound | records.Outbound | None:
    found: records.Inbound | records.Outbound
    try:
        if topic == "inbound":
            found = records.decode_inbound(value or b"")
        else:
            found = records.decode_outbound(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found


def _what(value: Any) -> str:
    if isinstance(value, records.SessionEvent):
        return value.kind
    return "unreadable" if value is None else type(value).__name__.lower()


def again(found: Found) -> records.Inbound | records.Outbound:
    """Return the record that handles a letter again. Raises Reject, saying why, for what cannot be."""
    value = found.value
    if value is None:
        raise Reject("bad_request", "the original cannot be read")
    if isinstance(value, records.Request | records.Reply):
        raise Reject("bad_request", "nobody waits for this answer any more: the client asks again")
    if isinstance(value, records.Send):
        return msgspec.structs.replace(value, retry=found.retry_key, node="", connection=0, frame=0)
    if isinstance(value, records.SessionEvent):
        return msgspec.structs.replace(value, retry=found.retry_key)
    if isinstance(value, records.Message):
        return records.Message(
            value.channel, _named(value.body, found.retry_key), found.retry_key, records.KEYED
        )
    assert isinstance(value, records.Member | records.UserGroup | records.Cursor | records.Revoke)
    return value


def _named(body: bytes, key: str) -> bytes:
    """Return a message's body with another id: the one it had may be another message's."""
    name = urlsafe_b64encode(hashlib.blake2b(key.encode(), digest_size=12, person=b"retry").digest()).decode()
    return b'"id":"%b"%b' % (name.encode(), body[body.index(b',"from":') :])


def original(found: Found) -> Any:
    """Return the original for people: its fields, with JSON as JSON; None where it cannot be read."""
    if found.value is None:
        return None
    shown = {"t": found.letter.what}
    for name in found.value.__struct_fields__:
        value = getattr(found.value, name)
        if name == "body":
            shown |= records.entry_members(value)
        elif isinstance(value, bytes):
            try:
                shown[name] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                shown[name] = value.decode(errors="replace")
        else:
            shown[name] = value
    return shown


def _place(name: str, partitions: int) -> tuple[int, int]:
    partition, _, offset = name.partition("-")
    if not (partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit()):
        raise Reject("bad_request", f"a dead letter is named PARTITION-OFFSET, as 3-17, not {name!r}")
    if int(partition) >= partitions:
        raise Reject("not_found", f"there is no dead letter {name}: partitions go from 0 to {partitions - 1}")
    return int(partition), int(offset)
