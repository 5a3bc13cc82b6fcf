"""The unit costs, where they follow from the code or from what was recorded."""

import msgspec
import pytest

from holdfast import records
from holdfast.capacity import costs
from holdfast.capacity.plan import Counts, Load, cores
from loadtest import straight
from loadtest.scaling import PICTURES, RECORD

DATA = msgspec.json.encode("x" * 126)
WIRE = 66
"""Bytes of TCP, IP and Ethernet around what is written at once."""


def _body():
    return records.message_body(id="a" * 22, sender="u1234567", type="chat.text", data=DATA)


def test_records_are_as_large_as_the_plan_says():
    """What Kafka holds of a message, and up to a quarter for keys, offsets and batches."""
    origin = ("access-0-abcdef12", 12345, 12345)
    send = records.Send(
        "u1234567", "client-1234", 12345, "a" * 22, "user:u7654321", "chat.text", DATA, 1763700000000,
        "sess-abcdefgh12", "web", *origin,
    )  # fmt: skip
    message = records.Message(
        "user:u7654321", _body(), "u1234567\0client-1234", 12345 * 1024, 123456789, origin, 1763700000000
    )
    for record, above in ((send, costs.KAFKA_INBOUND), (message, costs.KAFKA_OUTBOUND)):
        size = len(records.encode(record)) - len(DATA)
        assert size <= above <= size * 1.25


def test_frames_are_as_large_as_the_plan_says():
    """What goes over the wire to and from a client, and up to a third more."""
    send = msgspec.json.encode(
        {"t": "send", "id": 12345, "n": 12345, "to": "user:u7654321", "type": "chat.text", "data": ""}
    )
    ack = msgspec.json.encode({"t": "ack", "id": 12345, "message": "a" * 22})
    message = records.message_frame("user:u7654321", 12345, "3f9a0c21.12345", records.log_entry(1, _body()))
    for size, above in (
        (len(send), costs.FRAME_SEND),
        (len(ack), costs.FRAME_ACK),
        (len(message) - len(DATA), costs.FRAME_MESSAGE),
        (len(b'{"t":"ping"}'), costs.FRAME_PING),
    ):
        assert size + WIRE <= above <= (size + WIRE) * 4 / 3


def recorded(sweep: str, series: str) -> dict[int, float]:
    """Return what was measured, by point."""
    return straight.costs(straight.read(PICTURES / RECORD).sweeps[sweep], series)


def test_memory_is_what_was_measured():
    """Bytes do not depend on who else runs: the constants are close to the record in docs/pictures."""
    one, twenty = (recorded("channels", name)[10_000] for name in ("bytes 1", "bytes 20"))
    entry = (twenty - one) / 19
    payload = 120
    assert pytest.approx(entry - payload, rel=0.2) == costs.REDIS_ENTRY
    assert pytest.approx(one - entry, rel=0.3) == costs.REDIS_CHANNEL
    connections = recorded("connections", "redis bytes")
    assert pytest.approx(connections[max(connections)], rel=0.3) == costs.REDIS_CONNECTION
    kib = recorded("connections", "KiB")
    assert pytest.approx(kib[max(kib)], rel=0.2) == costs.ACCESS_MEMORY


@pytest.mark.parametrize("sweep", ["nodes", "partitions"])
@pytest.mark.parametrize("role", ["access", "logic", "dispatch", "redis", "kafka"])
def test_what_is_reckoned_is_what_was_measured(sweep, role):
    """The sum of unit costs is within a factor of two of what the sweep's clusters spent on a message."""
    load = Load(connections=2000, rate=2000.0, session=1e9, handler=0.0, replication=1)
    for x, measured in recorded(sweep, f"message {role}").items():
        nodes, partitions = (x, 12) if sweep == "nodes" else (1, x)
        reckoned = cores(load, Counts(nodes, 1, 1, 1, partitions, 1))[role] / load.rate * 1e6
        assert measured / 2 <= reckoned <= measured * 2, (x, measured, reckoned)


def test_every_cost_has_a_source():
    """inv 11: a number of which nobody knows where it is from says so."""
    known = {costs.PLANE, costs.BENCH, costs.SWEEP, costs.SIZES, costs.ASSUMED}
    assert {one.source for one in costs.TABLE} == known
    assert all(one > 0 for one in costs.TABLE)
