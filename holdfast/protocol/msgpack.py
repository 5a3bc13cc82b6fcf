"""What msgpack needs beside its decoder: where one value of a message ends, and what JSON cannot say."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, Final

import msgspec

_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0,  # nil, false, true
    0xCA: 4, 0xCB: 8,  # floats
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,  # unsigned
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,  # signed
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,  # fixext, with its type byte
}  # fmt: skip
"""First byte -> bytes that follow it."""
_SIZED: Final = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),  # bin
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),  # ext, with its type byte
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),  # str
}  # fmt: skip
"""First byte -> (bytes of the length that follows, bytes beside that length)."""
_NESTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""First byte -> (bytes of the count that follows, values per item): arrays and maps."""

_LARGEST: Final = 2.0**1023
_SCALARS: Final = frozenset((str, int, bool, float, type(None)))
_KINDS: Final = _SCALARS | {list, dict}

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder().decode
_to_json: Final = msgspec.json.Encoder().encode
_from_json: Final = msgspec.json.Decoder().decode


def end_of_value(data: bytes, start: int) -> int:
    """Return where the value that begins at `start` ends. Raises ValueError when it is malformed."""
    size = len(data)
    position = start
    left = 1
    while left:
        if position >= size:
            raise ValueError("msgpack value is cut off")
        first = data[position]
        position += 1
        left -= 1
        if first < 0x80 or first >= 0xE0:
            continue
        if first < 0x90:
            left += 2 * (first & 15)
        elif first < 0xA0:
            left += first & 15
        elif first < 0xC0:
            position += first & 31
        elif first in _FIXED:
            position += _FIXED[first]
        elif first in _SIZED:
            width, extra = _SIZED[first]
            position += width + extra + int.from_bytes(data[position : position + width], "big")
        elif first in _NESTED:
            width, each = _NESTED[first]
            left += each * int.from_bytes(data[position : position + width], "big")
            position += width
        else:
            raise ValueError("msgpack has no such type")
    if position > size:
        raise ValueError("msgpack value is cut off")
    return position


class TooDeepError(ValueError):
    """More arrays and objects are inside each other than allowed."""


def data_to_json(raw: bytes, depth: int) -> bytes:
    """Return a msgpack value as compact JSON.

    Raises ValueError for what JSON cannot say (bin, ext, NaN, infinities, and keys that are no strings), and
    TooDeepError above `depth` arrays and maps inside each other.
    """
    value = _unpack(raw)
    # Level by level, not value by value: 64 KiB may hold as many values, and this is ten times as fast.
    level: list[Any] = [value]
    while True:
        kinds = set(map(type, level))
        if not kinds <= _KINDS:
            raise ValueError("data has a bin or ext value")
        if float in kinds and not all(map(math.isfinite, [item for item in level if type(item) is float])):
            raise ValueError("data has a number that is not finite")
        if kinds <= _SCALARS:
            return _to_json(value)
        depth -= 1
        if depth < 0:
            raise TooDeepError
        lists = [item for item in level if type(item) is list]
        maps = [item for item in level if type(item) is dict]
        if set(map(type, chain.from_iterable(maps))) - {str}:
            raise ValueError("data has a key that is no string")
        level = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, maps))]


def to_msgpack(json_frame: bytes) -> bytes:
    """Return an encoded JSON frame as msgpack, for clients that speak it: once per frame, not per client.

    Integers beyond 64 bits become floats, as a JavaScript client would read them.
    """
    value = _from_json(json_frame)
    try:
        return _pack(value)
    except OverflowError:
        return _pack(_without_big(value))


def _without_big(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_big(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_big(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < _LARGEST else (_LARGEST if value > 0 else -_LARGEST)
    return value
