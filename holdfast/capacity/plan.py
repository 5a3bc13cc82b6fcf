"""The cluster that a load needs: the sum of the unit costs, and of what the parts cost each other.

Nodes and partitions cost each other something (every node beats to every partition), so what a part needs
grows with the other parts. `plan` begins with the least cluster and adds what is missing until nothing is:
that ends at the smallest cluster that is enough, and more of anything asked for never makes it smaller.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from holdfast.capacity import costs
from holdfast.settings import Access, Kafka

KIB, MIB, GIB = 1024, 1024**2, 1024**3

MOST: Final = 100_000
"""Processes of one kind above which a plan is refused: nobody has seen such a cluster."""

CALM: Final = 2
"""Partitions that each process of logic and dispatch, and each Redis master, is to have at least."""

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a cluster at its busiest; `checked` makes one."""

    connections: Count
    rate: NotNegative = 0.0
    """Messages a second that clients send, all together."""
    fan_out: NotNegative = 1.0
    """Connections that get each message, on average."""
    size: NotNegative = 128.0
    """Bytes of payload of a message."""
    session: Positive = 1800.0
    """Seconds that a connection lasts, on average: connections / session new ones come a second."""
    channels: NotNegative | None = None
    """Channels that Redis keeps; None: an inbox for each connection."""
    history: NotNegative = 20.0
    """Messages that a channel keeps, on average."""
    handler: NotNegative = 50.0
    """µs of CPU of a handler for a message."""
    headroom: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    """Share of each core, of Redis's memory and of a node's connections that stays free."""
    spare: Annotated[int, Meta(ge=0)] = 1
    """Processes of each service that may be gone at the same time."""
    node_connections: Count = Access().connections
    heartbeat: Positive = Access().heartbeat
    redis_memory: Positive = 16.0
    """GiB of one Redis master."""
    broker_cores: Positive = 4.0
    replication: Count = Kafka().replication
    retention: Positive = Kafka().retention_seconds / 86_400
    """Days that Kafka keeps inbound and outbound."""

    @property
    def connects(self) -> float:
        """New connections a second."""
        return self.connections / self.session

    @property
    def kept(self) -> float:
        """Channels in Redis."""
        return self.connections if self.channels is None else self.channels


class Counts(NamedTuple):
    """How many of each there are: processes, masters, partitions, brokers."""

    access: int
    logic: int
    dispatch: int
    redis: int
    partitions: int
    brokers: int


LEAST: Final = Counts(access=2, logic=2, dispatch=2, redis=1, partitions=Kafka().partitions, brokers=3)
"""Any of them may be gone: a master of Redis has replicas."""


class Plan(msgspec.Struct):
    """A cluster.

    `cores` are those at work of each role; `memory` of each and `disk` of Kafka are bytes; `network` is bits
    a second to and from the first of a link; `back`: seconds until all are back who were cut off at once.
    """

    counts: Counts
    cores: dict[str, float]
    memory: dict[str, float]
    disk: float
    network: dict[str, tuple[float, float]]
    back: float


def checked(**given: object) -> Load:
    """Return a load. Raises ValueError, which names what is wrong and how."""
    try:
        return msgspec.convert(given, Load)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = what[0].lower() + what[1:].replace("`int`", "a whole number").replace("`float`", "a number")
        raise ValueError(f"{where.rstrip('`')}: {what}" if where else what) from error


def alone(rate: float, processes: int) -> float:
    """Return how many of so many a second come to their processes alone: more come together."""
    return min(rate, processes * costs.TOGETHER)


def cores(load: Load, counts: Counts) -> dict[str, float]:
    """Return the cores at work of each role in a cluster of such a size."""
    pushes = load.rate * min(load.fan_out, counts.access)
    beats = counts.access * counts.partitions
    producing, fetching = alone(load.rate, counts.access), alone(load.rate, counts.dispatch)
    requests = producing + 2 * alone(load.rate, counts.logic) + fetching
    micros = {
        "access": load.connects * costs.ACCESS_ACCEPT
        + load.rate * costs.ACCESS_SEND
        + pushes * costs.ACCESS_PUSH
        + (load.rate * load.fan_out - pushes) * costs.ACCESS_DELIVERY
        + alone(load.rate + pushes, counts.access) * costs.ACCESS_ALONE
        + load.connections / load.heartbeat * costs.ACCESS_PING
        + counts.access * costs.PROCESS_IDLE
        + beats * costs.ACCESS_IDLE,
        "logic": load.connects * costs.LOGIC_SESSION
        + load.rate * (costs.LOGIC_MESSAGE + load.handler)
        + alone(load.rate, counts.logic) * costs.LOGIC_ALONE
        + counts.logic * costs.PROCESS_IDLE
        + counts.partitions * costs.LOGIC_IDLE,
        "dispatch": load.connects * costs.DISPATCH_SESSION
        + load.rate * costs.DISPATCH_MESSAGE
        + alone(load.rate, counts.dispatch) * costs.DISPATCH_ALONE
        + max(0.0, pushes - load.rate) * costs.DISPATCH_PUSH
        + counts.dispatch * costs.PROCESS_IDLE
        + counts.partitions * costs.DISPATCH_IDLE
        + beats * costs.DISPATCH_LINK,
        "redis": load.connects * costs.REDIS_SESSION
        + load.rate * costs.REDIS_MESSAGE
        + alone(load.rate, counts.redis) * costs.REDIS_ALONE
        + counts.partitions * costs.REDIS_IDLE
        + beats * costs.REDIS_BEAT,
        "kafka": load.replication
        * (
            load.connects * costs.KAFKA_SESSION
            + load.rate * costs.KAFKA_MESSAGE
            + requests * costs.KAFKA_ALONE
        ),
    }
    return {role: value / 1e6 for role, value in micros.items()}


