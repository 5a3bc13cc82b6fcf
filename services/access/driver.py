"""One client connection: joins a transport, a codec and the state machine. The same for every carrier.

The only code that knows both a socket and the machine. It has no task and no queue; an idle connection is
this object, the machine, the codec, the session and a place on the timer wheel.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import UNSET

from holdfast.errors import Reject
from holdfast.protocol.codes import CODES
from holdfast.protocol.connection import Connection, Event
from holdfast.protocol.frames import Drain, Error
from holdfast.protocol.proxy import ProxyHeader
from holdfast.protocol.wire import FrameError

from . import due, slow
from .admission import name_of_close
from .asking import Asking
from .formats import FORMATS, TCP_JSON, of_subprotocol
from .slow import ASIDE, ENDED, FRESH, LOST, PAUSED
from .timers import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.protocol import frames
    from holdfast.protocol.codec import Ended, ServerCodec
    from holdfast.protocol.frames import FrameId, ServerFrame

    from .connects import Connecting
    from .listeners import Listener
    from .node import AccessNode

SMALL: Final = 512
"""Bytes that are taken at once, without the care that a flood needs: most reads are one frame."""

PIECE: Final = 4096
"""Bytes given to the codec at once: some hundreds of frames, at most."""

CLOSE_SECONDS: Final = 3.0
"""Seconds that a client has to answer a close before the socket is cut."""

NO_FORMAT: Final = -1
_BAD_FRAME: Final = CODES["bad_frame"]

_encode: Final = msgspec.json.Encoder().encode


class Driver(Asking, asyncio.Protocol):
    """See the module. `heard` and `due` are ticks of the wheel; `blocked` is made of the bits above."""

    __slots__ = (
        "_listener",
        "address",
        "blocked",
        "codec",
        "connecting",
        "due",
        "format",
        "heard",
        "out",
        "transport",
    )

    transport: asyncio.Transport
    codec: ServerCodec | ProxyHeader | None

    def __init__(self, node: AccessNode, listener: Listener) -> None:
        super().__init__(node)
        self._listener = listener
        self.machine = Connection(self, node.bounds)
        self.number = 0
        self.out: bytes | None = None
        self.format = NO_FORMAT
        self.blocked = FRESH
        self.heard = node.wheel.tick
        self.due = NEVER
        self.limit = NEVER
        self.address: str | None = None
        self.session = None
        self.connecting: Connecting | None = None

    @property
    def ended(self) -> bool:
        """Whether it was ended; the socket may still be open."""
        return bool(self.blocked & ENDED)

    @property
    def paused(self) -> bool:
        """Whether it does not take what is written to it."""
        return bool(self.blocked & PAUSED)

    @property
    def carrier(self) -> str:
        """Name of the listener it came by."""
        return self._listener.name

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self.transport = transport
        node = self._node
        transport.set_write_buffer_limits(node.settings.access.buffer)
        self.codec = ProxyHeader() if node.settings.access.proxy_protocol else self._listener.codec()
        if not node.admission.opened(self):
            self.blocked = ENDED
            transport.abort()
            return
        wheel = node.wheel
        self.limit = wheel.tick + wheel.ticks(node.settings.access.handshake)
        wheel.put(self, self.limit)
        if isinstance(self.codec, ProxyHeader):
            return
        # Asking for it makes a Python socket that stays with the transport: where nobody counts, nobody asks.
        peer = transport.get_extra_info("peername") if node.settings.access.per_address else None
        self._located(peer[0] if peer else "")

    def _located(self, address: str) -> None:
        """Take the client's address, and its share of connections."""
        self._node.admission.located(self, address)
        if self._listener.format != NO_FORMAT:
            self.format = self._listener.format

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        node = self._node
        self.heard = node.wheel.tick
        node.bytes_in += len(data)
        if node.turns.take():
            self._take(data)
            return
        node.reads_put_off += 1
        if len(data) > SMALL:
            self.transport.pause_reading()  # what waits of one client is small, or a single read
        node.turns.later(self._take, data)

    def _take(self, data: bytes) -> None:
        """Take a read whose turn it is."""
        if self.blocked & LOST:
            return
        inflow = self._node.inflow
        if len(data) > SMALL or inflow.has(self):
            inflow.received(self, data)
            return
        for payload in self._payloads(data):
            for frame in FORMATS[self.format].frames(payload):
                if self.blocked & ENDED:
                    break
                self._receive(frame)
        self._over()

    def steps(self, data: bytes) -> Iterator[None]:
        """Take more bytes, in steps that are short each: there may be a pause after any of them."""
        for start in range(0, len(data), PIECE):
            piece = data if len(data) <= PIECE else data[start : start + PIECE]
            for payload in self._payloads(piece):
                for frame in FORMATS[self.format].frames(payload):
                    if self.blocked & ENDED:
                        break
                    self._receive(frame)
                    yield
            if self._over():
                return
            yield

    def _over(self) -> bool:
        """Tell whether nothing more will come, and if so end."""
        codec = self.codec
        if codec is None:
            return True
        if isinstance(codec, ProxyHeader) or codec.ended is None:
            return False
        if codec.outgoing:  # after a close nothing may follow, so it follows what it came behind
            self._write(codec.take())
        self._codec_ended(codec.ended)
        return True

    def _payloads(self, data: bytes) -> list[bytes]:
        """Give bytes to the codec; return the messages that they complete."""
        codec = self.codec
        if isinstance(codec, ProxyHeader):
            data = self._proxy_header(codec, data)
            codec = self.codec
        if codec is None or isinstance(codec, ProxyHeader) or not data:
            return []
        if self.blocked & FRESH:
            self.blocked &= ~FRESH
            if not self._node.admission.first(self):
                return []
        payloads = codec.receive(data)
        if codec.outgoing and codec.ended is None:
            self._write(codec.take())
        if self.format == NO_FORMAT and codec.open:
            self._shaken(codec)
        if codec.controls:
            self._node.metrics.access_controls.inc(codec.controls)
            self.machine.controls(codec.controls, self._node.clock.monotonic())
        return payloads

    def _receive(self, frame: frames.ClientFrame | FrameError) -> None:
        now = self._node.clock.monotonic()
        if isinstance(frame, FrameError):
            self.machine.reject(frame, now)
        else:
            self._node.frames_in[type(frame)] += 1
            self.machine.receive(frame, now)

    def _proxy_header(self, header: ProxyHeader, data: bytes) -> bytes:
        try:
            rest = header.receive(data)
        except Reject:
            self._node.metrics.access_refused.labels("proxy_header").inc()
            self.machine.signal(Event.LOST)
            self._gone("bad_frame")
            self.transport.abort()
            return b""
        if rest is None:
            return b""
        self.codec = self._listener.codec()
        peer = header.source or self.transport.get_extra_info("peername")
        self._located(peer[0] if peer else "")
        return rest

    def _shaken(self, codec: ServerCodec) -> None:
        """Take the handshake's result, and let go of what it left behind."""
        self.format = of_subprotocol(codec.subprotocol)
        if hasattr(codec, "request"):
            codec.request = None

    def _codec_ended(self, ended: Ended) -> None:
        """End what the codec saw the end of: the client's close, or a violation that it has answered."""
        if not self.blocked & ENDED:
            name = name_of_close(ended)
            if ended.code < 1000:
                self._node.metrics.access_refused.labels("handshake").inc()
            self.machine.signal(Event.LOST)
            self._gone(name)
        self._close()

    def eof_received(self) -> bool:
        """See asyncio.Protocol: nothing is answered to who has stopped sending."""
        node = self._node
        if node.turns.take():
            return False
        # To close a socket takes the kernel as long as all else here takes: a crowd does so in turns.
        node.turns.later(self.transport.close)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if isinstance(exc, ssl.SSLError) and self.blocked & FRESH:
            self._node.metrics.access_refused.labels("tls").inc()
        if not self.blocked & ENDED:
            self.blocked |= ENDED | LOST
        self._node.turns.do(self._lost, steps=2)

    def _lost(self) -> None:
        """Let go of what is left: nobody will say anything more."""
        if self.blocked & LOST:
            self.blocked &= ~(ENDED | LOST)
            self.machine.signal(Event.LOST)
            self._gone("lost")
        self.codec = self.out = None
        self._node.inflow.forget(self)
        self._node.admission.closed(self)
        del self.machine.host  # they would hold each other until a collection of everything there is

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        slow.pause(self._node, self)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        slow.resume(self._node, self)

    def put_aside(self) -> None:
        """Note that something was held back for this client."""
        slow.put_aside(self._node, self)

    def check(self, tick: int) -> int:
        """See `Timed`."""
        return due.check(self._node, self, tick)

    # Host: what the machine wants done

    def answer(self, frame: ServerFrame) -> None:
        """See `Host`."""
        if self.blocked & ENDED or self.format == NO_FORMAT:
            return
        node = self._node
        node.frames_out[type(frame)] += 1
        if isinstance(frame, Error):
            node.metrics.access_errors.labels(frame.code).inc()
        wrapped = FORMATS[self.format].wrap(_encode(frame))
        node.bytes_out += len(wrapped)
        node.outbox.put(self, wrapped)

    def flush(self) -> None:
        """Write what was put aside for the end of this turn."""
        out, self.out = self.out, None
        if out is not None:
            self.transport.write(out)

    def _write(self, data: bytes) -> None:
        """Write at once, behind what waits."""
        self.flush()
        self.transport.write(data)

    def _close(self, *, at_once: bool = True) -> None:
        """Close behind what waits, or leave that to the client, who is cut off if it does not."""
        if at_once:
            self.flush()
            self.transport.close()
        wheel = self._node.wheel
        wheel.put(self, wheel.tick + wheel.ticks(CLOSE_SECONDS))

    def write(self, frame: bytes, frame_id: FrameId | None) -> None:
        """Write a JSON frame made elsewhere, which answers this one."""
        if self.blocked & ENDED:
            return
        try:
            wrapped = FORMATS[self.format].wrap(frame)
        except ValueError:
            self._node.metrics.access_unreadable.inc()
            self.answer(
                Error(
                    "failed", "the answer is no JSON", retry=False, id=UNSET if frame_id is None else frame_id
                )
            )
        else:
            self._node.bytes_out += len(wrapped)
            self._node.outbox.put(self, wrapped)

    def end(self, code: str, reason: str) -> None:
        """See `Host`."""
        if self.blocked & ENDED:
            return
        entry = CODES[code]
        close = entry.close or _BAD_FRAME.close or 0
        codec = self.codec
        if self.format != NO_FORMAT:
            extra: dict[str, Any] = {} if FORMATS[self.format].close_codes else {"close": close}
            self.answer(Error(code, reason, entry.retry, **extra))
        if codec is not None and not isinstance(codec, ProxyHeader):
            self._write(codec.close(close, reason))
        self._gone(code)
        self._close(
            at_once=self.format == TCP_JSON
            or codec is None
            or isinstance(codec, ProxyHeader)
            or codec.ended is not None
            or code == "flooding"
        )

    def turn_away(self, why: str, seconds: float) -> None:
        """Tell a connection that it was not let in, and when to come back."""
        codec = self.codec
        assert codec is not None
        assert not isinstance(codec, ProxyHeader)
        self._node.metrics.access_refused.labels(why).inc()
        self.machine.signal(Event.LOST)
        self._write(codec.turn_away("too many connections; come back later", seconds))
        self._gone("overloaded")
        self._close()

    def _gone(self, reason: str) -> None:
        """Let go of everything, once; `reason` is told to who handles the session's disconnect."""
        if self.blocked & ENDED:
            return
        if self.blocked & ASIDE:
            self._node.metrics.access_aside.dec()
        self.blocked = ENDED
        channels = self.channels_list()
        if self.session is not None:
            self._node.produce.flush(self.session, [channel.name for channel in channels])
        for channel in channels:
            self.leave(channel)
        self._node.roster.gone(self, reason)

    def drain(self) -> None:
        """See `Host`."""
        self.answer(Drain(after=self._node.drain_after()))
