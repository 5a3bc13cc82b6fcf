"""TCP framing: lengths, limits, cuts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.codec import Codec, Ended
from holdfast.protocol.length import LengthClient, LengthCodec, LengthServer
from tests.protocol.pair import cuts, feed, pieces


@given(st.lists(st.binary(max_size=300), max_size=10), cuts)
def test_round_trip(messages: list[bytes], places: list[int]) -> None:
    """Any messages arrive once and in order, in both directions, whatever the cut."""
    one: Codec = LengthClient(max_message=300)
    other: Codec = LengthServer(max_message=300)
    for writer, reader in ((one, other), (other, one)):
        assert feed(reader, pieces(b"".join(map(writer.wrap, messages)), places)) == (messages, b"")
        assert reader.open


def test_byte_by_byte() -> None:
    """A message of single bytes is kept until it is whole, and nothing afterwards (inv 7)."""
    codec = LengthServer(max_message=1000)
    data = codec.wrap(b"a" * 1000) + codec.wrap(b"") + codec.wrap(b"b")
    messages, _ = feed(codec, [data[i : i + 1] for i in range(len(data))])
    assert messages == [b"a" * 1000, b"", b"b"]
    assert codec._buffer == b""


def test_what_is_kept_grows_in_place() -> None:
    """inv 7: pieces of a large message are added to what is kept, not copied with it."""
    codec = LengthServer(max_message=1000)
    data = codec.wrap(b"a" * 1000)
    codec.receive(data[:10])
    codec.receive(data[10:20])
    kept = codec._buffer
    for start in range(20, 1000, 10):
        assert codec.receive(data[start : start + 10]) == []
        assert codec._buffer is kept
    assert codec.receive(data[1000:]) == [b"a" * 1000]


@pytest.mark.parametrize("bytewise", [False, True])
def test_too_large_for_the_server(bytewise: bool) -> None:
    """inv 11: a length above the limit ends the connection with an error that names code and close."""
    codec = LengthServer(max_message=10)
    data = codec.wrap(b"good") + codec.wrap(b"a" * 11) + codec.wrap(b"late")
    chunks = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]
    messages, written = feed(codec, chunks)
    assert messages == [b"good"]
    assert codec.ended == Ended(4101, "a frame is larger than limits.frame", by_peer=False)
    assert int.from_bytes(written[:4], "big") == len(written) - 4
    frame = msgspec.json.decode(written[4:])
    assert (frame["t"], frame["code"], frame["close"], frame["retry"]) == ("error", "too_large", 4101, False)


def test_refused_at_the_length() -> None:
    """inv 7: what is announced too large is refused before any of it is kept."""
    codec = LengthServer(max_message=10)
    codec.receive(b"\xff\xff\xff\xff")
    assert codec.ended is not None


def test_too_large_for_the_client() -> None:
    """A client just leaves."""
    codec = LengthClient(max_message=10)
    codec.receive(codec.wrap(b"a" * 11))
    assert codec.ended is not None
    assert codec.take() == b""


def test_close() -> None:
    """There is no closing handshake: the end is at once, and what still comes is ignored."""
    codec: LengthCodec = LengthServer(max_message=10)
    assert codec.close(4000, "draining") == b""
    assert codec.close(4001, "silent") == b""
    assert codec.ended == Ended(4000, "draining", by_peer=False)
    assert codec.receive(codec.wrap(b"late")) == []
    assert not codec.open
