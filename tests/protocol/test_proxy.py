"""PROXY protocol: what a balancer may put before a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Reject
from holdfast.protocol.proxy import MAX_HEADER, SIGNATURE, ProxyHeader, header
from tests.protocol.pair import cuts, pieces

TCP4 = bytes((192, 0, 2, 1, 198, 51, 100, 2)) + b"\xdc\x04\x01\xbb"
TCP6 = bytes(15) + b"\x01" + bytes(15) + b"\x02" + b"\x00\x50\x01\xbb"


def build(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + body


@pytest.mark.parametrize(
    ("data", "source", "destination"),
    [
        (build(0x21, 0x11, TCP4), ("192.0.2.1", 56_324), ("198.51.100.2", 443)),
        (build(0x21, 0x12, TCP4), ("192.0.2.1", 56_324), ("198.51.100.2", 443)),
        (build(0x21, 0x21, TCP6), ("::1", 80), ("::2", 443)),
        (build(0x21, 0x11, TCP4 + b"\x04\x00\x02ab"), ("192.0.2.1", 56_324), ("198.51.100.2", 443)),
        (build(0x20, 0x00, b""), None, None),
        (build(0x20, 0x11, TCP4), None, None),
        (build(0x20, 0x11, b""), None, None),
        (build(0x21, 0x00, b""), None, None),
        (build(0x21, 0x00, b"anything"), None, None),
        (build(0x21, 0x31, bytes(216)), None, None),
        (build(0x20, 0x00, bytes(MAX_HEADER - 16)), None, None),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ("192.0.2.1", 56_324), ("198.51.100.2", 443)),
        (b"PROXY TCP6 ::1 ::2 80 443\r\n", ("::1", 80), ("::2", 443)),
        (b"PROXY UNKNOWN\r\n", None, None),
        (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None, None),
    ],
)
def test_accepted(data: bytes, source: object, destination: object) -> None:
    """IPv4, IPv6, Unix, LOCAL and UNSPEC headers are read, TLVs skipped, and the rest is handed on."""
    for chunk in (len(data), 1):
        reader = ProxyHeader()
        rest = None
        for start in range(0, len(data), chunk):
            assert rest is None
            rest = reader.receive(data[start : start + chunk])
        assert rest == b""
        assert reader.done
        assert (reader.source, reader.destination) == (source, destination)
    assert ProxyHeader().receive(data + b"GET /") == b"GET /"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n",
        b"PROXY TCP4 192.0.2.1 ::1 56324 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.\xb2 198.51.100.2 56324 443\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * 93,
        b"PROXI",
        b"\r\n\r\n\0\r\nQUIX",
        build(0x11, 0x11, TCP4),
        build(0x22, 0x11, TCP4),
        build(0x21, 0x41, TCP4),
        build(0x21, 0x13, TCP4),
        build(0x21, 0x11, TCP4[:-1]),
        build(0x21, 0x21, TCP4),
        build(0x21, 0x31, TCP6),
        build(0x20, 0x00, b"", length=MAX_HEADER - 15),
        build(0x21, 0x11, b"", length=65_535),
    ],
)
def test_refused(data: bytes) -> None:
    """inv 11: anything else is refused as soon as it shows, whatever the cut."""
    with pytest.raises(Reject) as whole:
        ProxyHeader().receive(data)
    assert whole.value.code == "bad_frame"
    reader = ProxyHeader()
    with pytest.raises(Reject, match=str(whole.value)):
        _ = [reader.receive(bytes([byte])) for byte in data]


addresses = st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65_535))
addresses6 = st.tuples(st.ip_addresses(v=6).map(str), st.integers(0, 65_535))


@given(
    st.one_of(st.tuples(addresses, addresses), st.tuples(addresses6, addresses6)),
    st.binary(max_size=20),
    cuts,
)
def test_round_trip(pair: tuple[tuple[str, int], tuple[str, int]], rest: bytes, places: list[int]) -> None:
    """Any pair of addresses survives any cut, and not a byte behind the header is lost."""
    reader = ProxyHeader()
    found = b""
    for chunk in pieces(header(*pair) + rest, places):
        if reader.done:
            found += chunk
        else:
            found += reader.receive(chunk) or b""
    assert reader.done
    assert (reader.source, reader.destination) == pair
    assert found == rest
