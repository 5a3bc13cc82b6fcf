"""What a client knows, without any I/O: its positions, and what it has sent that has no answer yet.

The driver feeds frames in (`receive`), takes what is to be written (`outgoing`), and says when a connection
was lost. Sends are go-back-N: they are numbered when first transmitted, kept in order until their `ack`, and
after a retriable error everything from there on is sent again, in order, before anything later. The first of
them goes alone until it is answered: who is refused again and again should cost the server one frame each
time, not a window of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.client.errors import OutcomeUnknown
from holdfast.client.events import Completed, Ending, Event, Failed, Operation, Renew, Trouble
from holdfast.client.pace import PAUSE, Pace
from holdfast.errors import Reject
from holdfast.protocol import frames
from holdfast.protocol.codes import CODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from random import Random

RESEND_SHARE: Final = 0.9
"""Share of `limits.resend` up to which a send is repeated: the broker stamps it a little later than we."""

ANSWERED_KEPT: Final = 1024
"""Answered sends remembered so that a later refusal by a handler can be named; the oldest is forgotten."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(frames.ServerFrame).decode


class ClientState:
    """One client's memory across its connections. Times are monotonic seconds, given by the caller."""

    def __init__(
        self, *, client: str, device: str, resume: Mapping[str, frames.Position], random: Random
    ) -> None:
        self.client = client
        self.device = device
        self.positions: dict[str, frames.Position] = dict(resume)
        self.connected: frames.Connected | None = None
        self.shedding = False
        self.duplicates = 0
        self.shed = 0
        self.strays = 0
        self._random = random
        self._control: list[Operation] = []
        self._waiting: deque[Operation] = deque()
        self._unacked: OrderedDict[int, Operation] = OrderedDict()
        self._requests: list[Operation] = []
        self._by_number: dict[int, Operation] = {}
        self._answered: OrderedDict[int, str] = OrderedDict()
        self._cursors: dict[str, int] = {}
        self._cursors_due = False
        self._number = 0
        self._n = 0
        self._flying = 0  # sends and requests on their way
        self._idle = 0  # sends and requests transmitted before, and to be transmitted again
        self._hold: float | None = None
        self._pace = Pace()
        self._probing = False  # a send was refused: it goes alone until it is answered
        self._resend: float | None = None
        self._troubles = 0

    # --- connections ----------------------------------------------------------------------------------

    def connect_frame(self, token: str) -> bytes:
        """Return the first frame of a connection."""
        return _encode(
            frames.Connect(token=token, client=self.client, device=self.device, resume=self.positions)
        )

    def lost(self) -> list[Event]:
        """Take note that the connection is gone: what had no answer will be sent again on the next one."""
        self.connected = None
        self.shedding = False
        self._by_number.clear()
        self._answered.clear()
        self._flying = 0
        self._idle = len(self._unacked) + len(self._requests)
        self._hold = None
        self._pace = Pace()
        self._cursors_due = bool(self._cursors)
        gone = [one for one in self._control if one.kind in ("unsubscribe", "refresh")]
        for operation in (*self._control, *self._unacked.values(), *self._requests):
            operation.flying = False
        # Not listed in `resume` is unsubscribed; the next connection brings a token of its own.
        self._control = [one for one in self._control if one not in gone]
        return [self._complete(one, None) for one in gone]

    @property
    def awaiting(self) -> bool:
        """Tell whether an answer is awaited, so that reading must go on."""
        return bool(self._unacked or self._waiting or self._requests or self._control)

    # --- operations -----------------------------------------------------------------------------------

    def submit(self, operation: Operation) -> None:
        """Take in an operation; `outgoing` has its frame when its turn comes."""
        if operation.kind in ("send", "request"):
            self._waiting.append(operation)
            return
        if operation.kind == "unsubscribe":
            self.positions.pop(operation.target, None)
            self._cursors.pop(operation.target, None)
        self._control.append(operation)

    def withdraw(self, operation: Operation) -> None:
        """Nobody waits for it any more. A send that was transmitted is seen through all the same."""
        if operation in self._waiting:
            self._waiting.remove(operation)
        elif operation.kind != "send":
            self._forget(operation)
        operation.waiter = None

    def cursor(self, channel: str, seq: int) -> None:
        """Report what was processed; the latest of each channel is repeated on every connection."""
        self._cursors[channel] = max(seq, self._cursors.get(channel, 0))
        self._cursors_due = True

    def abandon(self) -> list[Operation]:
        """Give up everything that waits, and return it."""
        left = [*self._control, *self._unacked.values(), *self._requests, *self._waiting]
        self._control.clear()
        self._unacked.clear()
        self._requests.clear()
        self._waiting.clear()
        self._idle = 0
        return left

    # --- time -----------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """Return when `expire` and `outgoing` are to be called again (monotonic s), if at all."""
        times = [] if self._hold is None else [self._hold]
        if self._unacked and self._resend is not None:
            times.append(next(iter(self._unacked.values())).first + self._resend)
        return min(times, default=None)

    def expire(self, now: float) -> list[Event]:
        """Report sends whose repetition would not be recognised any more."""
        events: list[Event] = []
        while self._unacked and self._resend is not None:
            oldest = next(iter(self._unacked.values()))
            if now < oldest.first + self._resend:
                break
            self._forget(oldest)
            error = OutcomeUnknown(f"no ack within {self._resend:.0f} s; it may have been sent")
            events.append(self._fail(oldest, error))
        if events and self.connected is not None:
            # The first n of a connection is taken as it is, so a new one gets past the hole.
            events.append(Renew("a send was given up"))
        return events

    # --- writing --------------------------------------------------------------------------------------

    def outgoing(self, now: float) -> tuple[list[bytes], list[Event]]:
        """Return the frames to write now, and what failed without being written."""
        written: list[bytes] = []
        failed: list[Event] = []
        if self.connected is None or (self._hold is not None and now < self._hold):
            return written, failed
        self._hold = None
        limits = self.connected.limits
        room = self._pace.room(now, limits.rate)
        for one in self._control:
            if not one.flying and len(written) < room:
                written.append(self._transmit(one, one.frame(self._number + 1)))
        if self._cursors_due:
            self._cursors_due = False
            written += [_encode(frames.Cursor(channel=name, seq=seq)) for name, seq in self._cursors.items()]
        if self._idle:
            sends = islice(self._unacked.values(), 1 if self._probing else None)
            for again in (*sends, *self._requests):
                if not again.flying and self._flying < limits.in_flight and len(written) < room:
                    written.append(self._transmit(again, again.frame(self._number + 1)))
        while self._waiting and self._flying < limits.in_flight and not self._idle and len(written) < room:
            operation = self._waiting.popleft()
            if operation.kind == "send":
                operation.n = self._n + 1
            frame = operation.frame(self._number + 1)
            if len(frame) > limits.frame:
                operation.n = -1
                reason = f"the frame has {len(frame)} bytes, {limits.frame} are allowed"
                failed.append(self._fail(operation, Reject("too_large", reason)))
                continue
            operation.first = now
            self._idle += 1
            if operation.kind == "send":
                self._n = operation.n
                self._unacked[operation.n] = operation
            else:
                self._requests.append(operation)
            written.append(self._transmit(operation, frame))
        self._pace.spend(len(written), limits.rate)
        if len(written) >= room:
            self._hold = now + max(PAUSE, 1 / limits.rate)
        return written, failed

    def _transmit(self, operation: Operation, frame: bytes) -> bytes:
        self._number += 1
        operation.number = self._number
        operation.flying = True
        self._by_number[operation.number] = operation
        if operation.kind in ("send", "request"):
            self._flying += 1
            self._idle -= 1
        return frame

    # --- reading --------------------------------------------------------------------------------------

    def receive(self, raw: bytes, now: float) -> list[Event]:
        """Take in one frame. Returns what the driver is to do about it, in order."""
        try:
            frame = _decode(raw)
        except msgspec.ValidationError:
            self.strays += 1  # a newer server's frame: unknown ones are ignored, by the protocol
            return []
        except msgspec.DecodeError as error:
            return [Renew(f"the server sent what is no frame: {error}")]
        match frame:
            case frames.Message():
                return self._on_message(frame)
            case frames.Ack():
                return self._on_ack(frame)
            case frames.Connected():
                return self._on_connected(frame)
            case frames.Error():
                return self._on_error(frame, now)
            case frames.Subscribed():
                return self._on_subscribed(frame)
            case frames.Unsubscribed():
                self.positions.pop(frame.channel, None)
                self._cursors.pop(frame.channel, None)
                return [*self._answer(frame.id, None), frame]
            case frames.Reply():
                return self._answer(frame.id, frame.data)
            case frames.Refreshed():
                return self._answer(frame.id, None)
            case frames.Reset():
                self.positions[frame.channel] = frames.Position(frame.epoch, frame.seq)
                return [frame]
            case frames.Drain():
                return [frame]
            case _:
                return []

    def _on_message(self, frame: frames.Message) -> list[Event]:
        if self.shedding:
            self.shed += 1
            return []
        position = self.positions.get(frame.channel)
        if position is None:
            self.strays += 1  # on its way while we unsubscribed
            return []
        # A channel that was never written has no epoch yet; its first message brings one.
        fresh = not position.epoch and position.seq == 0
        if frame.epoch != position.epoch and not fresh:
            return [Renew(f"{frame.channel} changed its epoch without a reset")]
        if frame.seq <= position.seq:
            self.duplicates += 1
            return []
        if frame.seq != position.seq + 1:
            return [Renew(f"{frame.channel} jumped from {position.seq} to {frame.seq}")]
        self.positions[frame.channel] = frames.Position(frame.epoch, frame.seq)
        return [frame]

    def _on_connected(self, frame: frames.Connected) -> list[Event]:
        self.connected = frame
        self._resend = frame.limits.resend * RESEND_SHARE
        events: list[Event] = [frame]
        for channel, state in frame.channels.items():
            events += self._moved(channel, state.epoch, state.seq, state.recovered)
        return events

    def _on_subscribed(self, frame: frames.Subscribed) -> list[Event]:
        operation = self._by_number.get(frame.id) if isinstance(frame.id, int) else None
        if operation is not None and operation.since is not None:
            self.positions.setdefault(frame.channel, operation.since)
        moved = self._moved(frame.channel, frame.epoch, frame.seq, frame.recovered)
        return [*self._answer(frame.id, frame), frame, *moved]

    def _moved(self, channel: str, epoch: str, seq: int, recovered: bool) -> Iterator[Event]:
        """Take over where the server goes on; a position that it did not recover is a reset."""
        ours = self.positions.get(channel)
        self.positions[channel] = frames.Position(epoch, seq)
        if ours is not None and not recovered and ours != self.positions[channel]:
            yield frames.Reset(channel=channel, epoch=epoch, seq=seq, reason="not recovered")

    def _on_ack(self, frame: frames.Ack) -> list[Event]:
        operation = self._by_number.pop(frame.id, None) if isinstance(frame.id, int) else None
        if operation is None or operation.done or operation.n not in self._unacked:
            return []
        assert isinstance(frame.id, int)
        self._answered[frame.id] = frame.message
        if len(self._answered) > ANSWERED_KEPT:
            self._answered.popitem(last=False)
        self._troubles = 0
        self._forget(operation)
        return [self._complete(operation, frame.message)]

    def _answer(self, number: int | str | None, result: Any) -> list[Event]:
        operation = self._by_number.pop(number, None) if isinstance(number, int) else None
        if operation is None or operation.done:
            return []
        self._forget(operation)
        return [self._complete(operation, result)]

    def _on_error(self, frame: frames.Error, now: float) -> list[Event]:
        channel = frame.channel if isinstance(frame.channel, str) else None
        if not isinstance(frame.id, int):
            events: list[Event] = []
            if channel is not None:  # a channel of `resume` that is not allowed any more
                self.positions.pop(channel, None)
            after = 0.0 if isinstance(frame.retry, bool) else max(float(frame.retry), 0.0)
            if isinstance(frame.close, int):
                events.append(Ending(frame.close, f"{frame.code}: {frame.message}", after))
            elif (close := CODES[frame.code].close if frame.code in CODES else None) is not None:
                events.append(Ending(close, f"{frame.code}: {frame.message}", after))
            return [Trouble(frame.code, frame.message, channel), *events]
        operation = self._by_number.pop(frame.id, None)
        if operation is None or operation.done:
            if (message := self._answered.pop(frame.id, None)) is not None:
                return [Trouble(frame.code, frame.message, channel, message)]
            return []
        if operation.number != frame.id:
            return []  # an older transmission; the latest one is what counts
        crowded = frame.code == "too_many" and operation.kind in ("send", "request")
        if frame.retry is False and not crowded:
            self._forget(operation)
            return [self._fail(operation, Reject(frame.code, frame.message))]
        if operation.kind == "send" and not operation.flying:
            return []  # it was behind a refused one, and waits already
        self._back_off(frame.retry or True, now)
        self._land(operation)
        if operation.kind != "send":
            return []
        oldest = next(iter(self._unacked), operation.n)
        if frame.code == "out_of_order" and operation.n == oldest:
            # The server misses one that we know to be finished: only a new connection sets a new start.
            return [Renew(frame.message)]
        self._probing = True
        for later in self._unacked.values():
            if later.n > operation.n:
                self._land(later)
        return []

    def _back_off(self, retry: float | bool, now: float) -> None:
        wait = 0.1 * 2 ** min(self._troubles, 6) if retry is True else float(retry)
        self._troubles += 1
        self._hold = max(self._hold or now, now + wait * self._random.uniform(1.0, 1.25))

    # --- keeping count --------------------------------------------------------------------------------

    def _land(self, operation: Operation) -> None:
        """Count on no answer to its latest transmission any more."""
        if operation.flying and operation.kind in ("send", "request"):
            self._flying -= 1
            self._idle += 1
        operation.flying = False

    def _forget(self, operation: Operation) -> None:
        self._land(operation)
        if operation.kind == "send":
            self._probing = False
            if self._unacked.pop(operation.n, None) is not None:
                self._idle -= 1
        elif operation.kind == "request":
            if operation in self._requests:
                self._requests.remove(operation)
                self._idle -= 1
        elif operation in self._control:
            self._control.remove(operation)

    def _complete(self, operation: Operation, result: Any) -> Completed:
        operation.done = True
        return Completed(operation, result)

    def _fail(self, operation: Operation, error: Reject | OutcomeUnknown) -> Failed:
        operation.done = True
        return Failed(operation, error)
