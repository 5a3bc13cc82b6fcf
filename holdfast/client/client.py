"""The client as programs see it."""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
import secrets
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from holdfast.client.driver import Driver
from holdfast.client.events import Operation
from holdfast.client.inbox import Inbox
from holdfast.client.state import ClientState
from holdfast.clock import Clock, SystemClock, within
from holdfast.errors import Retry
from holdfast.network import Network, TcpNetwork
from holdfast.protocol import frames

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncIterator, Callable, Mapping

    from holdfast.client import tokens
    from holdfast.client.inbox import EventName

H = TypeVar("H", bound="Callable[[Any], Any]")


class Client:
    """A client of a Holdfast cluster that comes back by itself and loses nothing on the way.

    `url`: `ws://`, `wss://`, `tcp://` or `tcps://`. `token`: a JWT, or a (coroutine) function that returns
    one; with a function the client fetches the next token in time. `client`: the id under which repeated
    sends are recognised; by default a new one for each object. `resume`: positions of an earlier run, from
    `positions()`. `queue`: messages that may wait for the program before reading pauses. `pending`: sends
    and requests that may wait, before `send` itself waits for room.
    """

    def __init__(
        self,
        url: str,
        *,
        token: tokens.Token,
        client: str | None = None,
        device: str = "",
        resume: Mapping[str, frames.Position] | None = None,
        queue: int = 1000,
        pending: int = 1000,
        backoff: tuple[float, float] = (0.5, 30.0),
        attempt: float = 10.0,
        network: Network | None = None,
        clock: Clock | None = None,
        random: random_module.Random | None = None,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        random = random or random_module.Random()  # noqa: S311 - spreads load, hides nothing
        self._clock: Clock = clock or SystemClock()
        self._state = ClientState(
            client=client or secrets.token_urlsafe(12), device=device, resume=resume or {}, random=random
        )
        self._inbox = Inbox(queue)
        self._slots = asyncio.Semaphore(pending)
        self._driver = Driver(
            url,
            token=token,
            state=self._state,
            inbox=self._inbox,
            network=network or TcpNetwork(),
            clock=self._clock,
            random=random,
            backoff=backoff,
            attempt=attempt,
            ssl=ssl,
        )

    # --- life -----------------------------------------------------------------------------------------

    async def connect(self, timeout: float = 30.0) -> frames.Connected:
        """Connect, and stay connected until `close`. Returns the server's `connected` frame.

        Raises Closed when the server refuses for good, Retry when nothing answered within `timeout` seconds.
        """
        self._driver.start()
        try:
            return await within(self._clock, timeout, self._driver.connected())
        except TimeoutError:
            await self.close()
            raise Retry(f"not connected within {timeout:g} s; {self._driver.last_error}") from None

    async def close(self) -> None:
        """End the connection and everything that waits for it. What was not acked is reported so.

        Returns once the connection is gone, which takes a moment; after a second it is cut off.
        """
        await self._driver.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def session(self) -> frames.Connected | None:
        """What the server said in `connected`; None while there is no connection."""
        return self._state.connected

    @property
    def discarded(self) -> int:
        """Messages discarded because the program never asked for any."""
        return self._inbox.discarded

    def positions(self) -> dict[str, frames.Position]:
        """Return up to where the program has taken each channel: `resume` of the next run."""
        return self._inbox.positions(self._state.positions)

    # --- what programs do -----------------------------------------------------------------------------

    def on(self, name: EventName) -> Callable[[H], H]:
        """Register a handler (function or coroutine function) of one argument; handlers run one by one.

        `message` (Message), `connected` (Connected), `disconnected` (Disconnected), `subscribed`,
        `unsubscribed`, `reset`, `drain` (the frames), `error` (Trouble: what answers no call of yours).
        The last event of a client that gives up is `disconnected` with `again` false.
        """

        def register(handler: H) -> H:
            self._inbox.on(name, handler)
            return handler

        return register

    def messages(self) -> AsyncIterator[frames.Message]:
        """Iterate over messages. Ends after `close`; raises Closed when the server ended it for good."""
        return self._inbox.iterate()

    async def send(self, to: str, type: str, data: Any = None) -> str:  # noqa: A002 - the protocol's name
        """Send a message to a channel; return its id once it is durable.

        It is repeated over reconnects until then, and appears once. Raises Reject when it is refused,
        OutcomeUnknown when it can no longer be repeated safely, Closed.
        """
        return str(await self._perform(Operation("send", to, type, _raw(data))))

    async def request(self, type: str, data: Any = None, *, timeout: float = 30.0) -> Any:  # noqa: A002
        """Ask a handler; return its reply. Asked again over reconnects, so it may be handled twice.

        Raises Reject when it is refused, TimeoutError after `timeout` seconds, Closed.
        """
        return await within(self._clock, timeout, self._perform(Operation("request", "", type, _raw(data))))

    async def subscribe(self, channel: str, since: frames.Position | None = None) -> frames.Subscribed:
        """Subscribe to a channel, now and after every reconnect. Raises Reject when it is not allowed."""
        ours = self._state.positions.get(channel)
        if ours is not None:
            if since is not None:
                raise ValueError(f"{channel} is subscribed already: unsubscribe before going back")
            return frames.Subscribed(None, channel, ours.epoch, ours.seq, recovered=True)
        result: frames.Subscribed = await self._perform(Operation("subscribe", channel, since=since))
        return result

    async def unsubscribe(self, channel: str) -> None:
        """Leave a channel: none of its messages is presented any more from this moment on."""
        await self._perform(Operation("unsubscribe", channel))

    def cursor(self, channel: str, seq: int) -> None:
        """Tell the server that everything up to `seq` is processed; a client without memory resumes there."""
        self._state.cursor(channel, seq)
        self._driver.wake()

    async def _perform(self, operation: Operation) -> Any:
        slots = self._slots if operation.kind in ("send", "request") else contextlib.nullcontext()
        async with slots:
            if self._driver.final is not None:
                raise self._driver.final
            operation.waiter = asyncio.get_running_loop().create_future()
            self._state.submit(operation)
            self._driver.wake()
            try:
                return await operation.waiter
            except asyncio.CancelledError:
                self._state.withdraw(operation)
                raise


def _raw(data: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(data))
