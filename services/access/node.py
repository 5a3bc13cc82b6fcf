"""An access node: holds the connections of its clients, and brings them what their channels get."""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import random
from typing import TYPE_CHECKING, Any, Final

from holdfast import tls
from holdfast.bus import backlog
from holdfast.errors import Reject, Retry, Stop
from holdfast.log.port import WINDOW_MS, Change
from holdfast.membership.port import Node
from holdfast.nodelink.server import LinkServer
from holdfast.protocol.connection import Bounds, State
from holdfast.protocol.frames import Limits

from . import series
from .admission import Admission
from .beat import Beat
from .delivery import Delivery
from .drain import drain_connections
from .driver import Driver
from .durable import Durable
from .grants import granted, may_send, policy_of
from .groups import Groups
from .inflow import Inflow
from .joins import Joins
from .links import Links
from .listeners import listeners
from .outbox import Outbox
from .produce import Produce
from .reader import Reader
from .rebalance import Rebalance
from .registry import Channel, Registry
from .renew import new_incarnation, renew
from .rooms import RoomRates
from .roster import Roster
from .routes import Routes
from .subscribes import Subscribes
from .timers import TimerWheel
from .traces import Traces
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.network import Server
    from holdfast.parts import Parts
    from holdfast.policy import Policy

    from .sessions import Session

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

RECORD_SECONDS: Final = 5.0
"""Longest time to record, at the end of a drain, that the sessions have ended."""

_log = logging.getLogger(__name__)


