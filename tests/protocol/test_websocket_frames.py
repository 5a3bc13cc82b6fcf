"""Frames as bytes: masks, headers, close bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.websocket_frames import (
    apply_mask,
    close_payload,
    frame_binary,
    frame_text,
    header,
    valid_close_code,
)


@given(st.binary(max_size=5000), st.binary(min_size=4, max_size=4))
def test_mask_is_xor_at_any_length(data: bytes, mask: bytes) -> None:
    """A mask is XORed byte by byte, whichever of the two ways is taken."""
    assert apply_mask(data, mask) == bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


@pytest.mark.parametrize("size", [2047, 2048, 2049, 2050, 2051, 65_536])
def test_mask_at_the_change_of_method(size: int) -> None:
    """Both methods agree where one takes over from the other."""
    data = bytes(i * 7 & 255 for i in range(size))
    assert apply_mask(data, b"abcd") == bytes(byte ^ b"abcd"[i % 4] for i, byte in enumerate(data))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "8100"),
        (125, "817d"),
        (126, "817e007e"),
        (65_535, "817effff"),
        (65_536, "817f0000000000010000"),
    ],
)
def test_length_takes_the_shortest_form(size: int, expected: str) -> None:
    """A header's length is written in the shortest of its three forms."""
    assert header(0x81, size).hex() == expected


def test_frames_of_a_broadcast() -> None:
    """A framed broadcast is a header and the payload as it is (the examples of RFC 6455, section 5.7)."""
    assert frame_text(b"Hello") == bytes.fromhex("810548656c6c6f")
    assert frame_binary(bytes(256)) == bytes.fromhex("827e0100") + bytes(256)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4000, 4104, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    """These codes may stand in a close frame."""
    assert valid_close_code(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_codes_that_may_not_be_sent(code: int) -> None:
    """These may not, and we do not send them either."""
    assert not valid_close_code(code)
    if code != 1005:
        with pytest.raises(ValueError, match="may not be sent"):
            close_payload(code, "")


def test_long_reason_is_cut_between_characters() -> None:
    """A close body has 125 bytes at most and stays UTF-8."""
    body = close_payload(4100, "ä" * 100)
    assert len(body) == 124
    assert body[2:].decode() == "ä" * 61
