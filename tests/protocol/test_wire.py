"""Wire formats: frames from messages and back, and every way in which a client can get one wrong."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol import frames as f
from holdfast.protocol.wire import JSON, MAX_DEPTH, MSGPACK, FrameError, Wire, to_msgpack, wire_of

pack = msgspec.msgpack.encode
SEND: dict[str, Any] = {
    "t": "send",
    "id": 3,
    "n": 17,
    "to": "user:bob",
    "type": "text",
    "data": {"text": "hi"},
}


def plain(frame: Any) -> dict[str, Any]:
    """Return a frame as JSON shows it."""
    value: dict[str, Any] = msgspec.json.decode(JSON.encode(frame))
    return value


def both(*values: Any) -> list[tuple[Wire, bytes]]:
    """Return values as a message in each format."""
    return [(JSON, b"\n".join(map(msgspec.json.encode, values))), (MSGPACK, b"".join(map(pack, values)))]


CLIENT: list[dict[str, Any]] = [
    {
        "t": "connect",
        "token": "x.y.z",
        "client": "c1",
        "device": "web",
        "resume": {"room:a": {"epoch": "e", "seq": 4}},
    },
    {"t": "subscribe", "id": "s", "channel": "room:a", "since": {"epoch": "e", "seq": 0}},
    {"t": "subscribe", "id": 1, "channel": "room:a"},
    {"t": "unsubscribe", "id": 2, "channel": "room:a"},
    SEND,
    {"t": "request", "id": 4, "type": "profile.get", "data": [1, 2.5, None, True, "ä", {"a": {}}]},
    {"t": "cursor", "channel": "user:bob", "seq": 9},
    {"t": "refresh", "id": 5, "token": "x.y.z"},
    {"t": "ping"},
    {"t": "pong"},
]


@pytest.mark.parametrize("frame", CLIENT, ids=lambda frame: str(frame["t"]))
def test_client_frames(frame: dict[str, Any]) -> None:
    """Every frame of a client is read alike from both formats, unknown fields ignored."""
    for wire, payload in both(frame | {"unknown": [1, {"x": None}]}):
        (found,) = wire.decode(payload)
        assert plain(found) == frame
    for wire in (JSON, MSGPACK):
        assert list(map(plain, wire.decode(wire.encode(found)))) == [frame]


def test_every_client_frame_is_in_the_table() -> None:
    """The table above misses none."""
    assert {kind.__struct_config__.tag for kind in get_args(f.ClientFrame)} == {
        frame["t"] for frame in CLIENT
    }


SERVER: list[f.ServerFrame] = [
    f.Connected(
        session="s", user="bob", node="n", heartbeat=25.0, limits=f.Limits(1, 2, 3, 4, 5),
        channels={"user:bob": f.ChannelState("e", 1, recovered=True)},
    ),
    f.Subscribed(id=None, channel="group:7", epoch="e", seq=1, recovered=False),
    f.Subscribed(id=1, channel="group:7", epoch="e", seq=1, recovered=False),
    f.Unsubscribed(id=None, channel="group:7"),
    f.Message(channel="room:a", seq=1, epoch="e", id="m", type="t", ts=1, data=[1], sender="b", cause="c"),
    f.Message(channel="room:a", seq=1, epoch="e", id="m", type="t", ts=1, data=None),
    f.Ack(id=1, message="m"),
    f.Reply(id="r", data=[1]),
    f.Refreshed(id=1),
    f.Error(code="unavailable", message="later", retry=2.5, id=1, channel="room:a", close=4000),
    f.Error(code="slow", message="m", retry=True),
    f.Reset(channel="room:a", epoch="e", seq=4, reason="expired"),
    f.Drain(after=1.5, endpoint="ws://x"),
    f.Ping(),
    f.Pong(),
]  # fmt: skip


@pytest.mark.parametrize("wire", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_server_frames(wire: Wire) -> None:
    """Every frame of a server survives both formats; several are one message."""
    assert {type(frame) for frame in SERVER} == set(get_args(f.ServerFrame))
    for frame in SERVER:
        assert wire.decode_server(wire.encode(frame)) == [frame]
    assert wire.decode_server(wire.encode_many(SERVER)) == SERVER


def test_from_is_null_where_the_api_sent() -> None:
    """`from` is there, as null, in a message from the API; `id` is there, as null, where nobody asked."""
    assert plain(SERVER[5])["from"] is None
    assert plain(SERVER[1])["id"] is None


@pytest.mark.parametrize("wire", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_client_skips_frames_of_the_future(wire: Wire) -> None:
    """A client leaves out what a newer server may say, and refuses what is malformed."""
    message = dict(both({"t": "ack", "id": 1, "message": "m"}, {"t": "new", "x": 1}, {"t": "ping"}))[wire]
    assert wire.decode_server(message) == [f.Ack(id=1, message="m"), f.Ping()]
    for bad in dict.fromkeys([b"\xc1", wire.join([message, b"\xc1"])]):
        with pytest.raises(FrameError) as error:
            wire.decode_server(bad)
        assert error.value.code == "bad_frame"
    for value in ([1], {"t": 5}, {}, {"t": "ack"}):
        with pytest.raises(FrameError):
            wire.decode_server(dict(both(value))[wire])


WRONG: list[tuple[Any, str, object]] = [
    ({}, "bad_frame", None),
    ([], "bad_frame", None),
    (None, "bad_frame", None),
    ("ping", "bad_frame", None),
    (7, "bad_frame", None),
    ({"id": 1}, "bad_frame", None),
    ({"t": 5, "id": 1}, "bad_frame", None),
    ({"t": None, "id": 1}, "bad_frame", None),
    ({"t": "dance"}, "unknown_frame", None),
    ({"t": "dance", "id": 9}, "unknown_frame", 9),
    ({"t": "ack", "id": 9, "message": "m"}, "unknown_frame", 9),
    ({"t": ""}, "unknown_frame", None),
    ({"t": "send", "id": "q"}, "bad_request", "q"),
    (SEND | {"n": "17"}, "bad_request", 3),
    (SEND | {"n": -1}, "bad_request", 3),
    (SEND | {"n": 2**44}, "bad_request", 3),
    (SEND | {"n": 1.5}, "bad_request", 3),
    (SEND | {"to": 4}, "bad_request", 3),
    (SEND | {"to": "r" * 201}, "bad_request", 3),
    (SEND | {"type": ""}, "bad_request", 3),
    (SEND | {"id": None}, "bad_request", None),
    (SEND | {"id": True}, "bad_request", None),
    (SEND | {"id": 2**53 + 1}, "bad_request", None),
    (SEND | {"id": "i" * 201}, "bad_request", None),
    ({"t": "subscribe", "id": 1, "channel": "a:b", "since": 4}, "bad_request", 1),
    ({"t": "cursor", "channel": "a:b", "seq": -1}, "bad_request", None),
    ({"t": "connect"}, "bad_request", None),
]


@pytest.mark.parametrize(("value", "code", "frame_id"), WRONG)
def test_wrong_frames(value: Any, code: str, frame_id: object) -> None:
    """inv 11: a wrong frame gets its code, with the id that the error answers; both formats agree."""
    for wire, payload in both(value):
        with pytest.raises(FrameError) as error:
            wire.decode(payload)
        assert (error.value.code, error.value.id) == (code, frame_id)
        assert str(error.value)
        assert error.value.results == [error.value]


def with_data(data: bytes) -> bytes:
    return b'{"t":"send","id":3,"n":1,"to":"a:b","type":"x","data":' + data + b"}"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "bad_frame"),
        (b"\n \r\n", "bad_frame"),
        (b"{", "bad_frame"),
        (b"ping", "bad_frame"),
        (b'{"t":"ping"}x', "bad_frame"),
        (b'\xef\xbb\xbf{"t":"ping"}', "bad_frame"),
        (b"\xff", "bad_frame"),
        (with_data(b"NaN"), "bad_frame"),
        (with_data(b"Infinity"), "bad_frame"),
        (with_data(b"-"), "bad_frame"),
        (with_data(b"01"), "bad_frame"),
        (with_data(b'"\\ud800"'), "bad_frame"),
        (with_data(b'"\\udc00x"'), "bad_frame"),
        (with_data(b'"\xff"'), "bad_frame"),
        (with_data(b'"\xed\xa0\x80"'), "bad_frame"),
        (with_data(b'"a\nb"'), "bad_frame"),
        (with_data(b"[1,]"), "bad_frame"),
        (with_data(b"{1:2}"), "bad_frame"),
        (with_data(b"1e400"), "bad_request"),
        (with_data(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)), "bad_frame"),
        (with_data(b'{"a":' * 30_000 + b"1" + b"}" * 30_000), "bad_frame"),
        (b"[" * 60_000, "bad_frame"),
        (b'{"t":' + b"[" * 60_000, "bad_frame"),
    ],
)
def test_wrong_json(payload: bytes, code: str) -> None:
    """inv 11: what is no JSON, or JSON that a reader may choke on, is refused where it comes in."""
    with pytest.raises(FrameError) as error:
        JSON.decode(payload)
    assert error.value.code == code


def test_depth_counts_no_brackets_in_strings() -> None:
    """Brackets inside strings nest nothing; MAX_DEPTH levels are allowed."""
    text = b'"' + b"[{" * 500 + b'\\"[[\\\\"'
    deep = b"[" * MAX_DEPTH + text + b"]" * MAX_DEPTH
    (frame,) = JSON.decode(with_data(deep))
    assert isinstance(frame, f.Send)
    assert bytes(frame.data) == deep
    (frame,) = MSGPACK.decode(to_msgpack(with_data(deep)))
    assert isinstance(frame, f.Send)
    assert bytes(frame.data) == deep
    for wire, payload in (
        (JSON, with_data(b"[%b]" % deep)),
        (MSGPACK, to_msgpack(with_data(b"[%b]" % deep))),
    ):
        with pytest.raises(FrameError, match=str(MAX_DEPTH)):
            wire.decode(payload)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc4\x01a", "bad_request"),  # bin
        (b"\x91\xc4\x00", "bad_request"),
        (b"\xd4\x05a", "bad_request"),  # ext
        (b"\xd6\xff\x00\x00\x00\x01", "bad_request"),  # a timestamp
        (b"\xca\x7f\xc0\x00\x00", "bad_request"),  # NaN
        (b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", "bad_request"),  # infinity
        (b"\x81\x01\x02", "bad_request"),  # an integer as key
        (b"\x81\xc4\x01a\x02", "bad_request"),  # bytes as key
        (b"\x81\xc0\x02", "bad_request"),
        (b"\xa1\xff", "bad_frame"),  # no UTF-8
        (b"\xa3\xed\xa0\x80", "bad_frame"),
        (b"\xc1", "bad_frame"),
        (b"\x92\x01", "bad_frame"),  # cut off
        (b"\xdd\xff\xff\xff\xff", "bad_frame"),
        (b"\x91" * 60_000 + b"\x01", "bad_frame"),
    ],
)
def test_wrong_msgpack_data(data: bytes, code: str) -> None:
    """inv 11: what JSON cannot say is refused, and names the frame where it can."""
    payload = pack({key: value for key, value in SEND.items() if key != "data"})
    payload = bytes([payload[0] + 1]) + payload[1:] + pack("data") + data
    for message in (payload, pack({"t": "ping"}) + payload):
        with pytest.raises(FrameError) as error:
            MSGPACK.decode(message)
        assert error.value.code == code
        assert error.value.id == (3 if code == "bad_request" else None)
        assert len(error.value.results) == (1 if message is payload else 2)


@pytest.mark.parametrize("payload", [b"", b"\x81\x01\x02", b"\x80\xc1", b"\x81", b"\xc1"])
def test_wrong_msgpack(payload: bytes) -> None:
    """What is no sequence of maps is a bad frame."""
    with pytest.raises(FrameError) as error:
        MSGPACK.decode(payload)
    assert error.value.code == "bad_frame"


def test_data_is_kept_as_it_came() -> None:
    """JSON data is not parsed and written again: numbers and escapes stay; only line ends become spaces."""
    (frame,) = JSON.decode(with_data(b'{"a":1.50e1,"b":12345678901234567890123,"c":"\\u00e4\\n"}'))
    assert isinstance(frame, f.Send)
    assert bytes(frame.data) == b'{"a":1.50e1,"b":12345678901234567890123,"c":"\\u00e4\\n"}'
    (frame,) = JSON.decode(with_data(b'[\n1,\r\n"\\n"\n]'))
    assert isinstance(frame, f.Send)
    assert bytes(frame.data) == b'[ 1,  "\\n" ]'


def test_data_may_be_missing() -> None:
    """Without `data` it is null, in both formats."""
    for wire, payload in both({key: value for key, value in SEND.items() if key != "data"}):
        (frame,) = wire.decode(payload)
        assert isinstance(frame, f.Send)
        assert bytes(frame.data) == b"null"


def test_blank_lines_and_one_frame_on_several_lines() -> None:
    """Blank lines are skipped, and a frame alone in its message may be written over several lines."""
    assert JSON.decode(b'\r\n{"t":"ping"}\r\n\n {"t":"pong"}\n') == [f.Ping(), f.Pong()]
    assert JSON.decode(b'{\n "t":\n "ping"\n}') == [f.Ping()]
    with pytest.raises(FrameError) as error:
        JSON.decode(b'{\n"t":"send",\n"id":8\n}')
    assert (error.value.code, error.value.id) == ("bad_request", 8)


def test_good_frames_around_bad_ones() -> None:
    """inv 11: nothing is lost around a bad frame: results are in order, up to the first bad_frame."""
    values: tuple[Any, ...] = (
        {"t": "ping"},
        {"t": "dance", "id": 1},
        SEND,
        {"t": "send", "id": 2},
        {"t": "pong"},
        [],
        {"t": "ping"},
    )
    for wire, payload in both(*values):
        with pytest.raises(FrameError) as error:
            wire.decode(payload)
        results = error.value.results
        assert error.value is results[1]
        assert [getattr(result, "code", type(result).__name__) for result in results] == [
            "Ping", "unknown_frame", "Send", "bad_request", "Pong", "bad_frame",
        ]  # fmt: skip
        assert isinstance(results[2], f.Send)
        assert bytes(results[2].data) == b'{"text":"hi"}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(json_values, min_size=1, max_size=4))
def test_data_round_trip(values: list[Any]) -> None:
    """Any JSON value comes through either format as the same JSON."""
    sends = [SEND | {"id": index, "data": value} for index, value in enumerate(values)]
    for wire, payload in both(*sends):
        frames = wire.decode(payload)
        assert [msgspec.json.decode(frame.data) for frame in frames if isinstance(frame, f.Send)] == values
        assert [frame.id for frame in frames if isinstance(frame, f.Send)] == list(range(len(values)))


@given(json_values)
def test_server_data_round_trip(value: Any) -> None:
    """A JSON frame made into msgpack says the same."""
    frame = f.Reply(id=1, data=value)
    assert (
        MSGPACK.decode_server(to_msgpack(JSON.encode(frame)))
        == JSON.decode_server(JSON.encode(frame))
        == [frame]
    )


def test_integers_beyond_64_bits_in_msgpack() -> None:
    """msgpack has no such integers: a client reads the nearest float."""
    frame = JSON.encode(f.Reply(id=1, data=[2**64, {"a": -(10**400)}, 2**64 - 1]))
    (reply,) = MSGPACK.decode_server(to_msgpack(frame))
    assert isinstance(reply, f.Reply)
    assert reply.data == [2.0**64, {"a": -(2.0**1023)}, 2**64 - 1]


@given(st.binary(max_size=60), st.sampled_from([JSON, MSGPACK]))
def test_any_bytes(payload: bytes, wire: Wire) -> None:
    """inv 11: any bytes are frames, or an error that says what is wrong."""
    try:
        assert wire.decode(payload)
    except FrameError as error:
        assert error.code in ("bad_frame", "unknown_frame", "bad_request")  # noqa: PT017


def test_wire_of() -> None:
    """The subprotocol chooses the format; without one it is JSON."""
    assert wire_of("") is wire_of(f.SUBPROTOCOL_JSON) is JSON
    assert wire_of(f.SUBPROTOCOL_MSGPACK) is MSGPACK
