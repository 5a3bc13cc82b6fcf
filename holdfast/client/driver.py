"""The driver: joins the client's state to connections and a clock, one connection after the other."""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.client import tokens
from holdfast.client.carriers import TcpCarrier, WebSocketCarrier
from holdfast.client.connection import Connection, End, parse_url
from holdfast.client.errors import Closed, Disconnected, OutcomeUnknown
from holdfast.client.events import Completed, Ending, Event, Failed, Operation, Renew, Trouble
from holdfast.client.reconnect import Reconnect
from holdfast.clock import Clock, Timer, within
from holdfast.errors import HoldfastError
from holdfast.protocol import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from holdfast.client.inbox import Inbox
    from holdfast.client.state import ClientState
    from holdfast.network import Network

_PING: Final = msgspec.json.encode(frames.Ping())
_PONG: Final = msgspec.json.encode(frames.Pong())

GOODBYE: Final = 1.0
"""Seconds that the end of a connection may take at `close`."""

_log = logging.getLogger(__name__)


class Driver:
    """Keeps one client connected. `attempt`: seconds that each step of connecting may take."""

    def __init__(
        self,
        url: str,
        *,
        token: tokens.Token,
        state: ClientState,
        inbox: Inbox,
        network: Network,
        clock: Clock,
        random: Random,
        backoff: tuple[float, float],
        attempt: float,
        ssl: ssl_module.SSLContext | None,
    ) -> None:
        self._address = parse_url(url)
        self._token = token
        self._state = state
        self._inbox = inbox
        inbox.on_room = self.adjust_reading
        self._network = network
        self._clock = clock
        self._random = random
        self._backoff = backoff
        self._attempt = attempt
        self._ssl = ssl
        self._reconnect: Reconnect
        self._connection: Connection | None = None
        self._made: list[Connection] = []  # also those that are over, while their transports are there
        self._endpoint: str | None = None
        self._live: float | None = None
        self._heard = self._written = 0.0
        self._waiters: list[asyncio.Future[frames.Connected]] = []
        self._run_task: asyncio.Task[None] | None = None
        self._pump_task: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._timers: dict[str, Timer] = {}
        self._flush_due = False
        self.final: HoldfastError | None = Closed("closed", "the client is not connected: call connect()")
        self.last_error = "no attempt has ended yet"

    def start(self) -> None:
        """Begin to connect, if that did not begin already."""
        if self.final is None:
            return
        self.final = None
        fresh_tokens = not isinstance(self._token, str)
        self._reconnect = Reconnect(self._random, *self._backoff, fresh_tokens=fresh_tokens)
        self._inbox.reopen()
        if self._pump_task is None or self._pump_task.done():
            self._pump_task = asyncio.create_task(self._inbox.run())
        self._run_task = asyncio.create_task(self._run())

    async def connected(self) -> frames.Connected:
        """Wait for a session. Raises Closed."""
        if self._state.connected is not None:
            return self._state.connected
        waiter: asyncio.Future[frames.Connected] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    # --- connections, one after the other -------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                end = await self._connect_once()
            except Exception as error:  # noqa: BLE001 - told as any end, and tried again: it must not just be over
                _log.exception("connecting failed")
                end = End(0, f"connecting failed: {error!r}")
            now = self._clock.monotonic()
            lived = None if self._live is None else now - self._live
            self._handle(self._state.lost())
            verdict = self._reconnect.verdict(end, now=now, lived=lived)
            self._connection = None
            self._cancel("tick", "drain", "refresh")
            self.wake()
            self.last_error = f"the last attempt ended with: {end.reason or f'close code {end.code}'}"
            over = isinstance(verdict, Closed)
            if self._live is not None or over:
                # Whoever was told that we come back must hear that we do not, also where no session began.
                self._live = None
                self._inbox.put("disconnected", Disconnected(end.code, end.reason, not over))
            if isinstance(verdict, Closed):
                self.finish(verdict)
                return
            # What we end ourselves in order to come back was spread by the server already.
            await self._clock.sleep(0.0 if end.again and lived is not None and lived > 1.0 else verdict)

    async def _connect_once(self) -> End:
        """Make one connection and see it through to its end."""
        endpoint, self._endpoint = self._endpoint, None
        address = parse_url(endpoint) if endpoint else self._address
        try:
            token = await within(self._clock, self._attempt, tokens.fetch(self._token))
        except Exception as error:  # noqa: BLE001 - whatever the program's function raises: try again
            return End(0, f"no token: {error}", again=True)
        self._renew_at(token)
        carrier = TcpCarrier() if address.scheme.startswith("tcp") else WebSocketCarrier(address)

        def opened() -> None:
            connection.write([self._state.connect_frame(token)])

        connection = Connection(carrier, on_open=opened, on_frames=lambda raw: self._receive(connection, raw))
        self._connection = connection
        self._made = [*(each for each in self._made if not each.gone), connection]
        ssl = (self._ssl or ssl_module.create_default_context()) if address.secure else None
        timer = self._clock.call_later(
            self._attempt,
            lambda: (
                connection.drop(End(0, f"no session within {self._attempt:g} s"), dead=True)
                if self._live is None
                else None
            ),
        )
        try:
            await within(
                self._clock,
                self._attempt,
                self._network.connect(lambda: connection, address.host, address.port, ssl=ssl),
            )
        except (OSError, TimeoutError) as error:
            connection.drop(End(0, str(error) or type(error).__name__), dead=True)
        try:
            end = await connection.ended
        finally:
            timer.cancel()
        return end

    async def close(self) -> None:
        """End everything because the program wants so, and see the connections off."""
        self.finish(Closed("closed"))
        await asyncio.sleep(0)  # what was cancelled ends
        await asyncio.gather(*(connection.goodbye(self._clock, GOODBYE) for connection in self._made))

    def finish(self, error: Closed) -> None:
        """End everything, for the reason given; what still waits is told."""
        if self.final is not None:
            return
        self.final = error
        self._cancel(*self._timers)
        if self._connection is not None:
            self._connection.drop(End(1000, "closed by the program"))
            self._connection = None
        self._state.lost()
        self._live = None
        for operation in self._state.abandon():
            unknown = operation.kind == "send" and operation.n >= 0
            self._resolve(
                operation.waiter, OutcomeUnknown(f"no ack before the end: {error}") if unknown else error
            )
        for waiter in self._waiters:
            self._resolve(waiter, error)
        self._waiters.clear()
        if error.code != "closed":
            self._inbox.end(error)  # what was received is handed out before
            return
        self._inbox.cut()
        for task in (self._run_task, self._pump_task, self._refreshing):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    # --- frames ---------------------------------------------------------------------------------------

    def _receive(self, connection: Connection, raw: Sequence[bytes]) -> None:
        now = self._heard = self._clock.monotonic()
        for frame in raw:
            if connection is not self._connection or connection.ended.done():
                return
            if frame == _PING or frame.startswith(b'{"t":"ping"'):
                connection.write([_PONG])
                continue
            self._handle(self._state.receive(frame, now))
        self.wake()
        self.adjust_reading()

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case frames.Message():
                    self._inbox.put("message", event)
                case Completed():
                    self._resolve(event.operation.waiter, event.result)
                case Failed():
                    self._resolve(event.operation.waiter, event.error)
                case frames.Connected():
                    self._on_connected(event)
                case frames.Subscribed():
                    self._inbox.put("subscribed", event)
                case frames.Unsubscribed():
                    self._inbox.put("unsubscribed", event)
                case frames.Reset():
                    self._inbox.put("reset", event)
                case frames.Drain():
                    self._on_drain(event)
                case Trouble():
                    self._inbox.put("error", event)
                case Renew():
                    self._renew(event.reason)
                case Ending():
                    if self._connection is not None:
                        self._connection.said = End(event.close, event.reason, after=event.after)

    @staticmethod
    def _resolve(waiter: asyncio.Future[Any] | None, result: Any) -> None:
        if waiter is None or waiter.done():
            return
        if isinstance(result, HoldfastError):
            waiter.set_exception(result)
        else:
            waiter.set_result(result)

    def _on_connected(self, frame: frames.Connected) -> None:
        self._live = self._clock.monotonic()
        self._inbox.put("connected", frame)
        for waiter in self._waiters:
            self._resolve(waiter, frame)
        self._waiters.clear()
        self._tick()
        self.wake()

    def _on_drain(self, frame: frames.Drain) -> None:
        self._inbox.put("drain", frame)
        if isinstance(frame.endpoint, str):
            self._endpoint = frame.endpoint
        wait = frame.after * self._random.uniform(1.0, 1.1)
        self._later("drain", wait, lambda: self._renew("the node is draining"))

    def _renew(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.drop(End(0, reason, again=True))

    # --- tokens ---------------------------------------------------------------------------------------

    def _renew_at(self, token: str) -> None:
        """Plan to fetch the next token well before this one ends."""
        ends = tokens.expiry(token)
        if ends is not None and not isinstance(self._token, str):
            left = ends - self._clock.now_ms() / 1000
            self._later("refresh", max(left * tokens.REFRESH_SHARE, 1.0), self._start_refresh)

    def _start_refresh(self) -> None:
        self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            token = await within(self._clock, self._attempt, tokens.fetch(self._token))
        except Exception as error:  # noqa: BLE001 - whatever the program's function raises: try again
            _log.warning("no new token yet: %s", error)
            self._later("refresh", self._random.uniform(1.0, self._attempt), self._start_refresh)
            return
        self._renew_at(token)
        self._state.submit(Operation("refresh", type=token))
        self.wake()

    # --- writing and timers ---------------------------------------------------------------------------

    def wake(self) -> None:
        """Write what is to be written, once for everything that happens in this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self.final is not None:
            return
        now = self._clock.monotonic()
        self._handle(self._state.expire(now))
        written, events = self._state.outgoing(now)
        if written and self._connection is not None:
            self._connection.write(written)
            self._written = now
        self._handle(events)
        due = self._state.due()
        if due is None:
            self._cancel("due")
        else:
            self._later("due", max(due - now, 0.001), self.wake)
        self.adjust_reading()

    def _tick(self) -> None:
        """Look for silence four times a heartbeat."""
        connected, connection = self._state.connected, self._connection
        if connected is None or connection is None:
            return
        now = self._clock.monotonic()
        if connection.paused:
            # We hear nothing because we do not listen; the server is to hear us all the same.
            self._heard = now
            if now - self._written >= connected.heartbeat / 2:
                self._ping(connection, now)
        elif now - self._heard >= 2 * connected.heartbeat:
            connection.drop(End(0, "the server is silent", again=None), dead=True)
            return
        elif now - self._heard >= connected.heartbeat:
            self._ping(connection, now)
        self._later("tick", connected.heartbeat / 4, self._tick)

    def _ping(self, connection: Connection, now: float) -> None:
        connection.write([_PING])
        self._written = now

    def adjust_reading(self) -> None:
        """Pause reading at the inbox's bound, so that the server puts us aside.

        Not while an answer is awaited: it is behind the messages, and a handler may be what waits for it.
        Then messages are let go at twice the bound, and read again from the log once there is room.
        """
        connection, inbox = self._connection, self._inbox
        if connection is None or not inbox.attended:
            return
        if self._state.shedding:
            if inbox.count <= inbox.bound // 2:
                self._renew("reading again what there was no room for")
            return
        awaiting = self._state.awaiting
        self._state.shedding = awaiting and inbox.count >= 2 * inbox.bound
        connection.read(awaiting or inbox.count < inbox.bound)

    def _later(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        self._cancel(name)
        self._timers[name] = self._clock.call_later(seconds, call)

    def _cancel(self, *names: str) -> None:
        for name in list(names):
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()
