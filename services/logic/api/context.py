"""What every call of the API works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.channel import parse, partition_of
from holdfast.errors import Reject
from holdfast.records import encode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from holdfast.auth import Claims
    from holdfast.bus.backlog import Backlog
    from holdfast.bus.port import Bus, Producer
    from holdfast.clock import Clock
    from holdfast.log.port import Log
    from holdfast.membership.port import Directory
    from holdfast.observe.metrics import Metrics
    from holdfast.observe.tracing import Span, Tracing
    from holdfast.policy import Policy
    from holdfast.records import Outbound
    from holdfast.settings import Settings
    from services.logic.reading import StoreReader


@dataclass(frozen=True, slots=True)
class Api:
    """The parts that calls use. `producer` is the API's own: its failures are not the handlers'."""

    settings: Settings
    policies: Mapping[str, Policy]
    clock: Clock
    log: Log
    directory: Directory
    metrics: Metrics
    reader: StoreReader
    producer: Producer
    bus: Bus
    outbound: Backlog
    alive: Callable[[str], bool]
    verify: Callable[[str, int], Claims]
    tracing: Tracing | None = None

    def check_channel(self, channel: str) -> None:
        """Raise Reject (`bad_channel`) unless this is a channel of a known kind."""
        kind, _ = parse(channel)
        if kind not in self.policies:
            raise Reject("bad_channel", f"there is no kind of channel named {kind!r}")

    def shard(self, channel: str) -> int:
        """Return the shard, which is the partition, of a channel."""
        return partition_of(channel, self.log.partitions)

    def produce(self, record: Outbound, span: Span | None = None) -> asyncio.Future[int]:
        """Put a record on its way to outbound. Raises Retry when the buffer is full, Reject if too large."""
        channel = record.channel
        headers = () if span is None else span.headers
        return self.producer.produce(
            "outbound", self.shard(channel), channel.encode(), encode(record), headers
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the parts of its path, its query, its body (as the route's types say), the token's claims.

    `trace` is its `traceparent`.
    """

    path: Mapping[str, str]
    query: Any
    body: Any
    claims: Claims | None = None
    trace: str = ""
