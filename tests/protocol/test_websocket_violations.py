"""Every way to break RFC 6455, and the close code it ends with; and what must not end anything."""

from __future__ import annotations

import pytest

from holdfast.protocol.codec import Ended
from holdfast.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from tests.protocol.pair import MASK, exchange, feed, opened, raw

LIMIT = 1000
EURO = "€".encode()

VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "unmasked": (raw(0x81, b"a", masked=False), 1002),
    "rsv1": (raw(0xC1, b"a"), 1002),
    "rsv2": (raw(0xA1, b"a"), 1002),
    "rsv3": (raw(0x91, b"a"), 1002),
    "rsv on ping": (raw(0xC9, b"a"), 1002),
    **{f"opcode {opcode}": (raw(0x80 | opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (raw(0x09), 1002),
    "fragmented close": (raw(0x08), 1002),
    "long ping": (raw(0x89, b"a" * 126), 1002),
    "long close": (raw(0x88, b"a" * 126), 1002),
    "continuation of nothing": (raw(0x80, b"a"), 1002),
    "continuation after the end": (raw(0x81, b"a") + raw(0x00, b"b"), 1002),
    "text inside text": (raw(0x01, b"a") + raw(0x81, b"b"), 1002),
    "fragment inside text": (raw(0x01, b"a") + raw(0x01, b"b"), 1002),
    "binary": (raw(0x82, b"a"), 1003),
    "binary fragment": (raw(0x02, b"a"), 1003),
    "16 bit for 125": (b"\x81\xfe\x00\x7d" + MASK, 1002),
    "64 bit for 65535": (b"\x81\xff" + (65_535).to_bytes(8, "big") + MASK, 1002),
    "64 bit for 5": (b"\x81\xff" + (5).to_bytes(8, "big") + MASK, 1002),
    "64 bit with high bit": (b"\x81\xff" + (1 << 63).to_bytes(8, "big") + MASK, 1002),
    "64 bit all ones": (b"\x81\xff" + b"\xff" * 8, 1002),
    "above the limit": (raw(0x81, b"a" * (LIMIT + 1)), 1009),
    "above the limit, announced": (b"\x81\xfe\xff\xff", 1009),
    "fragments above the limit": (raw(0x01, b"a" * LIMIT) + raw(0x00) + raw(0x80, b"b"), 1009),
    "bad text": (raw(0x81, b"\xff"), 1007),
    "cut text": (raw(0x81, EURO[:2]), 1007),
    "surrogate": (raw(0x81, b"\xed\xa0\x80"), 1007),
    "overlong": (raw(0x81, b"\xc0\xaf"), 1007),
    "above U+10FFFF": (raw(0x81, b"\xf4\x90\x80\x80"), 1007),
    "bad text in a fragment": (raw(0x01, b"ok") + raw(0x00, b"\xff"), 1007),
    "bad text across fragments": (raw(0x01, b"\xf4") + raw(0x00, b"\x90"), 1007),
    "cut text in fragments": (raw(0x01, EURO[:1]) + raw(0x80, EURO[1:2]), 1007),
    "close of one byte": (raw(0x88, b"\x03"), 1002),
    **{
        f"close {code}": (raw(0x88, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
    "close reason": (raw(0x88, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_violation(data: bytes, code: int, bytewise: bool) -> None:
    """inv 11: what breaks the RFC ends with its code; what was right before it arrives, nothing after."""
    _, server = opened(max_message=LIMIT)
    data = raw(0x81, b"before") + data + raw(0x81, b"after")
    chunks = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]
    messages, written = feed(server, chunks)
    assert [message for message in messages if message != b"a"] == [b"before"]
    assert server.ended is not None
    assert server.ended.code == code
    assert not server.ended.by_peer
    assert written[0] == 0x88
    assert int.from_bytes(written[2:4], "big") == code
    assert written[4:].decode() == server.ended.reason
    assert server.close(1000) == b""


@pytest.mark.parametrize(
    ("data", "needed"),
    [
        (raw(0x81, b"abc\xffdef"), 6 + 4),  # header, mask and the bad byte
        (raw(0x01, b"a\xf4\x90b") + raw(0x80), 6 + 3),
        (raw(0x82, b"abc"), 2),
        (raw(0x81, b"a" * 70_000), 10),
        (raw(0x89, b"a" * 126), 2),
    ],
)
def test_fails_as_soon_as_it_can(data: bytes, needed: int) -> None:
    """A violation is seen at the byte that makes it one, not at the end of the frame."""
    _, server = opened(max_message=LIMIT)
    server.receive(data[: needed - 1])
    assert server.ended is None
    server.receive(data[needed - 1 : needed])
    assert server.ended is not None


def test_text_for_msgpack_is_the_wrong_type() -> None:
    """A text message under the msgpack subprotocol ends with 1003."""
    _, server = opened(SUBPROTOCOL_MSGPACK)
    assert server.receive(raw(0x82, b"\xff")) == [b"\xff"]
    assert server.receive(raw(0x81, b"a")) == []
    assert server.ended is not None
    assert server.ended.code == 1003


def test_client_refuses_masked_frames() -> None:
    """A server that masks breaks the RFC."""
    client, _ = opened()
    client.receive(raw(0x81, b"a"))
    assert client.ended is not None
    assert client.ended.code == 1002


@pytest.mark.parametrize("where", range(len("κόσμε€𝄞".encode()) + 1))
def test_characters_split_anywhere(where: int) -> None:
    """Text may be cut inside a character: into fragments, and into reads."""
    text = "κόσμε€𝄞".encode()
    _, server = opened()
    assert server.receive(raw(0x01, text[:where]) + raw(0x89, b"?") + raw(0x80, text[where:])) == [text]
    assert server.take() == raw(0x8A, b"?", masked=False)
    whole = raw(0x81, text)
    assert feed(server, [whole[: 6 + where], whole[6 + where :]])[0] == [text]


@pytest.mark.parametrize(
    ("data", "messages", "answers"),
    [
        (raw(0x81), [b""], b""),
        (raw(0x01) + raw(0x00) + raw(0x80), [b""], b""),
        (raw(0x89), [], b"\x8a\x00"),
        (raw(0x89, b"x" * 125), [], b"\x8a\x7d" + b"x" * 125),
        (b"".join(raw(0x89, b"%d" % i) for i in range(3)), [], b"\x8a\x010\x8a\x011\x8a\x012"),
        (raw(0x8A, b"unasked"), [], b""),
        (raw(0x01, b"a") + raw(0x8A) + raw(0x00, b"b") + raw(0x89) + raw(0x80, b"c"), [b"abc"], b"\x8a\x00"),
        (raw(0x81, b"a" * LIMIT), [b"a" * LIMIT], b""),
        (raw(0x01, b"a" * (LIMIT - 1)) + raw(0x80, b"b"), [b"a" * (LIMIT - 1) + b"b"], b""),
    ],
)
def test_allowed(data: bytes, messages: list[bytes], answers: bytes) -> None:
    """Empty messages, pings anywhere, unasked pongs and messages of exactly the limit are fine."""
    for chunks in ([data], [data[i : i + 1] for i in range(len(data))]):
        _, server = opened(max_message=LIMIT)
        assert feed(server, chunks) == (messages, answers)
        assert server.open


def test_frame_limit_below_the_message_limit() -> None:
    """Each frame and the whole message have limits of their own."""
    _, server = opened(max_message=LIMIT, max_frame=100)
    assert server.receive(raw(0x01, b"a" * 100) + raw(0x80, b"b" * 100)) == [b"a" * 100 + b"b" * 100]
    server.receive(raw(0x81, b"a" * 101))
    assert server.ended is not None
    assert server.ended.code == 1009


def test_peer_closes() -> None:
    """A close is answered with its own code, and what follows it is ignored."""
    client, server = opened()
    server.receive(client.close(4321, "bye") + raw(0x81, b"late"))
    assert server.ended == Ended(4321, "bye", by_peer=True)
    assert not server.open
    exchange(client, server)
    assert client.ended == Ended(4321, "bye", by_peer=False)
    assert server.receive(raw(0x81, b"later")) == []
    assert server.take() == b""


def test_close_without_a_code() -> None:
    """A close frame without a body is answered by one without a body."""
    _, server = opened()
    server.receive(raw(0x88))
    assert server.ended == Ended(1005, "", by_peer=True)
    assert server.take() == b"\x88\x00"


def test_we_close() -> None:
    """After our close nothing is delivered, pings are answered; the peer's close ends it with our code."""
    client, server = opened(SUBPROTOCOL_JSON)
    data = server.close(4000, "draining")
    assert data == b"\x88\x0a\x0f\xa0draining"
    assert not server.open
    assert server.ended is None
    assert server.close(1000) == b""
    assert server.receive(client.wrap(b"too late") + raw(0x89, b"!")) == []
    assert server.take() == b"\x8a\x01!"
    client.receive(data)
    assert client.ended == Ended(4000, "draining", by_peer=True)
    exchange(client, server)
    assert server.ended == Ended(4000, "draining", by_peer=False)


def test_violation_after_our_close() -> None:
    """A peer that misbehaves after our close gets no second close frame."""
    _, server = opened()
    server.close(4100, "bad frame")
    server.receive(raw(0x83))
    assert server.ended == Ended(4100, "bad frame", by_peer=False)
    assert server.take() == b""


def test_both_close_at_once() -> None:
    """Crossing closes end both sides, each with its own code."""
    client, server = opened()
    ours, theirs = server.close(4000), client.close(1000)
    server.receive(theirs)
    client.receive(ours)
    assert (server.ended, client.ended) == (Ended(4000, "", by_peer=False), Ended(1000, "", by_peer=False))
    assert (server.take(), client.take()) == (b"", b"")


def test_own_ping_is_bounded() -> None:
    """We do not write what we would refuse."""
    client, server = opened()
    assert server.ping(b"x") == b"\x89\x01x"
    client.receive(server.ping(b"x"))
    assert server.receive(client.take()) == []
    with pytest.raises(ValueError, match="125"):
        client.ping(b"x" * 126)


def test_idle_codec_keeps_nothing() -> None:
    """inv 7: between messages a codec holds no buffer, however it was used before."""
    client, server = opened()
    payload = b"a" * 100_000
    data = client.wrap(payload)
    messages, _ = feed(server, [data[:50_000], data[50_000:], raw(0x01, b"x"), raw(0x80, b"y")])
    assert messages == [payload, b"xy"]
    assert server._buffer == b""
    assert server._partial is None
    assert not hasattr(server, "__dict__")
