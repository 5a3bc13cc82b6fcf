"""The in-memory cluster: all three services, on a manual clock and a network of memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from holdfast import records
from holdfast.auth.issue import issue
from holdfast.channel import parse, partition_of
from holdfast.client import Client
from holdfast.clock import ManualClock
from holdfast.network import MemoryNetwork
from holdfast.settings import Settings
from holdfast.testing.driving import Driving
from holdfast.testing.peer import Peer
from holdfast.wiring import load_services

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.app import App
    from holdfast.observe.tracing import Tracing

_SECRET: Final = "a secret of tests, of no use anywhere else"  # noqa: S105
_START_LIMIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be handled: why, and what it was (a struct of `holdfast.records`)."""

    reason: str
    record: Any
    headers: dict[str, str]


class Cluster:
    """`async with Cluster(app) as cluster:` gives a whole cluster for one test; no port, no thread, no sleep.

    `access`, `logic`, `dispatch`: how many of each. `settings` replaces the defaults, `partitions` of the
    queue included. Time stands still but for what calls of `Peer` need, and for `advance`.
    """

    def __init__(
        self,
        app: App | None = None,
        *,
        access: int = 1,
        logic: int = 1,
        dispatch: int = 1,
        partitions: int = 4,
        settings: Settings | None = None,
        seed: int = 0,
        tracing: Tracing | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.network = MemoryNetwork()
        self._driving = Driving(self.clock)
        self._random = random.Random(seed)  # noqa: S311 - repeats from its seed, which is the point
        self._names = itertools.count(1)
        self._peers: list[Peer] = []
        embedded = load_services("embedded.cluster")
        base = settings or Settings()
        self.settings: Settings = embedded.ready_settings(
            base,
            secret=_SECRET,
            access={"websocket_port": 0, "tcp_port": 0},
            api={"port": 0, "keys": base.api.keys or ("test",)},
            kafka={"partitions": partitions, "replication": 1},
        )
        self.embedded: Any = embedded.Embedded(
            self.settings,
            app=app,
            access=access,
            logic=logic,
            dispatch=dispatch,
            network=self.network,
            clock=self.clock,
            tracing=tracing,
        )

    async def __aenter__(self) -> Self:
        await self._driving.run(self.embedded.start(), _START_LIMIT, "starting the cluster")
        await self._driving.run(self._until_serving(), _START_LIMIT, "the cluster getting ready")
        return self

    async def __aexit__(self, *exc: object) -> None:
        for peer in self._peers:
            await peer.client.close()
        await self.clock.settle()
        limit = self.settings.process.drain_seconds + _START_LIMIT
        await self._driving.run(self.embedded.stop(), limit, "stopping the cluster")

    async def _until_serving(self) -> None:
        while self.embedded.problems() or not self._all_partitions_owned():
            await self.clock.sleep(0.01)

    def _all_partitions_owned(self) -> bool:
        serving = {number for node in self.embedded.dispatch for number in node.details()["partitions"]}
        return len(serving) == self.settings.kafka.partitions

    # --- users ----------------------------------------------------------------------------------------

    def token(self, user: str, *, device: str = "", channels: Sequence[str] = (), ttl: float = 3600) -> str:
        """Return a token for a user, as POST /v1/tokens issues them."""
        now = self.clock.now_ms()
        return issue(self.settings.auth, user, now, device=device, channels=channels, ttl=ttl)[0]

    async def connect(
        self,
        user: str,
        *,
        device: str = "",
        channels: Sequence[str] = (),
        node: int = 0,
        carrier: str = "websocket",
        client: str | None = None,
    ) -> Peer:
        """Return a connected session of `user`, on the access node with this number, over this carrier."""
        endpoint = urlsplit(self.embedded.nodes()[node].endpoints[carrier])
        scheme = {"websocket": "ws"}.get(carrier, carrier)
        peer = Peer(
            user,
            Client(
                f"{scheme}://memory:{endpoint.port}{endpoint.path}",
                token=lambda: self.token(user, device=device, channels=channels),
                device=device,
                client=client or f"{user}-{next(self._names)}",
                network=self.network,
                clock=self.clock,
                random=random.Random(self._random.random()),  # noqa: S311
            ),
            self._driving,
        )
        self._peers.append(peer)
        await peer.connect()
        return peer

    # --- what the API does ----------------------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        type: str,  # noqa: A002 - the protocol's name
        data: Any = None,
        *,
        id: str | None = None,  # noqa: A002
        sender: str | None = None,
    ) -> str:
        """Publish to a channel as POST /v1/publish does; return the message's id once it is durable.

        The same `id` on one channel appears once. Raises Reject for a malformed channel.
        """
        parse(channel)
        name = id or f"test-{next(self._names)}"
        body = records.message_body(id=name, sender=sender, type=type, data=msgspec.json.encode(data))
        record = records.Message(channel, body, source=name, score=records.KEYED)
        await self._driving.run(self._produce(channel, record), _START_LIMIT, f"publishing to {channel}")
        return name

    async def _produce(self, channel: str, record: records.Message) -> None:
        producer = await self.embedded.parts().bus.producer(deadline=self.settings.kafka.deadline)
        partition = partition_of(channel, self.settings.kafka.partitions)
        try:
            await producer.produce("outbound", partition, channel.encode(), records.encode(record))
        finally:
            await producer.close()

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What could not be handled so far, oldest first."""
        found = []
        broker = self.embedded.broker
        for partition in range(broker.partitions):
            for record in broker.partition("dead", partition).records:
                headers = {name: value.decode(errors="replace") for name, value in record.headers}
                found.append(
                    (record.ts, DeadLetter(headers.get("reason", ""), _decoded(record.value), headers))
                )
        return [letter for _, letter in sorted(found, key=lambda pair: pair[0])]

    # --- time -----------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Move the cluster's time on; whatever is due by then happens in its order."""
        await self._driving.advance(seconds)

    async def settle(self) -> None:
        """Let everything happen that needs no time to pass."""
        for _ in range(10):
            await self.clock.settle()
            await asyncio.sleep(0)


def _decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    for decode in (records.decode_inbound, records.decode_outbound, json.loads):
        try:
            return decode(value)
        except (msgspec.MsgspecError, ValueError):
            continue
    return value
