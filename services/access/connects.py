"""`connect`: from a checked token to `connected`, without a task of its own.

The session and the inbox's route are recorded in one batch; then the inbox is read, which also says the
user's groups and revocations; then every group and every channel of `resume` is joined; then the client is
told, and gets what it missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import Reject
from holdfast.log.port import Change
from holdfast.protocol.connection import Event
from holdfast.protocol.frames import ChannelState, Connected, Error

from .admission import FULL
from .grants import check_subscribe
from .joins import Join, Start

if TYPE_CHECKING:
    from holdfast.log.port import Membership, View
    from holdfast.protocol.frames import Connect

    from .driver import Driver
    from .node import AccessNode
    from .registry import Channel


class Connecting:
    """One `connect` on its way."""

    __slots__ = ("_errors", "_inbox", "_left", "_node", "_resume", "_settled", "again", "driver")

    def __init__(self, node: AccessNode, driver: Driver, frame: Connect) -> None:
        self._node = node
        self.driver = driver
        self._resume = frame.resume
        self._left = 0
        self._settled: list[tuple[Channel, Start]] = []
        self._errors: list[Error] = []
        self.again = False
        session = driver.session
        assert session is not None
        # The route is asked for before the session: both go into the same batch, in this order.
        channel = node.registry.enter(session.inbox)
        self._inbox: Join | None = Join(
            driver,
            channel,
            self._inbox_read,
            since=self._resume.get(session.inbox),
            automatic=True,
            user=True,
        )
        node.routes.change(
            channel.shard, Change("+s", session.user, session.info(node.incarnation)), self._recorded
        )

    def _recorded(self) -> None:
        inbox = self._inbox
        assert inbox is not None
        self._inbox = None  # it holds this by its call
        self._node.joins.begin(inbox)

    def _inbox_read(self, join: Join, view: View) -> None:
        node, driver = self._node, self.driver
        session = driver.session
        assert session is not None
        if session.revoked_by(view.revoked):
            node.joins.over(join)
            driver.machine.signal(Event.ENDED, "unauthorized", "the token was revoked")
            return
        self._settled.append((join.channel, node.joins.start(join, view)))
        wanted: list[Join] = []
        groups = {group.name: group for group in view.groups}
        for name, group in groups.items():
            wanted.append(self._join(name, automatic=True, floor=group))
        if session.jti:
            wanted.append(Join(driver, node.registry.enter(f"token:{session.jti}"), self._token_read))
        limit = node.settings.access.subscriptions
        for name in self._resume:
            if name == session.inbox or name in groups:
                continue
            try:
                member = check_subscribe(node.policies, name, session.user, session.channels)
            except Reject as reject:
                self._refuse(name, reject)
                continue
            if driver.machine.subscriptions >= limit:
                self._refuse(name, Reject("too_many", f"{limit} channels are subscribed"))
                continue
            if node.admission.full(name):
                self._refuse(name, Reject("too_many", FULL), retry=True)
                continue
            driver.machine.subscriptions += 1
            wanted.append(self._join(name, member=member))
        self._left = len(wanted)
        if not wanted:
            self._done()
        for one in wanted:
            node.joins.begin(one)

    def _join(
        self, name: str, *, automatic: bool = False, member: bool = False, floor: Membership | None = None
    ) -> Join:
        return Join(
            self.driver,
            self._node.registry.enter(name),
            self._channel_read,
            since=self._resume.get(name),
            automatic=automatic,
            member=member,
            floor=floor,
        )

    def _channel_read(self, join: Join, view: View) -> None:
        session = self.driver.session
        assert session is not None
        name = join.channel.name
        if join.member and view.membership is None:
            self.driver.machine.released()
            self._node.joins.over(join)
            self._refuse(name, Reject("forbidden", "only members may subscribe to this channel"))
        else:
            self._settled.append((join.channel, self._node.joins.start(join, view)))
        self._one_less()

    def _token_read(self, join: Join, view: View) -> None:
        if view.revoked:
            self._node.joins.over(join)
            self.driver.machine.signal(Event.ENDED, "unauthorized", "the token was revoked")
            return
        self._settled.append((join.channel, Start(view.epoch, view.head, recovered=False)))
        self._one_less()

    def _refuse(self, name: str, reject: Reject, *, retry: bool = False) -> None:
        self._errors.append(Error(reject.code, str(reject), retry=retry, channel=name))

    def _one_less(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._done()

    def abandon(self) -> None:
        """Let go of what was joined: the connection ended before it was connected."""
        settled, self._settled = self._settled, []
        for channel, _ in settled:
            self._node.registry.left(channel)

    def _done(self) -> None:
        node, driver = self._node, self.driver
        session = driver.session
        if session is None:
            return
        settled, self._settled = self._settled, []
        driver.connecting = None
        node.roster.connected(driver, self)
        driver.answer(
            Connected(
                session.id,
                session.user,
                node.name,
                node.settings.access.heartbeat,
                {
                    channel.name: ChannelState(start.epoch, start.seq, start.recovered)
                    for channel, start in settled
                    if not channel.name.startswith("token:")
                },
                node.limits,
            )
        )
        for error in self._errors:
            driver.answer(error)
        for channel, start in settled:
            driver.enter(channel)
            node.delivery.settle(channel, driver, start.epoch, start.seq)
            node.registry.left(channel)
        driver.machine.signal(Event.ACCEPTED)
        if self.again:
            node.groups.look(session.user)
