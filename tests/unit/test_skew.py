"""What two versions side by side say to each other: arrays grow at their end, what is new is passed over."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from holdfast import records
from holdfast.log import port
from holdfast.nodelink import frames

FIRST: Final[dict[type[msgspec.Struct], str]] = {
    records.Send: "user client n message to type data ts session device node connection frame granted retry",
    records.Request: "user client key type data ts session device node connection frame deadline",
    records.SessionEvent: "kind user session device client node ts reason retry",
    records.Message: "channel body source score content origin",
    records.Reply: "channel node connection deadline frame",
    records.Member: "channel user joined key",
    records.UserGroup: "channel group version epoch seq joined",
    records.Cursor: "channel user device seq epoch",
    records.Revoke: "channel before",
    records.StateRecord: "kind channel field version epoch seq present checksum",
    frames.Hello: "version dispatcher incarnation secret",
    frames.Welcome: "incarnation",
    frames.MessageItem: "channel epoch seq entry",
    frames.ReplyItem: "connection deadline frame",
    frames.ChangeItem: "channel what",
    frames.Push: "partition generation follows upto items",
    port.SessionInfo: "session node device since client jti seat",
}
"""Every array that travels or is kept, with the fields that its first version had. It only ever grows."""

VALUES: Final[dict[Any, Any]] = {str: "x", int: 7, bool: True, bytes: b"y", int | str: 3}


def made(kind: type[msgspec.Struct], names: list[str]) -> msgspec.Struct:
    """Return one with every one of these fields set, to what its type allows."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    special = {"origin": ("n", 1, "f"), "items": [frames.ChangeItem("user:a", "group")]}
    return kind(**{name: special[name] if name in special else VALUES[fields[name].type] for name in names})


@pytest.mark.parametrize("kind", list(FIRST), ids=lambda kind: kind.__name__)
def test_a_struct_only_grows_at_its_end(kind: type[msgspec.Struct]) -> None:
    """An earlier version's array decodes here, a later one's too: its fields stay, others have defaults."""
    first = FIRST[kind].split()
    fields = msgspec.structs.fields(kind)
    assert [field.name for field in fields][: len(first)] == first
    for added in fields[len(first) :]:
        assert not added.required, added.name

    value = made(kind, first)
    decode = msgspec.msgpack.Decoder(kind).decode
    whole = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    missing = len(fields) - len(first)
    assert decode(msgspec.msgpack.encode(whole[: len(whole) - missing])) == value
    assert decode(msgspec.msgpack.encode([*whole, "later", {"more": 1}])) == value


def test_every_array_is_known_here() -> None:
    """A new kind of record or frame has its fields written down above."""
    kinds = {
        kind
        for module in (records, frames)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not kind.__name__.startswith("_")
    }
    assert kinds <= set(FIRST)


def test_the_versions_are_those_that_upgrading_speaks_of() -> None:
    """Another number here is an upgrade that cannot be rolled: `docs/upgrading.md` must say so."""
    assert (frames.VERSION, port.FORMAT) == (1, 1)
