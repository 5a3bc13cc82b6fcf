"""An access node: holds the connections of its clients, and brings them what their channels get."""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import random
import secrets
import sys
from typing import TYPE_CHECKING, Any, Final

from holdfast.auth import Verifier
from holdfast.errors import Reject, Retry, Stop
from holdfast.log.port import WINDOW_MS, Change
from holdfast.membership.port import Node
from holdfast.nodelink.server import LinkServer
from holdfast.protocol.codes import CODES
from holdfast.protocol.connection import Bounds, Event, State
from holdfast.protocol.frames import Limits

from .beat import Beat
from .connects import Connecting
from .delivery import Delivery
from .drain import drain_connections
from .driver import Driver
from .grants import granted, may_send, policy_of
from .groups import Groups
from .joins import Joins
from .links import Links
from .listeners import listeners
from .produce import Produce
from .reader import Reader
from .registry import Channel, Registry
from .routes import Routes
from .sessions import Session
from .subscribes import Subscribes
from .timers import TimerWheel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.network import Server
    from holdfast.parts import Parts
    from holdfast.protocol.codec import Ended
    from holdfast.protocol.frames import Connect

MAX_LEAVING: Final = 100_000
"""Ended sessions whose disconnect is not durable yet, at most; above it no new ones are taken."""

REFUSED_SHARE: Final = 64
"""Connections above the bound that are open at once so that they can be told why."""

AWAY_SECONDS: Final = 1.0
"""A shard that could not be written for longer has no new sessions."""

_NAME_OF_CLOSE: Final = {code.close: code.name for code in CODES.values() if code.close is not None}

_log = logging.getLogger(__name__)


