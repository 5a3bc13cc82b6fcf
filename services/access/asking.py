"""What one client asks by its frames, once its state machine has let it through.

This half of `Host` asks other parts of the node; the other half, the driver, writes to the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast.errors import Reject, Retry
from holdfast.protocol.connection import Event
from holdfast.protocol.frames import Error, Refreshed

from .subscriber import Subscriber

if TYPE_CHECKING:
    from holdfast.protocol import frames
    from holdfast.protocol.connection import Connection
    from holdfast.protocol.frames import ServerFrame

    from .driver import Driver
    from .sessions import Session


class Asking(Subscriber):
    """See the module. `limit` is a tick of the wheel; `number` names the connection in the queue."""

    __slots__ = ("limit", "machine", "number", "session")

    limit: int
    machine: Connection
    number: int
    session: Session | None

    def answer(self, frame: ServerFrame) -> None:
        """See `Host`."""
        raise NotImplementedError

    def connect(self, frame: frames.Connect) -> None:
        """Begin a session, which has to be recorded within the time that the log has."""
        node, driver = self._node, cast("Driver", self)
        if len(node.registry) >= node.settings.access.channels:
            node.metrics.access_refused.labels("channels").inc()
            self.machine.signal(Event.ENDED, "overloaded", "this node has all the channels it can serve")
            return
        wheel = node.wheel
        self.limit = min(self.limit, wheel.tick + wheel.ticks(node.settings.redis.timeout))
        wheel.put(driver, self.limit)
        try:
            node.roster.connect(driver, frame)
        except Reject as reject:
            node.metrics.access_refused.labels(reject.code).inc()
            self.machine.signal(Event.ENDED, reject.code, str(reject))
        except Retry as retry:
            node.metrics.access_refused.labels("key").inc()
            self.machine.signal(Event.ENDED, "overloaded", str(retry))

    def subscribe(self, frame: frames.Subscribe) -> None:
        """See `Host`."""
        self._node.subscribes.subscribe(cast("Driver", self), frame)

    def unsubscribe(self, frame: frames.Unsubscribe) -> None:
        """See `Host`."""
        self._node.subscribes.unsubscribe(cast("Driver", self), frame)

    def publish(self, frame: frames.Send) -> None:
        """Put a send into the queue. Raises Reject and Retry."""
        node, session = self._node, self.session
        assert session is not None
        policy, granted = node.may_send(session, frame.to)
        if node.inbound.full:
            node.inbound.check(session.user)
        if node.outbound.full:
            # Nobody knows yet what a handler will make of it; most of it goes where the send goes.
            node.outbound.check(frame.to)
        if policy.rate:
            nodes = max(1, len(node.parts.directory.nodes("access")))
            node.rooms.take(frame.to, policy.rate / nodes, granted=granted)
        node.produce.send(self, session, frame, granted=granted)

    def ask(self, frame: frames.Request) -> float:
        """Put a request into the queue; return its deadline. Raises Retry."""
        node, session = self._node, self.session
        assert session is not None
        if node.inbound.full:
            node.inbound.check(session.user)
        seconds = node.settings.access.request_deadline
        deadline = node.clock.monotonic() + seconds
        node.produce.request(self, session, frame, deadline)
        node.wheel.put(cast("Driver", self), node.wheel.tick + node.wheel.ticks(seconds))
        return deadline

    def cursor(self, frame: frames.Cursor) -> None:
        """Keep a cursor on a channel that is subscribed."""
        node, session = self._node, self.session
        channel = node.registry.get(frame.channel) if self.has(frame.channel) else None
        if channel is None or session is None:
            reason = "this channel is not subscribed"
            self.answer(Error("forbidden", reason, retry=False, channel=frame.channel))
        elif frame.seq > channel.seq:
            reason = f"the channel's head is {channel.seq}"
            self.answer(Error("bad_request", reason, retry=False, channel=frame.channel))
        elif channel.epoch:
            node.produce.cursor(channel.name, session, frame.seq, channel.epoch)

    def refresh(self, frame: frames.Refresh) -> None:
        """Take a newer token; a wrong one ends the connection."""
        assert self.session is not None
        try:
            self._node.roster.refresh(cast("Driver", self), self.session, frame.token)
        except Reject as reject:
            self.machine.signal(Event.ENDED, reject.code, str(reject))
        except Retry as retry:
            self.answer(Error("unavailable", str(retry), retry=retry.after or True, id=frame.id))
        else:
            self.answer(Refreshed(frame.id))
