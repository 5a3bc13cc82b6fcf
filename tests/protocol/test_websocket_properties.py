"""What holds for any messages, any fragmentation and any cut: found by search."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from tests.protocol.pair import cuts, feed, fragments, opened, pieces, raw

texts = st.one_of(st.text(max_size=200), st.integers(0, 5000).map("a€".__mul__)).map(str.encode)
controls = st.sampled_from([b"", raw(0x89, b"ping"), raw(0x8A, b"pong")])


@given(st.lists(texts, max_size=8), cuts)
def test_client_to_server(messages: list[bytes], places: list[int]) -> None:
    """Any messages of a client arrive once and in order, whatever the cut."""
    client, server = opened(SUBPROTOCOL_JSON)
    assert feed(server, pieces(b"".join(map(client.wrap, messages)), places)) == (messages, b"")
    assert server.open


@given(st.lists(st.binary(max_size=500), max_size=8), cuts)
def test_server_to_client(messages: list[bytes], places: list[int]) -> None:
    """Any messages of a server arrive once and in order, whatever the cut."""
    client, server = opened(SUBPROTOCOL_MSGPACK)
    assert feed(client, pieces(b"".join(map(server.wrap, messages)), places)) == (messages, b"")
    assert client.open


@given(st.lists(st.tuples(texts, cuts, controls), max_size=5), cuts)
def test_fragments(messages: list[tuple[bytes, list[int], bytes]], places: list[int]) -> None:
    """Messages arrive whole however they are fragmented, with control frames between the fragments."""
    _, server = opened()
    data = b"".join(control.join(fragments(text, where)) for text, where, control in messages)
    received, _ = feed(server, pieces(data, places))
    assert received == [text for text, _, _ in messages]
    assert server.open


@given(st.binary(max_size=60), cuts)
def test_utf8_as_python_sees_it(payload: bytes, where: list[int]) -> None:
    """Text is accepted exactly where it is UTF-8, in one frame or in fragments."""
    try:
        payload.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    for data in (raw(0x81, payload), b"".join(fragments(payload, where))):
        _, server = opened()
        assert server.receive(data) == ([payload] if valid else [])
        assert server.open is valid


frames = st.builds(
    raw,
    st.sampled_from([0x81, 0x81, 0x81, 0x01, 0x00, 0x80, 0x82, 0x89, 0x8A, 0x88, 0xC1, 0x83]),
    st.one_of(st.binary(max_size=8), texts, st.just(b"\x03\xe8")),
    masked=st.sampled_from([True, True, True, True, False]),
)


@settings(max_examples=300)
@given(st.lists(frames, max_size=8).map(b"".join), st.binary(max_size=8), cuts)
def test_the_cut_changes_nothing(data: bytes, garbage: bytes, places: list[int]) -> None:
    """inv 11: right or wrong, the result is the same in one read, in any reads, and byte by byte."""
    data += garbage
    results = []
    for chunks in ([data], pieces(data, places), [data[i : i + 1] for i in range(len(data))]):
        _, server = opened(max_message=3000)
        results.append((*feed(server, chunks), server.ended, server.open))
    assert results[0] == results[1] == results[2]