class AccessNode:
    """One node. Built from its parts; `worker` is its number among several processes that share the ports."""

    def __init__(self, parts: Parts, name: str, worker: int = 0) -> None:
        self.parts = parts
        self.settings = parts.settings
        self.clock = parts.clock
        self.metrics = parts.metrics
        series.begin(self.metrics)
        self.name = name
        self.incarnation = new_incarnation(name)
        self.policies = parts.settings.policies()
        self.random = random.Random()  # noqa: S311 - jitter
        access = parts.settings.access
        self.bounds = Bounds(access.rate, access.burst, access.in_flight, access.subscriptions)
        self.limits = Limits(
            access.frame, access.rate, access.in_flight, access.subscriptions, WINDOW_MS // 1000
        )
        self._worker = worker

        # Ticks are short enough for the shortest time that is set.
        shortest = min(access.heartbeat, access.handshake, access.aside, access.request_deadline)
        self.wheel = TimerWheel(self.clock, min(0.5, shortest / 8), self._tick, self.metrics)
        self.heartbeat_ticks = self.wheel.ticks(access.heartbeat)
        self.admission = Admission(self)
        self.turns = Turns(self.clock, self.metrics)
        self.inflow = Inflow(self.metrics)
        self.roster = Roster(self)
        self.links = Links(self)
        self.reader = Reader(parts.log, self.clock, self.links, self.metrics, self.turns)
        self.outbox = Outbox()
        self.registry = Registry(parts.log.partitions, self._new_channel, self._gone_channel)
        self.traces: Traces | None = None
        if parts.tracing is not None:
            self.traces = Traces(parts.tracing, self.registry, self.clock, name)
        self.delivery = Delivery(self.reader, self.metrics, self.outbox.put, access.catch_up, self.traces)
        self.routes = Routes(
            parts.log,
            self.clock,
            self.metrics,
            self.turns,
            incarnation=self.incarnation,
            everything=self.roster.everything,
            on_rewritten=self.links.rewritten,
            on_fenced=self.fenced,
        )
        self.durable = Durable(parts.bus, self.clock, self.metrics)
        self.joins = Joins(
            registry=self.registry,
            routes=self.routes,
            reader=self.reader,
            delivery=self.delivery,
            durable=self.durable,
            clock=self.clock,
            catch_up=access.catch_up,
        )
        self.groups = Groups(self)
        self.subscribes = Subscribes(self)
        queue = (parts.bus, parts.settings.kafka, self.clock, self.metrics)
        self.inbound, self.outbound = backlog.of_inbound(*queue), backlog.of_outbound(*queue)
        self.produce = Produce(
            parts.bus,
            self.clock,
            self.metrics,
            self.incarnation,
            access.request_deadline,
            turns=self.turns,
            tracing=parts.tracing,
        )
        self.rooms = RoomRates(self.clock, self.metrics)
        self.beat = Beat(self)
        self.rebalance = Rebalance(self)
        self.link_server = LinkServer(
            parts.network,
            parts.settings.process.host,
            parts.settings.nodelink.port and parts.settings.nodelink.port + worker,
            incarnation=self.incarnation,
            secret=parts.settings.nodelink.secret,
            other_secret=parts.settings.nodelink.other_secret,
            metrics=self.metrics,
            on_push=self.links.push,
            on_lost=lambda _: None,
            clock=self.clock,
            trust=tls.nodelink_server(parts.settings.nodelink),
        )
        self._trust = tls.access_server(access)

        self.drivers: dict[int, Driver] = {}
        self.subscriptions = 0
        self.bytes_in = self.bytes_out = self.reads_put_off = 0
        self.frames_in: collections.defaultdict[type, int] = collections.defaultdict(int)
        self.frames_out: collections.defaultdict[type, int] = collections.defaultdict(int)
        self.draining = False
        self._servers: dict[str, Server] = {}
        self._drain: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._serving = False

    # life

    async def start(self) -> None:
        """Serve. Raises Stop, naming the setting, where it cannot."""
        verifier, auth = self.roster.verifier, self.settings.auth
        if verifier.problem and not auth.jwks_url:
            raise Stop(verifier.problem)
        verifier.start()
        self._warn()
        await self.produce.start(self.settings.kafka.deadline)
        self.inbound.start()
        self.outbound.start()
        await self.link_server.start()
        delay = 0.1
        while True:
            try:
                await self.beat.start()
                break
            except Retry as error:
                _log.warning("waiting for the log: %s", error)
                await self.clock.sleep(delay)
                delay = min(delay * 2, 5.0)
        self.wheel.start()
        process = self.settings.process
        secure = self._trust.context if self._trust is not None else None
        for listener in listeners(self.settings):
            try:
                self._servers[listener.name] = await self.parts.network.listen(
                    functools.partial(Driver, self, listener),
                    process.host,
                    listener.port,
                    reuse_port=process.workers > 1,
                    ssl=secure,
                    crowd=True,
                )
            except OSError as error:
                raise Stop(
                    f"access.{listener.name}_port {listener.port}: {error.strerror or error}"
                ) from None
        self._serving = True
        await self.announce()

    def _warn(self) -> None:
        nodelink = self.settings.nodelink
        if not (nodelink.secret or nodelink.tls_certificate or self.settings.process.host in LOOPBACK):
            _log.warning(
                "nodelink.secret and nodelink.tls_certificate are empty: whoever reaches the nodelink port "
                "can forge messages; only the network keeps strangers from it"
            )

    async def stop(self) -> None:
        """Drain: ask clients to go, wait for them, close the rest, then leave nothing behind (inv 10)."""
        await self.drain()
        self.produce.tick()
        await self.roster.verifier.stop()
        await self.produce.close()
        await self.inbound.stop()
        await self.outbound.stop()
        self.durable.stop()
        self.wheel.stop()
        await self.beat.stop()
        self.link_server.close()
        for part in (self.reader, self.links, self.routes):
            part.stop()
        if self._renewing is not None:
            self._renewing.cancel()
        self._count()

    def drain(self) -> asyncio.Task[None]:
        """Begin to drain, once; the task ends when no client is left, all is recorded, and others know."""
        if self._drain is None:
            self.draining = True
            self._drain = asyncio.get_running_loop().create_task(self._drain_all())
        return self._drain

    async def _drain_all(self) -> None:
        for server in self._servers.values():
            server.close()
        if self._serving:
            try:
                await self.announce()
            except Retry as error:
                _log.warning("could not tell that this node drains: %s", error)
        await drain_connections(self)
        end = self.clock.monotonic() + RECORD_SECONDS
        while not self._recorded and self.clock.monotonic() < end:
            self.produce.tick()
            await self.clock.sleep(0.02)
        try:
            await self.parts.directory.leave()
        except Retry as error:
            _log.warning("could not leave the membership: %s", error)

    @property
    def _recorded(self) -> bool:
        """Whether all that has ended is known to those who must know."""
        return not self.produce.unfinished and self.turns.idle and self.routes.idle

    def fenced(self, incarnation: str) -> None:
        """Take notice that an incarnation was found dead: if it is this node's, it begins again."""
        if incarnation == self.incarnation and not self.is_fenced:
            self._renewing = asyncio.get_running_loop().create_task(renew(self))

    @property
    def is_fenced(self) -> bool:
        """Whether this node is on its way from one incarnation to the next."""
        return self._renewing is not None and not self._renewing.done()

    def drain_after(self) -> float:
        """Return the seconds that a client is to wait before it reconnects."""
        return round(self.random.uniform(0, 1.0), 3)

    def problems(self) -> Sequence[str]:
        """Return why this node cannot serve; a Redis or Kafka that is away is no reason, all share it."""
        if self.draining:
            return ["draining"]
        if not self._serving:
            return ["not started"]
        return [self.roster.verifier.problem] if self.roster.verifier.problem else []

    def details(self) -> dict[str, Any]:
        """Return ports and names, for the ready file."""
        return {
            "incarnation": self.incarnation,
            "nodelink": self.link_server.port,
            **{name: server.port for name, server in self._servers.items()},
        }

    async def announce(self) -> None:
        """Tell where this node is, and whether it drains. Raises Retry."""
        process, access = self.settings.process, self.settings.access
        host = process.advertise or process.host
        if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
            host = "127.0.0.1"
        endpoints = {}
        s = "s" if self._trust is not None else ""
        for name, server in self._servers.items():
            if name == "websocket":
                built = f"ws{s}://{host}:{server.port}{access.websocket_path}"
                endpoints[name] = access.endpoint_websocket or built
            else:
                endpoints[name] = access.endpoint_tcp or f"tcp{s}://{host}:{server.port}"
        await self.parts.directory.join(
            Node(
                name=self.name,
                incarnation=self.incarnation,
                role="access",
                address=f"{host}:{self.link_server.port}",
                endpoints=endpoints,
                metrics=self.parts.metrics_address,
                region=process.region,
                draining=self.draining,
            )
        )

    # time

    def _tick(self) -> None:
        self.subscribes.tick()

    def second(self) -> None:
        """Do what is done once a second."""
        self.produce.tick()
        self.links.tick()
        self.rebalance.tick()
        self._count()

    def _count(self) -> None:
        """Put what was counted in plain numbers into the metrics."""
        metrics = self.metrics
        for counted, metric in (
            (self.frames_in, metrics.access_frames_in),
            (self.frames_out, metrics.access_frames_out),
        ):
            for frame, count in counted.items():
                metric.labels(series.tag(frame)).inc(count)
            counted.clear()
        metrics.access_bytes_in.inc(self.bytes_in)
        metrics.access_bytes_out.inc(self.bytes_out + self.delivery.fanout.bytes)
        self.bytes_in = self.bytes_out = self.delivery.fanout.bytes = 0
        metrics.access_reads_put_off.inc(self.reads_put_off)
        self.reads_put_off = 0
        metrics.access_sessions.set(self.roster.count)
        metrics.access_channels.set(len(self.registry))
        metrics.access_subscriptions.set(self.subscriptions)

    # connections

    def open_drivers(self) -> list[Driver]:
        """Return the connections that are not ended."""
        return [driver for driver in self.drivers.values() if driver.machine.state is not State.CLOSED]

    # what users may do

    def may_send(self, session: Session, channel: str) -> tuple[Policy, bool]:
        """Return the channel's policy, and whether the token itself allows the send.

        Raises Reject where neither the token nor the policy does.
        """
        policy, identity = policy_of(self.policies, channel)
        allowed = bool(session.channels) and granted(session.channels, channel)
        if not allowed and not may_send(policy, identity, session.user):
            raise Reject("forbidden", "this user may not send to this channel")
        return policy, allowed

    def automatic(self, session: Session, channel: str) -> bool:
        """Tell whether a channel is subscribed because the user is a member."""
        policy = self.policies.get(channel.partition(":")[0])
        return policy is not None and policy.subscribe == "members" and not granted(session.channels, channel)

    # channels

    def _new_channel(self, channel: Channel) -> None:
        self.joins.route(channel)

    def _gone_channel(self, channel: Channel) -> None:
        self.routes.change(channel.shard, Change("-r", channel.name))