def redis_bytes(load: Load) -> float:
    """Return what all masters hold."""
    channel = costs.REDIS_CHANNEL + load.history * (costs.REDIS_ENTRY + load.size)
    return load.kept * channel + load.connections * costs.REDIS_CONNECTION


def needs(load: Load, counts: Counts) -> Counts:
    """Return what a cluster of such a size would have to have of each: no less for a larger one."""
    free = 1 - load.headroom
    busy = {role: value / free for role, value in cores(load, counts).items()}
    held = load.connections / (load.node_connections * free)
    redis = max(busy["redis"], redis_bytes(load) / (load.redis_memory * GIB * free))
    shared = CALM * max(counts.logic, counts.dispatch, counts.redis)
    return Counts(
        access=math.ceil(max(busy["access"], held)) + load.spare,
        logic=math.ceil(busy["logic"]) + load.spare,
        dispatch=math.ceil(busy["dispatch"]) + load.spare,
        redis=math.ceil(redis),
        partitions=LEAST.partitions * 2 ** max(0, math.ceil(math.log2(shared / LEAST.partitions))),
        brokers=max(load.replication, math.ceil(busy["kafka"] / load.broker_cores)),
    )


def plan(load: Load) -> Plan:
    """Return the smallest cluster that bears a load. Raises ValueError where it is none of a known size."""
    counts = LEAST
    while (more := Counts(*map(max, counts, needs(load, counts)))) != counts:
        counts = more
        if max(counts) > MOST:
            raise ValueError(
                f"more than {MOST:,} of one kind would be needed: divide the load among several clusters"
            )
    held = load.connections * (costs.ACCESS_MEMORY + costs.ACCESS_KERNEL) * KIB
    memory = {
        "access": held + counts.access * costs.PROCESS_MEMORY * MIB,
        "logic": counts.logic * costs.PROCESS_MEMORY * MIB,
        "dispatch": counts.dispatch * costs.PROCESS_MEMORY * MIB,
        "redis": redis_bytes(load),
    }
    kafka = 2 * load.size + costs.KAFKA_INBOUND + costs.KAFKA_OUTBOUND
    return Plan(
        counts,
        cores(load, counts),
        memory,
        load.rate * kafka * load.retention * 86_400 * load.replication,
        network(load, counts),
        back(load, counts),
    )


def network(load: Load, counts: Counts) -> dict[str, tuple[float, float]]:
    """Return bits a second (to it, from it) of each link."""
    inbound, outbound = (load.size + above for above in (costs.KAFKA_INBOUND, costs.KAFKA_OUTBOUND))
    records = load.rate * (inbound + outbound)
    pings = load.connections / load.heartbeat * costs.FRAME_PING
    pushes = load.rate * min(load.fan_out, counts.access)
    links = {
        "access ⇄ clients": (
            load.rate * (load.size + costs.FRAME_SEND) + pings,
            load.rate * costs.FRAME_ACK
            + load.rate * load.fan_out * (load.size + costs.FRAME_MESSAGE)
            + pings,
        ),
        "Kafka ⇄ our services": (records, records),
        "Kafka ⇄ its replicas": ((load.replication - 1) * records,) * 2,
        "Redis ⇄ our services": (load.rate * outbound, 0.0),
        "access ⇄ dispatch": (pushes * outbound, 0.0),
    }
    return {name: (to * 8, out * 8) for name, (to, out) in links.items()}


def back(load: Load, counts: Counts) -> float:
    """Return the seconds in which all clients are back who were cut off at once: what takes longest."""
    let_in = max(0.0, load.connections / counts.access - Access().connect_burst) / Access().connect_rate
    return max(let_in, load.connections * _slowest(load, counts))


def _slowest(load: Load, counts: Counts) -> float:
    return max(
        costs.ACCESS_ACCEPT / counts.access / 1e6,
        costs.LOGIC_SESSION / counts.logic / 1e6,
        costs.DISPATCH_SESSION / counts.dispatch / 1e6,
        costs.REDIS_SESSION / counts.redis / 1e6,
        costs.KAFKA_SESSION * load.replication / (counts.brokers * load.broker_cores) / 1e6,
    )
