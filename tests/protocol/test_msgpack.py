"""Where a msgpack value ends, against msgspec as the oracle."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.msgpack import end_of_value

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=300)
    | st.binary(max_size=300) | st.builds(msgspec.msgpack.Ext, st.integers(0, 100), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=8), inner, max_size=20),
    max_leaves=40,
)  # fmt: skip


@given(values, st.binary(max_size=5))
def test_end_is_found(value: Any, rest: bytes) -> None:
    """A value ends where its encoding ends, whatever follows; one byte less is cut off."""
    data = msgspec.msgpack.encode(value)
    assert end_of_value(b"\xc0" + data + rest, 1) == 1 + len(data)
    with pytest.raises(ValueError, match="cut off"):
        end_of_value(data[:-1], 0)


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_every_width(size: int) -> None:
    """Lengths of every width are read."""
    for value in ("a" * size, b"a" * size, [0] * size, {str(i): 0 for i in range(size)}):
        data = msgspec.msgpack.encode(value)
        assert end_of_value(data, 0) == len(data)


@given(st.binary(max_size=40))
def test_no_disagreement(data: bytes) -> None:
    """What msgspec decodes as one value, ends at the end here too."""
    try:
        msgspec.msgpack.decode(data)
    except (ValueError, OverflowError):
        return
    assert end_of_value(data, 0) == len(data)
