"""A connected user, as a test holds one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from holdfast.client import Client, Message, Reset, Subscribed, Trouble
    from holdfast.testing.driving import Driving

T = TypeVar("T")

LIMIT = 30.0
"""Seconds of the cluster's time that a call may take."""


class Peer:
    """One session of `user`. `client` is the real client beneath.

    Whatever came and was not taken by `receive` waits in `inbox`; `errors` are what answered no call
    (refusals by handlers among them), `resets` the channels that lost their continuity.
    """

    def __init__(self, user: str, client: Client, driving: Driving) -> None:
        self.user = user
        self.client = client
        self.inbox: deque[Message] = deque()
        self.errors: deque[Trouble] = deque()
        self.resets: list[Reset] = []
        self._driving = driving
        self._news = asyncio.Event()
        client.on("message")(self._arrived)
        client.on("error")(self._went_wrong)
        client.on("reset")(self.resets.append)

    def _arrived(self, message: Message) -> None:
        self.inbox.append(message)
        self._news.set()

    def _went_wrong(self, trouble: Trouble) -> None:
        self.errors.append(trouble)
        self._news.set()

    @property
    def session(self) -> str:
        """The session's id, "" while there is none."""
        return self.client.session.session if self.client.session is not None else ""

    async def connect(self) -> None:
        """Connect, again after a `close` or an end by the server."""
        await self._run(self.client.connect(), f"{self.user} connecting")

    async def send(self, to: str, type: str, data: Any = None) -> str:  # noqa: A002 - the protocol's name
        """Send a message; return its id once it is acked. Raises as `Client.send`."""
        return await self._run(self.client.send(to, type, data), f"{self.user} sending {type} to {to}")

    async def request(self, type: str, data: Any = None) -> Any:  # noqa: A002
        """Ask a handler; return its reply. Raises as `Client.request`."""
        return await self._run(self.client.request(type, data), f"{self.user} asking {type}")

    async def subscribe(self, channel: str) -> Subscribed:
        """Subscribe to a channel. Raises Reject."""
        return await self._run(self.client.subscribe(channel), f"{self.user} subscribing to {channel}")

    async def unsubscribe(self, channel: str) -> None:
        """Leave a channel."""
        await self._run(self.client.unsubscribe(channel), f"{self.user} leaving {channel}")

    async def receive(
        self,
        *,
        type: str | None = None,  # noqa: A002
        channel: str | None = None,
        within: float = 5.0,
    ) -> Message:
        """Return the next message (of this type, of this channel), which is taken out of `inbox`.

        Raises AssertionError when none has come within `within` seconds of the cluster's time.
        """

        def wanted(message: Message) -> bool:
            return type in (None, message.type) and channel in (None, message.channel)

        what = f"{self.user} receiving {type or 'a message'}" + (f" of {channel}" if channel else "")
        return await self._run(self._take(self.inbox, wanted), what, within)

    async def receive_error(self, *, within: float = 5.0) -> Trouble:
        """Return the next error that answered no call, as a handler's refusal of a `send`."""
        return await self._run(
            self._take(self.errors, lambda _: True), f"{self.user} receiving an error", within
        )

    async def receive_nothing(self, seconds: float = 1.0) -> None:
        """Let time pass. Raises AssertionError when a message has come by then."""
        await self._driving.advance(seconds)
        if self.inbox:
            raise AssertionError(f"{self.user} was to receive nothing, and got {self.inbox[0]}")

    async def close(self) -> None:
        """End the session."""
        await self.client.close()
        await self._driving.clock.settle()

    async def _take(self, items: deque[T], wanted: Callable[[T], bool]) -> T:
        while True:
            for item in items:
                if wanted(item):
                    items.remove(item)
                    return item
            self._news.clear()
            await self._news.wait()

    async def _run(self, work: Coroutine[Any, Any, T], what: str, limit: float = LIMIT) -> T:
        return await self._driving.run(work, limit, what)
