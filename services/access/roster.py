"""The sessions of this node: begun by a `connect`, superseded, refreshed, ended, and looked up."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Final

from holdfast.auth.verify import make as make_verifier
from holdfast.errors import Reject
from holdfast.ids import random_id
from holdfast.log.port import Change
from holdfast.protocol.connection import Event

from . import journal
from .connects import Connecting
from .devices import Devices
from .due import lifetime
from .grants import policy_of
from .sessions import Session
from .timers import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.protocol.frames import Connect

    from .driver import Driver
    from .node import AccessNode

MAX_LEAVING: Final = 100_000
"""Ended sessions whose disconnect is not durable yet, at most; above it no new ones are taken."""

AWAY_SECONDS: Final = 1.0
"""A shard that could not be written for longer has no new sessions."""


class Roster:
    """Knows every session, the connects under way, and who is leaving. `count` is of sessions."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self.verifier = make_verifier(node.settings.auth, node.clock, node.metrics)
        self.count = 0
        self._devices = Devices(node.settings.access.devices)
        self._connecting: dict[str, list[Connecting]] = {}
        self._leaving: dict[str, Session] = {}
        self._untold: dict[str, int] = {}  # sessions whose `connect` is not durable, by their beginnings
        self._floor = 0
        self._journal = journal.wanted()

    def connect(self, driver: Driver, frame: Connect) -> None:
        """Begin a session. Raises Reject with the code to refuse with, Retry while its key is looked up."""
        claims = self.verifier.verify(frame.token, self._node.clock.now_ms())
        if self._node.draining:
            raise Reject("draining", "this node is leaving")
        if self._node.is_fenced:
            raise Reject("fenced", "this node was cut off and is starting over")
        inbox = f"user:{claims.sub}"
        policy_of(self._node.policies, inbox)
        if len(self._leaving) >= MAX_LEAVING:
            raise Reject("overloaded", "too many sessions have ended and could not be recorded; come back")
        identity = random_id()
        device = sys.intern((claims.device or frame.device)[:200])
        seat = self._devices.seat(device)
        if seat or frame.client:
            # Of two that exclude each other, which one began later must show.
            others = [other.session for other in self._drivers_of(claims.sub)]
            self._floor = max([self._floor, *(other.since + 1 for other in others if other is not None)])
        self._floor = max(self._node.clock.now_ms(), self._floor)  # the clock may go back, this may not
        session = Session(
            id=identity,
            user=claims.sub,
            client=frame.client or identity,
            device=device,
            since=self._floor,
            exp=claims.exp,
            iat=claims.iat,
            jti=claims.jti,
            channels=claims.channels,
            seat=seat,
        )
        if self._node.routes.away(self._node.registry.shard_of(inbox), AWAY_SECONDS):
            raise Reject("overloaded", "sessions cannot be recorded at the moment; come back")
        if frame.client:
            self._supersede(session)
        self._untold[session.id] = session.since
        driver.session = session
        driver.connecting = connecting = Connecting(self._node, driver, frame)
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
        self.count += 1
        driver.limit = driver.due = NEVER
        wheel = self._node.wheel
        left = wheel.ticks(max(lifetime(self._node, driver.session), 0.0))
        wheel.put(driver, wheel.tick + min(self._node.heartbeat_ticks, left))
        if self._journal:
            journal.began(driver.session.id, driver.carrier)
        told = functools.partial(self._untold.pop, driver.session.id, 0)
        self._node.produce.event(driver.session, "connect", done=told)

    def told(self) -> int:
        """Return a time (Unix ms): the `connect` of every session that began before it is durable."""
        if self._untold:
            return next(iter(self._untold.values()))
        self._floor = max(self._node.clock.now_ms(), self._floor + 1)
        return self._floor

    def gone(self, driver: Driver, reason: str) -> None:
        """End the session of a connection that was ended, whoever did it."""
        session, driver.session = driver.session, None
        self._node.metrics.access_closes.labels(reason).inc()
        if session is None:
            return
        if self._journal:
            journal.ended(session.id, reason)
        connecting, driver.connecting = driver.connecting, None
        if connecting is not None:
            self._forget_connecting(session.user, connecting)
            connecting.abandon()
            # Its entry may be there: until it is gone, whoever finds it is to tell its beginning, too.
            self._remove(session, functools.partial(self._unheard, session.id))
            return
        self.count -= 1
        self._leaving[session.id] = session
        self._node.produce.event(session, "disconnect", reason, functools.partial(self._left, session))

    def _left(self, session: Session) -> None:
        """Its disconnect is durable: the entry, the outbox of its events, may go."""
        self._leaving.pop(session.id, None)
        self._remove(session)

    def _unheard(self, session: str) -> None:
        self._untold.pop(session, None)

    def _remove(self, session: Session, done: Callable[[], None] | None = None) -> None:
        self._node.routes.change(
            self._node.registry.shard_of(session.inbox), Change("-s", session.user, session=session.id), done
        )

    def refresh(self, driver: Driver, session: Session, token: str) -> None:
        """Take a newer token of the same user. Raises Reject(`unauthorized`), Retry as `connect`."""
        claims = self.verifier.verify(token, self._node.clock.now_ms())
        if claims.sub != session.user:
            raise Reject("unauthorized", "the token is another user's")
        session.exp, session.iat, session.channels = claims.exp, claims.iat, claims.channels
        if claims.jti != session.jti:
            self._node.groups.token_changed(driver, session, claims.jti)
        left = claims.exp - self._node.clock.now_ms() / 1000
        self._node.wheel.put(driver, self._node.wheel.tick + self._node.wheel.ticks(max(left, 0)))
        self._node.groups.look(session.user)

    def _forget_connecting(self, user: str, connecting: Connecting) -> None:
        those = self._connecting[user]
        those.remove(connecting)
        if not those:
            del self._connecting[user]

    def connecting_of(self, user: str) -> Sequence[Connecting]:
        """Return the connects of a user that are under way."""
        return self._connecting.get(user, ())

    def _drivers_of(self, user: str) -> list[Driver]:
        channel = self._node.registry.get(f"user:{user}")
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

    def disown(self) -> None:
        """Leave the entries of ended sessions to whoever sweeps this incarnation; their events go on."""
        self._leaving.clear()

    def everything(self, shard: int) -> Iterator[Change]:
        """Yield all that this node holds of a shard."""
        for channel in self._node.registry.of_shard(shard):
            yield Change("+r", channel.name)
        for session in self._leaving.values():
            if self._node.registry.shard_of(session.inbox) == shard:
                yield Change("+s", session.user, session.ended(self._node.incarnation))
        for driver in self._node.drivers.values():
            held = driver.session
            if held is not None and self._node.registry.shard_of(held.inbox) == shard:
                yield Change("+s", held.user, held.info(self._node.incarnation))
