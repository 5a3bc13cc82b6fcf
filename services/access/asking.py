"""What one client asks by its frames, once its state machine has let it through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import Reject, Retry
from holdfast.protocol.connection import Event
from holdfast.protocol.frames import Error, Refreshed

if TYPE_CHECKING:
    from holdfast.protocol import frames

    from .driver import Driver
    from .node import AccessNode


def connect(node: AccessNode, driver: Driver, frame: frames.Connect) -> None:
    """Begin a session, which has to be recorded within the time that the log has."""
    if len(node.registry) >= node.settings.access.channels:
        node.metrics.access_refused.labels("channels").inc()
        driver.machine.signal(Event.ENDED, "overloaded", "this node has all the channels it can serve")
        return
    wheel = node.wheel
    driver.limit = min(driver.limit, wheel.tick + wheel.ticks(node.settings.redis.timeout))
    wheel.put(driver, driver.limit)
    try:
        node.roster.connect(driver, frame)
    except Reject as reject:
        node.metrics.access_refused.labels(reject.code).inc()
        driver.machine.signal(Event.ENDED, reject.code, str(reject))
    except Retry as retry:
        node.metrics.access_refused.labels("key").inc()
        driver.machine.signal(Event.ENDED, "overloaded", str(retry))


def publish(node: AccessNode, driver: Driver, frame: frames.Send) -> None:
    """Put a send into the queue. Raises Reject and Retry."""
    session = driver.session
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
    node.produce.send(driver, session, frame, granted=granted)


def ask(node: AccessNode, driver: Driver, frame: frames.Request) -> float:
    """Put a request into the queue; return its deadline. Raises Retry."""
    assert driver.session is not None
    if node.inbound.full:
        node.inbound.check(driver.session.user)
    seconds = node.settings.access.request_deadline
    deadline = node.clock.monotonic() + seconds
    node.produce.request(driver, driver.session, frame, deadline)
    node.wheel.put(driver, node.wheel.tick + node.wheel.ticks(seconds))
    return deadline


def cursor(node: AccessNode, driver: Driver, frame: frames.Cursor) -> None:
    """Keep a cursor on a channel that is subscribed."""
    channel = node.registry.get(frame.channel) if driver.has(frame.channel) else None
    if channel is None or driver.session is None:
        reason = "this channel is not subscribed"
        driver.answer(Error("forbidden", reason, retry=False, channel=frame.channel))
    elif frame.seq > channel.seq:
        reason = f"the channel's head is {channel.seq}"
        driver.answer(Error("bad_request", reason, retry=False, channel=frame.channel))
    elif channel.epoch:
        node.produce.cursor(channel.name, driver.session, frame.seq, channel.epoch)


def refresh(node: AccessNode, driver: Driver, frame: frames.Refresh) -> None:
    """Take a newer token; a wrong one ends the connection."""
    assert driver.session is not None
    try:
        node.roster.refresh(driver, driver.session, frame.token)
    except Reject as reject:
        driver.machine.signal(Event.ENDED, reject.code, str(reject))
    except Retry as retry:
        driver.answer(Error("unavailable", str(retry), retry=retry.after or True, id=frame.id))
    else:
        driver.answer(Refreshed(frame.id))
