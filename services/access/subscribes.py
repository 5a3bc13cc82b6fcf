"""`subscribe` and `unsubscribe`, each answered within a deadline."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from holdfast.errors import Reject
from holdfast.protocol.frames import Error, Subscribed, Unsubscribed

from .admission import FULL
from .grants import check_subscribe
from .joins import Join

if TYPE_CHECKING:
    from holdfast.log.port import View
    from holdfast.protocol.frames import FrameId, Subscribe, Unsubscribe

    from .driver import Driver
    from .node import AccessNode


class _Asked(Join):
    """A join that a client asked for, by a frame with this id."""

    __slots__ = ("frame_id",)

    frame_id: FrameId


class Subscribes:
    """Carries out what clients ask. Asks that wait are bounded by each connection's subscriptions."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self._waiting: collections.deque[tuple[float, _Asked]] = collections.deque()

    def subscribe(self, driver: Driver, frame: Subscribe) -> None:
        """Begin to join a channel."""
        node, session, name = self._node, driver.session, frame.channel
        if session is None:
            return
        try:
            member = check_subscribe(node.policies, name, session.user, session.channels)
        except Reject as reject:
            self._refuse(driver, frame.id, name, reject.code, str(reject))
            return
        channel = node.registry.get(name)
        if channel is not None and driver.has(name):
            driver.machine.released()
            seq = channel.own[driver] if channel.own and driver in channel.own else channel.seq
            same = frame.since is not None and (frame.since.epoch, frame.since.seq) == (channel.epoch, seq)
            driver.answer(Subscribed(frame.id, name, channel.epoch, seq, same))
            return
        if node.admission.full(name):
            self._refuse(driver, frame.id, name, "too_many", FULL, retry=True)
            return
        if not driver.mark_joining(name):
            self._refuse(driver, frame.id, name, "bad_request", "a subscribe to this channel is under way")
            return
        join = _Asked(
            driver,
            node.registry.enter(name),
            self._viewed,
            since=frame.since,
            member=member,
        )
        join.frame_id = frame.id
        self._waiting.append((node.clock.monotonic() + node.settings.redis.timeout, join))
        node.joins.begin(join)

    def _viewed(self, join: Join, view: View) -> None:
        assert isinstance(join, _Asked)
        driver, channel, node = join.driver, join.channel, self._node
        driver.unmark_joining(channel.name)
        if join.member and view.membership is None:
            reason = "only members may subscribe to this channel"
            self._refuse(driver, join.frame_id, channel.name, "forbidden", reason)
        elif driver.has(channel.name):
            # The server subscribed it meanwhile, since the user joined the group.
            driver.machine.released()
            driver.answer(
                Subscribed(join.frame_id, channel.name, channel.epoch, channel.seq, recovered=False)
            )
        else:
            start = node.joins.start(join, view)
            driver.answer(Subscribed(join.frame_id, channel.name, start.epoch, start.seq, start.recovered))
            driver.enter(channel)
            node.delivery.settle(channel, driver, start.epoch, start.seq)
            if join.member:
                node.groups.joined(driver)
        node.joins.over(join)

    def tick(self) -> None:
        """Answer what waited too long: the log is away."""
        now = self._node.clock.monotonic()
        waiting = self._waiting
        while waiting and (waiting[0][1].done or waiting[0][0] <= now):
            _, join = waiting.popleft()
            if join.done:
                continue
            join.done = True  # its answer, when it comes, ends it
            driver = join.driver
            if driver.session is not None:
                driver.unmark_joining(join.channel.name)
                reason = "the log does not answer"
                self._refuse(driver, join.frame_id, join.channel.name, "unavailable", reason, retry=True)

    def unsubscribe(self, driver: Driver, frame: Unsubscribe) -> None:
        """Leave a channel that was asked for."""
        node, session = self._node, driver.session
        if session is None:
            return
        channel = node.registry.get(frame.channel)
        if channel is None or not driver.has(frame.channel):
            reason = "this channel is not subscribed"
            driver.answer(Error("bad_request", reason, retry=False, id=frame.id, channel=frame.channel))
        elif frame.channel == session.inbox or node.automatic(session, frame.channel):
            reason = "this subscription is not the client's to end"
            driver.answer(Error("forbidden", reason, retry=False, id=frame.id, channel=frame.channel))
        else:
            driver.leave(channel)
            driver.machine.released()
            driver.answer(Unsubscribed(frame.id, frame.channel))

    def _refuse(
        self, driver: Driver, frame_id: FrameId, channel: str, code: str, reason: str, *, retry: bool = False
    ) -> None:
        driver.machine.released()
        driver.answer(Error(code, reason, retry=retry, id=frame_id, channel=channel))
