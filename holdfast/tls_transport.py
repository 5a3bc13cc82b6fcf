"""TLS of accepted connections, between a socket's transport and its protocol.

The loop's own TLS does not tell a protocol of its connection before the handshake is over, so that no bound
counts those that never end it; it shakes hands with a whole crowd in one turn; and it keeps large buffers for
each connection (measured: 45 KiB of memory each, 17 here). Here a connection exists from its accept on, what
costs time takes turns, and one buffer is for all.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_SECONDS: Final = 0.005
"""Time that handshakes and large reads may take in one turn of the loop; what is left has the next."""

PIECE: Final = 4096
"""Bytes that are encrypted or decrypted at once: OpenSSL keeps buffers for as much with each connection."""

_RECORD: Final = 16 * 1024


class Acceptor:
    """What the connections of one listener share: the context, a buffer, and their turns."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.buffer = bytearray(_RECORD)
        self.view = memoryview(self.buffer)
        self._waiting: collections.deque[tuple[SecureTransport, memoryview]] = collections.deque()
        self._until: float | None = None  # None: nothing was done in this turn of the loop

    def received(self, transport: SecureTransport, data: bytes) -> None:
        """Have a connection take what it received, now as far as there is time, the rest in later turns."""
        rest = memoryview(data)
        if self._until is None:
            rest = transport.take(rest, self._next_turn())
        elif not self._waiting and time.perf_counter() < self._until:
            rest = transport.take(rest, self._until)
        if rest:
            transport.hold()
            self._waiting.append((transport, rest))

    def _next_turn(self) -> float:
        self._until = until = time.perf_counter() + TURN_SECONDS
        asyncio.get_running_loop().call_soon(self._turn)
        return until

    def _turn(self) -> None:
        self._until = None
        if not self._waiting:
            return
        until = self._next_turn()
        while self._waiting:
            transport, data = self._waiting.popleft()
            try:
                rest = transport.take(data, until)
            except Exception:
                transport.abort()  # as the loop does where a protocol fails
                raise
            if rest:
                self._waiting.appendleft((transport, rest))
            else:
                transport.release()
            if time.perf_counter() > until:
                break


class SecureTransport(asyncio.Transport, asyncio.Protocol):
    """One connection: the transport of the protocol above it, the protocol of the socket's transport below.

    Whoever is above has it as an open connection from its accept on; what is written before the handshake is
    over is dropped, since nobody could read it. It is lost with an `ssl.SSLError` where TLS failed.
    """

    __slots__ = (
        "_above",
        "_acceptor",
        "_below",
        "_error",
        "_incoming",
        "_outgoing",
        "_paused",
        "_shaken",
        "_ssl",
        "held",
    )

    _below: asyncio.Transport
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def __init__(self, above: asyncio.Protocol, acceptor: Acceptor) -> None:
        super().__init__()
        self._above: asyncio.Protocol | None = above
        self._acceptor = acceptor
        self._ssl: ssl.SSLObject | None = None
        self._shaken = False
        self._paused = False
        self._error: ssl.SSLError | None = None
        self.held = 0
        """Pieces of what was received that wait for their turn."""

    # asyncio.Protocol, for the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._below = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        assert self._above is not None
        self._above.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._shaken and not self.held and len(data) <= PIECE:
            self._incoming.write(data)
            self._read()
        else:
            self._acceptor.received(self, data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol: nothing is answered to who has stopped sending."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        above, self._above = self._above, None  # they would hold each other
        self._ssl = None
        if above is not None:
            above.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._above is not None:
            self._above.resume_writing()

    # turns

    def take(self, data: memoryview, until: float) -> memoryview:
        """Take pieces of what was received until a time (of perf_counter); return what is left."""
        while data and not self._below.is_closing():
            if self._ssl is None:  # who says nothing costs nothing
                self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                self._ssl = self._acceptor.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._incoming.write(data[:PIECE])
            data = data[PIECE:]
            if self._shaken or self._shake():
                self._read()
            if time.perf_counter() > until:
                return data
        return data[:0]

    def hold(self) -> None:
        """Read no more until what was received has had its turn."""
        self.held += 1
        if not self._below.is_closing():
            self._below.pause_reading()

    def release(self) -> None:
        """Undo one `hold`."""
        self.held -= 1
        if not self.held and not self._paused and not self._below.is_closing():
            self._below.resume_reading()

    # TLS

    def _shake(self) -> bool:
        """Go on with the handshake; tell whether it is over."""
        assert self._ssl is not None
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._shaken = True
            self._flush()
        return self._shaken

    def _read(self) -> None:
        secure, acceptor = self._ssl, self._acceptor
        assert secure is not None
        found: list[bytes] = []
        over = False
        error: ssl.SSLError | None = None
        try:
            # Looked at first: an exception that says that there is no more costs as much as a read.
            while self._incoming.pending:
                size = cast("int", secure.read(_RECORD, acceptor.buffer))  # typeshed says bytes
                if not size:
                    over = True
                    break
                found.append(bytes(acceptor.view[:size]))
        except ssl.SSLWantReadError:
            pass  # a part of a record
        except ssl.SSLError as failed:
            error = failed
        self._flush()
        if found and self._above is not None:
            self._above.data_received(found[0] if len(found) == 1 else b"".join(found))
        if error is not None:
            self._fail(error)
        elif over:
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        if not self._below.is_closing():
            self._error = error
            self._flush()  # the alert that says why
            self._below.close()

    # asyncio.Transport, for the protocol above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.Transport."""
        secure = self._ssl
        if not self._shaken or not data or secure is None or self._below.is_closing():
            return
        try:
            if len(data) <= PIECE:
                secure.write(data)
                self._below.write(self._outgoing.read())
                return
            rest = memoryview(data)
            while rest:
                rest = rest[secure.write(rest[:PIECE]) :]
                self._flush()
        except ssl.SSLError as error:
            self._fail(error)

    def writelines(self, list_of_data: list[bytes]) -> None:  # type: ignore[override]
        """See asyncio.Transport."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """See asyncio.Transport. Says goodbye, and waits for none."""
        if self._below.is_closing():
            return
        if self._shaken and self._ssl is not None:
            with contextlib.suppress(ssl.SSLError):
                self._ssl.unwrap()
            self._flush()
        self._below.close()

    def abort(self) -> None:
        """See asyncio.Transport."""
        self._below.abort()

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self._below.is_closing()

    def pause_reading(self) -> None:
        """See asyncio.Transport."""
        self._paused = True
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.Transport."""
        self._paused = False
        if not self.held:
            self._below.resume_reading()

    def is_reading(self) -> bool:
        """See asyncio.Transport."""
        return not self._paused

    def get_write_buffer_size(self) -> int:
        """See asyncio.Transport."""
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.Transport."""
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.Transport."""
        return self._ssl if name == "ssl_object" else self._below.get_extra_info(name, default)


def secured(
    factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext
) -> Callable[[], SecureTransport]:
    """Return a factory of connections that have TLS between the socket and what `factory` makes."""
    acceptor = Acceptor(context)
    return lambda: SecureTransport(factory(), acceptor)
