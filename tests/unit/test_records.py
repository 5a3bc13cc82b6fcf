"""Records keep what is put into them, and the log's entries become frames."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from holdfast import records

texts = st.text(max_size=20).filter(
    lambda text: not any("\ud800" <= character <= "\udfff" for character in text)
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    sender=st.none() | texts, type=texts, data=values, cause=texts, channel=texts, seq=st.integers(1, 2**53)
)
def test_an_entry_becomes_the_message_frame(sender, type, data, cause, channel, seq):
    """What the log keeps, with channel, seq and epoch before it, is the whole frame and valid JSON."""
    body = records.message_body(id="i", sender=sender, type=type, data=msgspec.json.encode(data), cause=cause)
    entry = records.log_entry(1_700_000_000_123, body)
    frame = json.loads(records.message_frame(channel, seq, "e.1", entry))
    expected = {"t": "message", "channel": channel, "seq": seq, "epoch": "e.1", "ts": 1_700_000_000_123}
    expected |= {"id": "i", "from": sender, "type": type, "data": data} | ({"cause": cause} if cause else {})
    assert frame == expected
    assert records.entry_ts(entry) == 1_700_000_000_123


@given(values)
def test_compact_json_is_one_line_and_the_same_value(value):
    """Pretty-printed data does not break frames that are separated by line ends."""
    compact = records.compact_json(json.dumps(value, indent=1).encode())
    assert b"\n" not in compact
    assert json.loads(compact) == value


def test_records_survive_kafka():
    """Each kind is told apart by its tag and comes back equal."""
    send = records.Send("u", "c", 7, "m", "room:x", "t", b"{}", 1, "s", "web", "n.1", 4, "f")
    event = records.SessionEvent("connect", "u", "s", "web", "c", "n.1", 1)
    assert records.decode_inbound(records.encode(send)) == send
    assert records.decode_inbound(records.encode(event)) == event
    message = records.Message("room:x", b'"id":"1"', "u\0c", 7168, 3, ("n.1", 4, "f"))
    assert records.decode_outbound(records.encode(message)) == message


def test_a_newer_version_may_add_fields_at_the_end():
    """Versions skewed by one understand each other: unknown is passed over, missing defaults."""
    raw = msgspec.msgpack.decode(records.encode(records.Message("room:x", b"1")))
    assert records.decode_outbound(msgspec.msgpack.encode([*raw, "new"])) == records.Message("room:x", b"1")
    assert records.decode_outbound(msgspec.msgpack.encode(raw[:3])) == records.Message("room:x", b"1")


_SENDS = st.tuples(texts, texts, st.integers(0, records.MAX_N))


@given(_SENDS, _SENDS)
def test_message_ids_tell_sends_apart(one, other):
    """The same (user, client, n) has the same id, another one has another."""
    if "\0" not in "".join((*one[:2], *other[:2])):
        assert (records.message_id(*one) == records.message_id(*other)) == (one == other)
