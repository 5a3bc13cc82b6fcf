"""From a record of the outbound topic to what the shard takes in. What cannot be taken in is named."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.channel import parse, partition_of
from holdfast.errors import Reject
from holdfast.log.port import LogRecord, Op
from holdfast.records import (
    KEYED,
    Cursor,
    Member,
    Message,
    Outbound,
    Reply,
    Revoke,
    UserGroup,
    decode_outbound,
    log_entry,
)

if TYPE_CHECKING:
    from holdfast.bus.port import Record

_EXACT: Final = 2**53
"""Numbers of the shard stay below this, so that Lua counts them exactly."""

_MALFORMED: Final = -1


@functools.lru_cache(maxsize=16_384)
def _home(channel: str, partitions: int) -> int:
    try:
        parse(channel)
    except Reject:
        return _MALFORMED
    return partition_of(channel, partitions)


def decode(record: Record, partitions: int) -> Outbound:
    """Return what a record says.

    Raises Reject for what no shard may take in: `poison`, `bad_channel`, `wrong_partition`, `bad_value`.
    These are reasons of dead letters, not codes of the client protocol.
    """
    if record.value is None:
        raise Reject("poison", "the record has no value")
    try:
        message: Outbound = decode_outbound(record.value)
    except msgspec.DecodeError as error:
        raise Reject("poison", str(error)) from None
    home = _home(message.channel, partitions)
    if home != record.partition:
        if home == _MALFORMED:
            raise Reject("bad_channel", "the channel's name is malformed or too long")
        raise Reject("wrong_partition", f"records of this channel belong to partition {home}")
    return message


def log_record(record: Record, message: Outbound) -> LogRecord:
    """Return what the shard is asked to do. Raises Reject(`bad_value`)."""
    kind = type(message)
    if kind is Message:
        assert isinstance(message, Message)
        if not KEYED <= message.score < _EXACT or not 0 <= message.content < _EXACT:
            raise Reject("bad_value", "score or content is out of range")
        if b"\n" in message.body:
            # Frames are separated by line ends: this one would break every subscriber's connection.
            raise Reject("bad_value", "the body is not on one line")
        return LogRecord(
            record.offset,
            record.ts,
            Op.APPEND,
            message.channel,
            message.source,
            message.score,
            message.content,
            log_entry(record.ts, message.body),
        )
    return _other(record, message)


def _other(record: Record, message: Outbound) -> LogRecord:
    offset, ts, channel = record.offset, record.ts, message.channel
    match message:
        case Reply():
            if b"\n" in message.frame:
                raise Reject("bad_value", "the frame is not on one line")
            return LogRecord(offset, ts, Op.PASS, channel)
        case Member():
            return LogRecord(offset, ts, Op.JOIN if message.joined else Op.LEAVE, channel, message.user)
        case UserGroup():
            _check(message.version, message.seq)
            return LogRecord(
                offset,
                ts,
                Op.GROUP,
                channel,
                message.group,
                message.version,
                int(message.joined),
                epoch=message.epoch,
                seq=message.seq,
            )
        case Cursor():
            _check(message.seq)
            source = f"{message.user}\0{message.device}"
            return LogRecord(offset, ts, Op.CURSOR, channel, source, message.seq, epoch=message.epoch)
        case Revoke():
            _check(message.before)
            return LogRecord(offset, ts, Op.REVOKE, channel, score=message.before)
    raise Reject("poison", "not a record of outbound")


def skipped(record: Record) -> LogRecord:
    """Return what stands for a record that is dead-lettered: only the watermark moves."""
    return LogRecord(record.offset, record.ts, Op.PASS, "")


def _check(*numbers: int) -> None:
    if not all(0 <= number < _EXACT for number in numbers):
        raise Reject("bad_value", "a number is out of range")
