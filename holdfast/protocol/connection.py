"""The server's side of one connection, as a state machine: no I/O, no clock.

Frames and internal events come in; what is to be done comes out as calls of a `Host`, which knows the socket,
the log and the queue. Whoever holds the machine passes the time in. The table is in `states`.

A connection that was idle since its connect costs its slots and nothing else: what counts sends and requests
exists while there are any.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.errors import Reject, Retry
from holdfast.protocol import frames
from holdfast.protocol.allowance import FLOOD, Allowance
from holdfast.protocol.codes import retriable
from holdfast.protocol.frames import Error
from holdfast.protocol.host import Bounds, Host
from holdfast.protocol.states import EVENT_OF, TABLE, Event, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.protocol.frames import ClientFrame, FrameId

__all__ = ["FLOOD", "HELD", "Bounds", "Connection", "Event", "Host", "State"]

HELD: Final = 32
"""Frames that may wait while `connect` is being worked on; one above it is refused with `too_many`."""

UNSET: Final = -1

_NEW, _CONNECTING, _OPEN, _DRAINING, _CLOSED = State

UNASKED: Final = msgspec.UNSET
PING: Final = frames.Ping()
PONG: Final = frames.Pong()


class _Sent(msgspec.Struct, frozen=True, gc=False):
    """A send without an ack: what it said, the frame ids that wait, and whether it was accepted before."""

    content: int
    ids: tuple[FrameId, ...]
    again: bool


class Connection(Allowance):
    """One connection. `subscriptions` counts channels that were asked for."""

    __slots__ = (
        "_acked",
        "_floor",
        "_held",
        "_next",
        "_requests",
        "_sends",
        "_waiting",
        "host",
        "state",
        "subscriptions",
    )

    def __init__(self, host: Host, bounds: Bounds) -> None:
        super().__init__(bounds)
        self.host = host
        self.state = _NEW
        self.subscriptions = 0
        self._next = UNSET
        self._floor = 0  # the lowest n that may come again: what is below it never came into the queue
        self._waiting = 0
        self._acked: tuple[int, int, str] | None = None
        self._sends: dict[int, _Sent] | None = None
        self._requests: dict[FrameId, float] | None = None
        self._held: list[ClientFrame] | None = None

    # events

    def receive(self, frame: ClientFrame, now: float) -> None:
        """Take a frame of the client. `now` is in monotonic seconds."""
        state = self.state
        action, self.state = _STEPS[state][EVENT_OF[type(frame)]]
        counted = state is _OPEN or state is _DRAINING or (state is _CONNECTING and action is not _HOLD)
        if counted and (early := self.take(now)):
            self._refuse_early(frame, early)
            return
        action(self, frame, now)

    def reject(self, reject: Reject, now: float) -> None:
        """Take something of the client that is not a frame, with what is wrong about it."""
        broken = reject.code in _ENDING
        if self.state in _COUNTING and not broken and (early := self.take(now)):
            self._refuse_early(None, early)
            return
        event = Event.BROKEN if broken else Event.REJECTED
        action, self.state = _STEPS[self.state][event]
        action(self, reject.code, str(reject), getattr(reject, "id", None))

    def controls(self, count: int, now: float) -> None:
        """Take frames of the carrier itself (pings, pongs), which count as much as others."""
        if self.state is _CLOSED:
            return
        for taken in range(count):
            if self.take(now):
                self._excess(count - taken)
                return

    def signal(self, event: Event, code: str = "", reason: str = "") -> None:
        """Take an internal event. `code` and `reason` are for ENDED."""
        action, self.state = _STEPS[self.state][event]
        action(self, code, reason)

    # answers of the host

    def acked(self, n: int, message: str) -> None:
        """Tell the client that send `n` is durable."""
        sends = self._sends
        if sends is None or (sent := sends.pop(n, None)) is None:
            return
        if not sends:
            self._sends = None
        self._waiting -= len(sent.ids)
        self._acked = (n, sent.content, message)
        if self.state is not _CLOSED:
            for frame_id in sent.ids:
                self.host.answer(frames.Ack(frame_id, message))

    def failed(self, n: int, reason: str) -> None:
        """Tell the client that nobody knows what became of send `n`. Later ones wait until it comes again."""
        sends = self._sends
        if sends is None or (sent := sends.get(n)) is None:
            return
        self._waiting -= len(sent.ids)
        if sent.again:
            del sends[n]
        else:
            # Its content is kept: what comes again under this number must be the same.
            sends[n] = _Sent(sent.content, (), again=False)
            self._next = min(self._next, n)
        if self.state is not _CLOSED:
            for frame_id in sent.ids:
                self._refuse("unavailable", reason, frame_id)

    def unacked(self, frame_id: FrameId) -> bool:
        """Tell whether this is a send whose ack has not gone out yet."""
        sends = self._sends
        return sends is not None and any(frame_id in sent.ids for sent in sends.values())

    def answered(self, frame_id: FrameId) -> bool:
        """Tell whether this request still waits; it does no longer."""
        requests = self._requests
        if requests is None or requests.pop(frame_id, None) is None:
            return False
        self._waiting -= 1
        if not requests:
            self._requests = None
        return True

    def unasked(self, frame_id: FrameId, deadline: float) -> None:
        """Tell the client at once that nobody knows whether its request will be handled."""
        # The deadline tells it from a later one that has the same id.
        if self._requests is not None and self._requests.get(frame_id) == deadline:
            self.answered(frame_id)
            self._refuse("unavailable", "the request could not be stored", frame_id)

    def expire_requests(self, now: float) -> float | None:
        """Answer requests whose deadline has passed; return the next deadline."""
        if self._requests is None:
            return None
        for frame_id in [key for key, deadline in self._requests.items() if deadline <= now]:
            self.answered(frame_id)
            if self.state is not _CLOSED:
                self._refuse("unavailable", "no answer came in time", frame_id)
        return min(self._requests.values()) if self._requests else None

    def released(self) -> None:
        """One channel less is asked for."""
        self.subscriptions -= 1

    @property
    def waiting(self) -> int:
        """Sends and requests without an answer."""
        return self._waiting

    # limits

    def _excess(self, count: int = 1) -> None:
        """Count what was refused; end a connection that does not listen."""
        if self.refused(count):
            self.signal(Event.ENDED, "flooding", "far more frames than allowed")

    def _refuse_early(self, frame: ClientFrame | None, early: float) -> None:
        """Refuse a frame that came `early` seconds before the rate has room for it."""
        if isinstance(frame, frames.Send) and self._next == UNSET:
            self._next = self._floor = frame.n  # refused, so those after it must wait for it
        self._refuse(
            "rate_limited", "more frames than allowed", getattr(frame, "id", None), round(early, 3) or True
        )
        self._excess()

    def _refuse(
        self, code: str, message: str, frame_id: FrameId | None = None, retry: float | bool | None = None
    ) -> None:
        again = retriable(code) if retry is None else retry
        self.host.answer(Error(code, message, again, UNASKED if frame_id is None else frame_id))

    # actions: the client's frames

    def _connect(self, frame: frames.Connect, now: float) -> None:
        del now
        self.host.connect(frame)

    def _refuse_second_connect(self, frame: frames.Connect, now: float) -> None:
        del frame, now
        self._refuse("bad_request", "this connection is connected already")

    def _hold(self, frame: ClientFrame, now: float) -> None:
        del now
        if self._held is None:
            self._held = []
        if len(self._held) < HELD:
            self._held.append(frame)
            return
        if isinstance(frame, frames.Send) and self._next == UNSET:
            first = next((held.n for held in self._held if isinstance(held, frames.Send)), frame.n)
            self._next = self._floor = first
        self._refuse("too_many", "wait for connected", getattr(frame, "id", None), retry=True)
        self._excess()

    def _subscribe(self, frame: frames.Subscribe, now: float) -> None:
        del now
        if self.subscriptions >= self.bounds.subscriptions:
            self._refuse("too_many", f"{self.bounds.subscriptions} channels are subscribed", frame.id)
            return
        self.subscriptions += 1
        self.host.subscribe(frame)

    def _unsubscribe(self, frame: frames.Unsubscribe, now: float) -> None:
        del now
        self.host.unsubscribe(frame)

    def _cursor(self, frame: frames.Cursor, now: float) -> None:
        del now
        self.host.cursor(frame)

    def _refresh(self, frame: frames.Refresh, now: float) -> None:
        del now
        self.host.refresh(frame)

    def _send(self, frame: frames.Send, now: float) -> None:
        del now
        n = frame.n
        if self._next == UNSET:
            self._next = self._floor = n
        if n > self._next:
            self._refuse("out_of_order", f"send {self._next} first", frame.id)
            return
        content = binascii.crc32(frame.data, binascii.crc32(f"{frame.to}\0{frame.type}".encode()))
        known = self._sends.get(n) if self._sends is not None else None
        acked = self._acked
        if known is None and acked is not None and acked[0] == n:
            if acked[1] == content:
                self.host.answer(frames.Ack(frame.id, acked[2]))
            else:
                self._refuse("n_reused", f"{n} was used for another content", frame.id)
            return
        if known is not None and known.content != content:
            self._refuse("n_reused", f"{n} was used for another content", frame.id)
            return
        if known is None and n < min(self._next, self._floor):
            # Behind a later one in the queue it would count as a repetition, and never be delivered.
            self._refuse("out_of_order", f"{n} can no longer be sent", frame.id, retry=False)
            return
        if self._waiting >= self.bounds.in_flight:
            self._refuse("too_many", f"{self._waiting} frames wait for an answer", frame.id, retry=True)
            return
        if known is not None and known.ids:
            assert self._sends is not None
            self._sends[n] = _Sent(content, (*known.ids, frame.id), known.again)
            self._waiting += 1
            return
        self._publish(frame, content)

    def _publish(self, frame: frames.Send, content: int) -> None:
        n = frame.n
        try:
            self.host.publish(frame)
        except Reject as reject:
            # Known not to be in the queue and never to come there: it leaves no gap that could be filled.
            self._next = max(self._next, n + 1)
            self._floor = max(self._floor, n + 1)
            self._refuse(reject.code, str(reject), frame.id)
            return
        except Retry as retry:
            self._refuse("unavailable", str(retry), frame.id, retry.after)
            return
        if self._sends is None:
            self._sends = {}
        self._sends[n] = _Sent(content, (frame.id,), again=n < self._next)
        self._waiting += 1
        self._next = max(self._next, n + 1)

    def _request(self, frame: frames.Request, now: float) -> None:
        del now
        if self._waiting >= self.bounds.in_flight:
            self._refuse("too_many", f"{self._waiting} frames wait for an answer", frame.id, retry=True)
            return
        if self._requests is not None and frame.id in self._requests:
            self._refuse("bad_request", "a request with this id waits for its answer", frame.id)
            return
        try:
            deadline = self.host.ask(frame)
        except Reject as reject:
            self._refuse(reject.code, str(reject), frame.id)
            return
        except Retry as retry:
            self._refuse("unavailable", str(retry), frame.id, retry.after)
            return
        if self._requests is None:
            self._requests = {}
        self._requests[frame.id] = deadline
        self._waiting += 1

    def _pong(self, frame: frames.Ping, now: float) -> None:
        del frame, now
        self.host.answer(PONG)

    # actions: what the host notices

    def _nothing(self, *_: object) -> None:
        pass

    def _reject(self, code: str, reason: str, frame_id: FrameId | None = None) -> None:
        self._refuse(code, reason, frame_id)

    def _open(self, *_: object) -> None:
        held, self._held = self._held, None
        for frame in held or ():
            # These have waited for the server: they are not counted against the client's rate.
            step = _STEPS[self.state][EVENT_OF[type(frame)]]
            self.state = step[1]
            step[0](self, frame, 0.0)

    def _ping(self, *_: object) -> None:
        self.host.answer(PING)

    def _drain(self, *_: object) -> None:
        self.host.drain()

    def _end(self, code: str, reason: str, *_: object) -> None:
        self._forget()
        self.host.end(code, reason)

    def _end_connect_first(self, frame: object = None, reason: object = "", *_: object) -> None:
        del frame
        text = reason if isinstance(reason, str) and reason else "the first frame must be connect"
        self._end("connect_first", text)

    def _end_late(self, *_: object) -> None:
        self._end("silent", "no connect came in time; come back")

    def _end_overloaded(self, *_: object) -> None:
        self._end("overloaded", "the session could not be recorded in time; come back")

    def _end_silent(self, *_: object) -> None:
        self._end("silent", "nothing was heard for two heartbeats")

    def _end_expired(self, *_: object) -> None:
        self._end("unauthorized", "the token has expired")

    def _end_draining(self, *_: object) -> None:
        self._end("draining", "this node is leaving")

    def _lose(self, *_: object) -> None:
        self._forget()

    def _forget(self) -> None:
        self._held = self._sends = self._requests = self._acked = None
        self._waiting = 0


_ENDING: Final = frozenset({"bad_frame", "too_large"})
_COUNTING: Final = frozenset({_CONNECTING, _OPEN, _DRAINING})
_HOLD: Final = Connection._hold

_STEPS: Final[tuple[tuple[tuple[Callable[..., None], State], ...], ...]] = tuple(
    tuple((getattr(Connection, f"_{TABLE[state][event].action}"), TABLE[state][event].to) for event in Event)
    for state in State
)
