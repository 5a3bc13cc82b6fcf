"""One connection: the only code of the client that knows both a socket and a carrier's codec."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from holdfast.clock import within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.clock import Clock

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443, "tcp": 8001, "tcps": 8001}


class Address(NamedTuple):
    """Where a URL leads, and by which carrier."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def secure(self) -> bool:
        """Tell whether the connection is encrypted."""
        return self.scheme in ("wss", "tcps")


def parse_url(url: str) -> Address:
    """Split `ws://`, `wss://`, `tcp://` or `tcps://` URLs. Raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is no ws://, wss://, tcp:// or tcps:// URL with a host")
    path = parts.path or "/ws"
    query = f"?{parts.query}" if parts.query else ""
    return Address(parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme], path + query)


class Carrier(Protocol):
    """Bytes to frames and back. `ended`: (close code or HTTP status, reason) once nothing more will come.

    `after`: seconds to wait that came with a refusal over HTTP, else 0.
    """

    @property
    def after(self) -> float:
        """See above."""

    @property
    def open(self) -> bool:
        """True once frames may be written."""

    @property
    def ended(self) -> tuple[int, str] | None:
        """The close code (below 1000: HTTP status of a refusal; 0: none) and the reason."""

    def start(self) -> bytes:
        """Return what is to be written first."""

    def receive(self, data: bytes) -> Sequence[bytes]:
        """Return the frames that `data` completes."""

    def take(self) -> bytes:
        """Return what is to be written in answer, once."""

    def encode(self, frames: Sequence[bytes]) -> bytes:
        """Return frames as bytes."""

    def close(self) -> bytes:
        """Return what says goodbye."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection is over. `code` 0: none was given. `again` None: the code decides.

    `after` are the seconds to wait, where the server said so.
    """

    code: int
    reason: str
    again: bool | None = None
    after: float = 0.0


class Connection(asyncio.Protocol):
    """Joins a transport to a carrier. `ended` is done once nothing more will come."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        on_open: Callable[[], object],
        on_frames: Callable[[Sequence[bytes]], object],
    ) -> None:
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.said: End | None = None
        self._gone = asyncio.Event()
        self._carrier = carrier
        self._on_open = on_open
        self._on_frames = on_frames
        self._transport: asyncio.Transport | None = None
        self._was_open = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self._transport = transport
        if self.ended.done():
            transport.abort()
            return
        if first := self._carrier.start():
            transport.write(first)
        self._opened()

    def _opened(self) -> None:
        if self._carrier.open and not self._was_open:
            self._was_open = True
            self._on_open()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.ended.done() or self._transport is None:
            return
        frames = self._carrier.receive(data)
        if answer := self._carrier.take():
            self._transport.write(answer)
        self._opened()
        self._on_frames(frames)
        if self._carrier.ended is not None:
            self.drop(self._ending())

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._gone.set()
        self._finish(self._ending() if exc is None else End(0, str(exc)))

    def _ending(self) -> End:
        code, reason = self._carrier.ended or (0, "")
        if self.said is not None and code in (0, 1005, self.said.code):
            return self.said
        if 0 < code < 1000:
            # Refused over HTTP: a balancer without a server behind it says 5xx, and 408 and 429 pass too.
            again = code >= 500 or code in (408, 429)
            return End(0, f"HTTP {code}: {reason}", again, self._carrier.after)
        return End(code, reason or "the connection was lost")

    def _finish(self, end: End) -> None:
        if not self.ended.done():
            self.ended.set_result(end)

    @property
    def gone(self) -> bool:
        """Tell whether nothing of it is left."""
        return self._transport is None or self._gone.is_set()

    @property
    def paused(self) -> bool:
        """Tell whether reading is paused."""
        return self._paused

    def read(self, wanted: bool) -> None:
        """Pause or resume reading."""
        if wanted == self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = not wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def write(self, frames: Sequence[bytes]) -> None:
        """Write frames, if the connection is still there."""
        if frames and self._transport is not None and not self.ended.done():
            self._transport.write(self._carrier.encode(frames))

    def drop(self, end: End, *, dead: bool = False) -> None:
        """End the connection now, saying goodbye unless it is `dead`; `end` is the reason that counts."""
        if self.ended.done():
            return
        self._finish(end)
        if self._transport is not None:
            if dead:
                self._transport.abort()
                return
            if goodbye := self._carrier.close():
                self._transport.write(goodbye)
            self._transport.close()

    async def goodbye(self, clock: Clock, seconds: float) -> None:
        """After `drop`, wait until the transport is gone; cut it off after so many seconds.

        By TLS that takes the peer's own goodbye, and with bytes unwritten a peer that reads.
        """
        transport = self._transport
        if transport is None:
            return
        try:
            await within(clock, seconds, self._gone.wait())
        except TimeoutError:
            transport.abort()
            await asyncio.sleep(0)
