"""What one of each thing costs: the one home of these numbers, each with the command that measured it.

They are from two busy cores (docs/performance.md and docs/capacity.md say how busy), rounded upwards: a
machine at rest, or a faster one, needs less. Measure on yours, and change them here. What is "assumed",
nobody measured.
"""

from __future__ import annotations

from typing import Final, Self

TABLE: Final[list[Cost]] = []

PLANE: Final = "make bench-plane"
BENCH: Final = "make bench"
SWEEP: Final = "make scaling"
SIZES: Final = "tests/capacity/test_costs.py"
ASSUMED: Final = "assumed"


class Cost(float):
    """A number that knows its unit, what it is of, and where it is from."""

    __slots__ = ("source", "unit", "what")
    unit: str
    what: str
    source: str

    def __new__(cls, value: float, unit: str, what: str, source: str) -> Self:
        """Return the number, which is in the table from now on."""
        made = super().__new__(cls, value)
        made.unit, made.what, made.source = unit, what, source
        TABLE.append(made)
        return made


TOGETHER: Final = Cost(1500, "1/s", "that come alone to a process; what is more comes with others", BENCH)
PROCESS_IDLE: Final = Cost(8000, "µs", "a process of ours: a second of being there", SWEEP)
PROCESS_MEMORY: Final = Cost(64, "MiB", "a process of ours: its memory when it has just begun", SWEEP)

ACCESS_ACCEPT: Final = Cost(142, "µs", "access: an accept, to `connected`", PLANE)
ACCESS_SEND: Final = Cost(20, "µs", "access: a client's send, to its ack", BENCH)
ACCESS_PUSH: Final = Cost(16, "µs", "access: a message from dispatch, with its first delivery", BENCH)
ACCESS_DELIVERY: Final = Cost(9.3, "µs", "access: each further delivery of it", PLANE)
ACCESS_ALONE: Final = Cost(130, "µs", "access: a send or a message that comes alone, above that", SWEEP)
ACCESS_PING: Final = Cost(20, "µs", "access: a ping and its answer", ASSUMED)
ACCESS_IDLE: Final = Cost(35, "µs", "access: a second of being there, for each partition", SWEEP)
ACCESS_MEMORY: Final = Cost(1.4, "KiB", "access: an idle connection", SWEEP)
ACCESS_KERNEL: Final = Cost(4, "KiB", "the kernel: an idle connection's socket", ASSUMED)

LOGIC_SESSION: Final = Cost(57, "µs", "logic: a session's connect, and its disconnect (as much again)", PLANE)
LOGIC_MESSAGE: Final = Cost(9, "µs", "logic: a message without its handler", BENCH)
LOGIC_ALONE: Final = Cost(170, "µs", "logic: one that comes alone, above that", BENCH)
LOGIC_IDLE: Final = Cost(55, "µs", "logic: a second of being there, for each partition", SWEEP)

DISPATCH_SESSION: Final = Cost(8, "µs", "dispatch: a session's connect, and its disconnect", PLANE)
DISPATCH_MESSAGE: Final = Cost(6, "µs", "dispatch: a message, to one node", BENCH)
DISPATCH_ALONE: Final = Cost(140, "µs", "dispatch: one that comes alone, above that", BENCH)
DISPATCH_PUSH: Final = Cost(10, "µs", "dispatch: a message to each further node", ASSUMED)
DISPATCH_IDLE: Final = Cost(126, "µs", "dispatch: a second of being there, for each partition", SWEEP)
DISPATCH_LINK: Final = Cost(7, "µs", "dispatch: the same, for each partition and access node", SWEEP)

REDIS_SESSION: Final = Cost(68, "µs", "Redis: a session and its route, and their end (as much again)", PLANE)
REDIS_MESSAGE: Final = Cost(16, "µs", "Redis: a message", BENCH)
REDIS_ALONE: Final = Cost(40, "µs", "Redis: one that comes alone, above that", BENCH)
REDIS_IDLE: Final = Cost(55, "µs", "Redis: a second of being there, for each partition", SWEEP)
REDIS_BEAT: Final = Cost(
    32, "µs", "Redis: a beat, of which each node sends one a second and partition", SWEEP
)
REDIS_CHANNEL: Final = Cost(600, "bytes", "Redis: a channel, but for its messages", SWEEP)
REDIS_ENTRY: Final = Cost(64, "bytes", "Redis: a message that a channel keeps, above its payload", SWEEP)
REDIS_CONNECTION: Final = Cost(600, "bytes", "Redis: a connection's session and route", SWEEP)

KAFKA_SESSION: Final = Cost(110, "µs", "Kafka: a session's two events, one replica", PLANE)
KAFKA_MESSAGE: Final = Cost(8, "µs", "Kafka: a message, in and out of both topics, one replica", BENCH)
KAFKA_ALONE: Final = Cost(
    55, "µs", "Kafka: each of its four requests that is for it alone, above that", BENCH
)
KAFKA_INBOUND: Final = Cost(160, "bytes", "a message's record in inbound, above its payload", SIZES)
KAFKA_OUTBOUND: Final = Cost(190, "bytes", "the same in outbound", SIZES)

FRAME_SEND: Final = Cost(180, "bytes", "a client's send above its payload, TCP and IP included", SIZES)
FRAME_ACK: Final = Cost(140, "bytes", "its ack, the same way", SIZES)
FRAME_MESSAGE: Final = Cost(230, "bytes", "a message's frame above its payload, the same way", SIZES)
FRAME_PING: Final = Cost(80, "bytes", "a ping, and its answer, the same way", SIZES)