class AccessNode:
    """One node. Built from its parts; `worker` is its number among several processes that share the ports."""

    def __init__(self, parts: Parts, name: str, worker: int = 0) -> None:
        self.parts = parts
        self.settings = parts.settings
        self.clock = parts.clock
        self.metrics = parts.metrics
        self.name = name
        self.incarnation = f"{name}.{secrets.token_hex(6)}"
        self.policies = parts.settings.policies()
        self.random = random.Random()  # noqa: S311 - jitter
        access = parts.settings.access
        self.bounds = Bounds(access.rate, access.burst, access.in_flight, access.subscriptions)
        self.limits = Limits(
            access.frame, access.rate, access.in_flight, access.subscriptions, WINDOW_MS // 1000
        )
        self._worker = worker
        self._verifier = Verifier(parts.settings.auth)

        # Ticks are short enough for the shortest time that is set.
        shortest = min(access.heartbeat, access.handshake, access.aside, access.request_deadline)
        self.wheel = TimerWheel(self.clock, min(0.5, shortest / 8), self._tick)
        self.heartbeat_ticks = self.wheel.ticks(access.heartbeat)
        self.links = Links(self)
        self.reader = Reader(parts.log, self.clock, self.links.position)
        self.delivery = Delivery(self.reader, self.metrics, access.catch_up)
        self.routes = Routes(
            parts.log,
            self.clock,
            self.metrics,
            incarnation=self.incarnation,
            everything=self._everything,
            on_rewritten=self.links.rewritten,
        )
        self.registry = Registry(parts.log.partitions, self._new_channel, self._gone_channel)
        self.joins = Joins(
            registry=self.registry,
            routes=self.routes,
            reader=self.reader,
            delivery=self.delivery,
            clock=self.clock,
            catch_up=access.catch_up,
        )
        self.groups = Groups(self)
        self.subscribes = Subscribes(self)
        self.produce = Produce(parts.bus, self.clock, self.metrics, self.incarnation, access.request_deadline)
        self.beat = Beat(self)
        self.link_server = LinkServer(
            parts.network,
            parts.settings.process.host,
            parts.settings.nodelink.port and parts.settings.nodelink.port + worker,
            incarnation=self.incarnation,
            secret=parts.settings.nodelink.secret,
            metrics=self.metrics,
            on_push=self.links.push,
            on_lost=lambda _: None,
            clock=self.clock,
        )

        self.drivers: dict[int, Driver] = {}
        self.subscriptions = 0
        self.frames_in: collections.defaultdict[type, int] = collections.defaultdict(int)
        self.frames_out: collections.defaultdict[type, int] = collections.defaultdict(int)
        self.draining = False
        self._sessions = 0
        self._numbers = 0
        self._by_address: dict[str, int] = {}
        self._connecting: dict[str, list[Connecting]] = {}
        self._leaving: dict[str, Session] = {}
        self._servers: dict[str, Server] = {}
        self._drain: asyncio.Task[None] | None = None
        self._serving = False

    # life

    async def start(self) -> None:
        """Serve. Raises Stop, naming the setting, where it cannot."""
        if not self._verifier.has_keys:
            raise Stop("auth.secrets and auth.key_files are empty: no client could connect")
        await self.produce.start(self.settings.kafka.deadline)
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
        for listener in listeners(self.settings):
            try:
                self._servers[listener.name] = await self.parts.network.listen(
                    functools.partial(Driver, self, listener),
                    process.host,
                    listener.port,
                    reuse_port=process.workers > 1,
                )
            except OSError as error:
                raise Stop(
                    f"access.{listener.name}_port {listener.port}: {error.strerror or error}"
                ) from None
        self._serving = True
        await self._announce()

    async def stop(self) -> None:
        """Drain: ask clients to go, wait for them, close the rest, then leave nothing behind (inv 10)."""
        await self.drain()
        end = self.clock.monotonic() + 5.0
        while (self.produce.unfinished or not self.routes.idle) and self.clock.monotonic() < end:
            self.produce.tick()
            await self.clock.sleep(0.02)
        self.produce.tick()
        await self.produce.close()
        self.wheel.stop()
        await self.beat.stop()
        self.link_server.close()
        for part in (self.reader, self.links, self.routes):
            part.stop()
        self._count()
        try:
            await self.parts.directory.leave()
        except Retry as error:
            _log.warning("could not leave the membership: %s", error)

    def drain(self) -> asyncio.Task[None]:
        """Begin to drain, once; the task ends when no client is left."""
        if self._drain is None:
            self.draining = True
            self._drain = asyncio.get_running_loop().create_task(self._drain_all())
        return self._drain

    async def _drain_all(self) -> None:
        for server in self._servers.values():
            server.close()
        if self._serving:
            try:
                await self._announce()
            except Retry as error:
                _log.warning("could not tell that this node drains: %s", error)
        await drain_connections(self)

    def drain_after(self) -> float:
        """Return the seconds that a client is to wait before it reconnects."""
        return round(self.random.uniform(0, 1.0), 3)

    def problems(self) -> Sequence[str]:
        """Return why this node cannot serve; a Redis or Kafka that is away is no reason, all share it."""
        if self.draining:
            return ["draining"]
        return [] if self._serving else ["not started"]

    def details(self) -> dict[str, Any]:
        """Return ports and names, for the ready file."""
        return {
            "incarnation": self.incarnation,
            "nodelink": self.link_server.port,
            **{name: server.port for name, server in self._servers.items()},
        }

    async def _announce(self) -> None:
        process, access = self.settings.process, self.settings.access
        host = process.advertise or process.host
        if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
            host = "127.0.0.1"
        endpoints = {}
        for name, server in self._servers.items():
            if name == "websocket":
                built = f"ws://{host}:{server.port}{access.websocket_path}"
                endpoints[name] = access.endpoint_websocket or built
            else:
                endpoints[name] = access.endpoint_tcp or f"tcp://{host}:{server.port}"
        await self.parts.directory.join(
            Node(
                name=self.name,
                incarnation=self.incarnation,
                role="access",
                address=f"{host}:{self.link_server.port}",
                endpoints=endpoints,
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
        self._count()

    def _count(self) -> None:
        """Put what was counted in plain numbers into the metrics."""
        metrics = self.metrics
        for counted, metric in (
            (self.frames_in, metrics.access_frames_in),
            (self.frames_out, metrics.access_frames_out),
        ):
            for frame, count in counted.items():
                metric.labels(str(frame.__struct_config__.tag)).inc(count)  # type: ignore[attr-defined]
            counted.clear()
        metrics.access_sessions.set(self._sessions)
        metrics.access_channels.set(len(self.registry))
        metrics.access_subscriptions.set(self.subscriptions)

    # connections

    def opened(self, driver: Driver) -> bool:
        """Take a new connection; False: cut it, there are too many even to say so."""
        metrics, carrier = self.metrics, driver.carrier
        metrics.access_accepts.labels(carrier).inc()
        if len(self.drivers) >= self.settings.access.connections + REFUSED_SHARE:
            metrics.access_refused.labels("connections").inc()
            return False
        self._numbers += 1
        driver.number = self._numbers
        self.drivers[driver.number] = driver
        metrics.access_connections.labels(carrier).inc()
        return True

    def located(self, driver: Driver, address: str) -> str:
        """Take a connection's address; return why it is refused, or ""."""
        access = self.settings.access
        if len(self.drivers) > access.connections:
            return "connections"
        if access.per_address:
            count = self._by_address.get(address, 0)
            if count >= access.per_address:
                return "per_address"
            self._by_address[address] = count + 1
            driver.address = address
        return ""

    def closed(self, driver: Driver) -> None:
        """Forget a connection whose socket is gone."""
        if self.drivers.pop(driver.number, None) is None:
            return
        self.metrics.access_connections.labels(driver.carrier).dec()
        address = driver.address
        if address is not None:
            left = self._by_address[address] - 1
            if left:
                self._by_address[address] = left
            else:
                del self._by_address[address]

    def name_of_close(self, ended: Ended) -> str:
        """Return the name of a close, as metrics and handlers see it."""
        if ended.code in _NAME_OF_CLOSE:
            return _NAME_OF_CLOSE[ended.code]
        if ended.code < 1000:
            return "handshake"
        return "closed" if ended.by_peer else "violation"

    # sessions

    def connect(self, driver: Driver, frame: Connect) -> None:
        """Begin a session. Raises Reject with the code to refuse with."""
        claims = self._verifier.verify(frame.token, self.clock.now_ms())
        if self.draining:
            raise Reject("draining", "this node is leaving")
        inbox = f"user:{claims.sub}"
        policy_of(self.policies, inbox)
        if len(self._leaving) >= MAX_LEAVING:
            raise Reject("overloaded", "too many sessions have ended and could not be recorded; come back")
        identity = secrets.token_urlsafe(12)
        session = Session(
            id=identity,
            user=claims.sub,
            client=frame.client or identity,
            device=sys.intern((claims.device or frame.device)[:200]),
            since=self.clock.now_ms(),
            exp=claims.exp,
            iat=claims.iat,
            jti=claims.jti,
            channels=claims.channels,
        )
        if self.routes.away(self.registry.shard_of(inbox), AWAY_SECONDS):
            raise Reject("overloaded", "sessions cannot be recorded at the moment; come back")
        if frame.client:
            self._supersede(session)
        driver.session = session
        driver.connecting = connecting = Connecting(self, driver, frame)
        self._connecting.setdefault(session.user, []).append(connecting)

    def _supersede(self, session: Session) -> None:
        for other in self._drivers_of(session.user):
            if other.session is not None and other.session.client == session.client:
                reason = "a newer connection with this client exists"
                other.machine.signal(Event.ENDED, "superseded", reason)

    def connected(self, driver: Driver, connecting: Connecting) -> None:
        """Count a session that is recorded, and tell its handlers."""
        assert driver.session is not None
        self._forget_connecting(driver.session.user, connecting)
        self._sessions += 1
        driver.limit = 0
        driver.due = 0
        self.wheel.put(driver, self.wheel.tick + self.heartbeat_ticks)
        self.produce.event(driver.session, "connect")

    def gone(self, driver: Driver, reason: str) -> None:
        """End the session of a connection that was ended, whoever did it."""
        session, driver.session = driver.session, None
        self.metrics.access_closes.labels(reason).inc()
        if session is None:
            return
        connecting, driver.connecting = driver.connecting, None
        if connecting is not None:
            self._forget_connecting(session.user, connecting)
            connecting.abandon()
            self._remove(session)
            return
        self._sessions -= 1
        self._leaving[session.id] = session
        self.produce.event(session, "disconnect", reason, functools.partial(self._left, session))

    def _left(self, session: Session) -> None:
        """Its disconnect is durable: the entry, the outbox of its events, may go."""
        self._leaving.pop(session.id, None)
        self._remove(session)

    def _remove(self, session: Session) -> None:
        self.routes.change(
            self.registry.shard_of(session.inbox), Change("-s", session.user, session=session.id)
        )

    def refresh(self, driver: Driver, session: Session, token: str) -> None:
        """Take a newer token of the same user. Raises Reject(`unauthorized`)."""
        claims = self._verifier.verify(token, self.clock.now_ms())
        if claims.sub != session.user:
            raise Reject("unauthorized", "the token is another user's")
        session.exp, session.iat, session.channels = claims.exp, claims.iat, claims.channels
        if claims.jti != session.jti:
            self.groups.token_changed(driver, session, claims.jti)
        left = claims.exp - self.clock.now_ms() / 1000
        self.wheel.put(driver, self.wheel.tick + self.wheel.ticks(max(left, 0)))
        self.groups.look(session.user)

    def _forget_connecting(self, user: str, connecting: Connecting) -> None:
        those = self._connecting[user]
        those.remove(connecting)
        if not those:
            del self._connecting[user]

    def connecting_of(self, user: str) -> Sequence[Connecting]:
        """Return the connects of a user that are under way."""
        return self._connecting.get(user, ())

    def _drivers_of(self, user: str) -> list[Driver]:
        channel = self.registry.get(f"user:{user}")
        found = [connecting.driver for connecting in self.connecting_of(user)]
        if channel is not None:
            found += channel.drivers()
        return found

    def driver_of(self, user: str, session: str) -> Driver | None:
        """Return the connection of a session, or None."""
        for driver in self._drivers_of(user):
            if driver.session is not None and driver.session.id == session:
                return driver
        return None

    def is_leaving(self, session: str) -> bool:
        """Tell whether a session has ended here, and its end is not durable yet."""
        return session in self._leaving

    def open_drivers(self) -> list[Driver]:
        """Return the connections that are not ended."""
        return [driver for driver in self.drivers.values() if driver.machine.state is not State.CLOSED]

    # what users may do

    def may_send(self, session: Session, channel: str) -> bool:
        """Return whether the token itself allows it. Raises Reject where neither it nor the policy does."""
        policy, identity = policy_of(self.policies, channel)
        allowed = bool(session.channels) and granted(session.channels, channel)
        if not allowed and not may_send(policy, identity, session.user):
            raise Reject("forbidden", "this user may not send to this channel")
        return allowed

    def automatic(self, session: Session, channel: str) -> bool:
        """Tell whether a channel is subscribed because the user is a member."""
        policy = self.policies.get(channel.partition(":")[0])
        return policy is not None and policy.subscribe == "members" and not granted(session.channels, channel)

    # channels

    def _new_channel(self, channel: Channel) -> None:
        self.joins.route(channel)

    def _gone_channel(self, channel: Channel) -> None:
        self.routes.change(channel.shard, Change("-r", channel.name))

    def _everything(self, shard: int) -> Iterator[Change]:
        """Yield all that this node holds of a shard."""
        for channel in self.registry.of_shard(shard):
            yield Change("+r", channel.name)
        # In the order of their beginnings, since of two with the same client the later one supersedes.
        for session in self._leaving.values():
            if self.registry.shard_of(session.inbox) == shard:
                yield Change("+s", session.user, session.info(self.incarnation))
        for driver in self.drivers.values():
            held = driver.session
            if held is not None and self.registry.shard_of(held.inbox) == shard:
                yield Change("+s", held.user, held.info(self.incarnation))
