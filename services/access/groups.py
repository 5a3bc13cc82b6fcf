"""What changes about a user while connected: groups joined and left, tokens revoked.

A change is only a hint to read the user's inbox again; the log decides. One read per user is in flight, and
one more follows when something changed meanwhile.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from holdfast.log.port import Query
from holdfast.protocol.connection import Event
from holdfast.protocol.frames import Subscribed, Unsubscribed

from .joins import Join

if TYPE_CHECKING:
    from holdfast.log.port import View

    from .driver import Driver
    from .node import AccessNode
    from .registry import Channel
    from .sessions import Session


class Groups:
    """Follows the groups and revocations of local users."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self._reading: dict[str, bool] = {}

    def look(self, user: str) -> None:
        """Read a user's groups and revocation again."""
        for connecting in self._node.roster.connecting_of(user):
            connecting.again = True
        name = f"user:{user}"
        channel = self._node.registry.get(name)
        if channel is None or (channel.live is None and channel.own is None):
            return
        if user in self._reading:
            self._reading[user] = True
            return
        self._reading[user] = False
        self._node.reader.read(channel.shard, Query(name, user=True), functools.partial(self._viewed, user))

    def token_changed(self, driver: Driver, session: Session, jti: str) -> None:
        """Follow the revocation of another token."""
        old = self._node.registry.get(f"token:{session.jti}")
        if old is not None and driver.has(old.name):
            driver.leave(old)
        session.jti = jti
        if jti and driver.mark_joining(f"token:{jti}"):
            self._node.joins.begin(
                Join(driver, self._node.registry.enter(f"token:{jti}"), self._token_joined)
            )

    def _token_joined(self, join: Join, view: View) -> None:
        driver, channel, session = join.driver, join.channel, join.driver.session
        driver.unmark_joining(channel.name)
        if view.revoked:
            driver.machine.signal(Event.ENDED, "unauthorized", "the token was revoked")
        elif session is not None and channel.name == f"token:{session.jti}":
            driver.enter(channel)
            self._node.delivery.settle(channel, driver, view.epoch, view.head)
        self._node.joins.over(join)

    def look_token(self, channel: Channel) -> None:
        """Read again whether a token was revoked."""
        self._node.reader.read(channel.shard, Query(channel.name), functools.partial(self._token, channel))

    def _token(self, channel: Channel, view: View) -> None:
        if view.revoked:
            for driver in channel.drivers():
                driver.machine.signal(Event.ENDED, "unauthorized", "the token was revoked")

    def _viewed(self, user: str, view: View) -> None:
        again = self._reading.pop(user)
        node = self._node
        channel = node.registry.get(f"user:{user}")
        if channel is None:
            return
        node.delivery.placed(channel, view)
        for driver in channel.drivers():
            self._compare(driver, view)
        if again:
            self.look(user)

    def _compare(self, driver: Driver, view: View) -> None:
        session, node = driver.session, self._node
        if session is None:
            return
        if session.revoked_by(view.revoked):
            driver.machine.signal(Event.ENDED, "unauthorized", "the token was revoked")
            return
        groups = {group.name: group for group in view.groups}
        for channel in driver.channels_list():
            if node.automatic(session, channel.name) and channel.name not in groups:
                driver.leave(channel)
                driver.answer(Unsubscribed(None, channel.name))
        for name, group in groups.items():
            if not driver.has(name) and driver.mark_joining(name):
                join = Join(
                    driver, node.registry.enter(name), self._joined, automatic=True, floor=group, fresh=True
                )
                node.joins.begin(join)

    def _joined(self, join: Join, view: View) -> None:
        driver, channel, node = join.driver, join.channel, self._node
        driver.unmark_joining(channel.name)
        if not driver.has(channel.name):
            start = node.joins.start(join, view)
            driver.answer(Subscribed(None, channel.name, start.epoch, start.seq, start.recovered))
            driver.enter(channel)
            node.delivery.settle(channel, driver, start.epoch, start.seq)
        node.joins.over(join)
        self.joined(driver)

    def joined(self, driver: Driver) -> None:
        """Look whether somebody who has just joined a group's channel is a member still.

        A change that came meanwhile was compared with channels of which this was not one yet.
        """
        if driver.session is not None:
            self.look(driver.session.user)
