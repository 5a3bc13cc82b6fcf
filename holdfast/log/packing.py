"""The form in which Redis keeps an entry: its members by their places, without what is the same in each.

| Bytes | |
|---|---|
| 1 | the mark: 16, and the flags below |
| 6 | the time, Unix ms, the highest byte first (`holdfast/log/lua/apply.lua` reads it too) |
| | id, `"`, sender, `"`, type, `"`, and all that follows `"data":` |

Flags: 1, the sender is null; 2, there is a cause, and it is the first 16 characters of the id, as it is of
what a client's message caused; 4, data is `{"text":"` … `"}`, and only what is between them is kept; 8, the
first 16 characters of the id are base64 (of a URL), kept as the 12 bytes that they mean. No 2 without 8.

Whatever begins with no mark is an entry as it is: JSON begins with none, so lists may hold both. A zero byte
stands before an entry that begins like a mark. More forms may come, each read by one version before another
writes it (docs/upgrading.md); the marks from 1 to 15 are free.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from typing import Final

MARK: Final = 16
NO_SENDER: Final = 1
CAUSED: Final = 2
TEXT: Final = 4
NAMED: Final = 8

PLAIN: Final = b"\0"
"""Stands before an entry that begins with a byte that might be a mark."""

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def _form(flags: int) -> bytes:
    """Return an entry's text with places for its time, id (in two parts), sender, type, data, and cause."""
    return b"".join(
        (
            b'"ts":%d,"id":"%b%b","from":',
            b"null%b" if flags & NO_SENDER else b'"%b"',
            b',"type":"%b","data":',
            b'{"text":"%b"}' if flags & TEXT else b"%b",
            b',"cause":"%b"' if flags & CAUSED else b"%.0b",
        )
    )


_FORMS: Final = {
    bytes((MARK | flags,)): _form(flags) for flags in range(16) if flags & NAMED or not flags & CAUSED
}


# One look at the head, whatever data holds: 1.3 µs to pack an entry of 220 bytes (1.7 of 4,100) and 0.75 to
# unpack it, to 135; of that the id's base64 is 4 bytes for 0.2 µs each way. A chain of `bytes.replace` takes
# 1.6 and 0.8 (12 of 4,100), to 168, for it must look for control bytes first; substitution by one expression
# takes 2.3 and 1.7.
_ENTRY: Final = re.compile(
    rb'"ts":([1-9]\d{0,13}),"id":"([\w-]{16})?([^"]*)",'
    rb'"from":(?:null|"([^"]*)"),"type":"([^"]*)","data":(.*)',
    re.DOTALL,
).fullmatch


def pack(entry: bytes) -> bytes:
    """Return how an entry is stored: never longer than it by more than a byte, and whatever it is."""
    found = _ENTRY(entry)
    if found is None:
        return PLAIN + entry if entry[:1] < b" " and entry else entry
    ts, name, id, sender, type, data = found.groups()  # noqa: A001
    mark = MARK
    if sender is None:
        mark |= NO_SENDER
        sender = b""
    if name is None:
        name = b""
    else:
        mark |= NAMED
        cause = b',"cause":"%b"' % name
        if data.endswith(cause):
            mark |= CAUSED
            data = data[: -len(cause)]
        name = a2b_base64(name.translate(_FROM_URL))
    if data.startswith(b'{"text":"') and data.endswith(b'"}') and len(data) > len(b'{"text":"}'):
        mark |= TEXT
        data = data[9:-2]
    return b'%c%b%b%b"%b"%b"%b' % (mark, int(ts).to_bytes(6, "big"), name, id, sender, type, data)


def unpack(stored: bytes) -> bytes:
    """Return the entry that is stored so; what has no form that is known here is returned as it is."""
    form = _FORMS.get(stored[:1])
    if form is None:
        return stored[1:] if stored[:1] == PLAIN else stored
    name, at = b"", 7
    if stored[0] & NAMED:
        name, at = b2a_base64(stored[7:19], newline=False).translate(_TO_URL), 19
    try:
        id, sender, type, data = stored[at:].split(b'"', 3)  # noqa: A001
    except ValueError:
        return stored
    return form % (int.from_bytes(stored[1:7], "big"), name, id, sender, type, data, name)
