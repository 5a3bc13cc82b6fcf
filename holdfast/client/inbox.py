"""What has come and was not taken yet: one bounded queue in front of handlers and iterators."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final, Literal

from holdfast.protocol.frames import Message, Position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

EventName = Literal[
    "message", "connected", "disconnected", "subscribed", "unsubscribed", "reset", "drain", "error"
]
EVENTS: Final[frozenset[str]] = frozenset(EventName.__args__)  # type: ignore[attr-defined]

_log = logging.getLogger(__name__)


class Inbox:
    """Messages and other events in the order in which they came.

    Handlers of one event run one after the other; without a handler for `message`, messages wait for an
    iterator. `on_room` is called whenever something was taken. Where nobody ever asked for messages, the
    oldest is discarded at the bound (`discarded` counts them), so that a client may merely send.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.on_room: Callable[[], object] = lambda: None
        self.discarded = 0
        self.attended = False
        self._handlers: dict[str, list[Callable[[Any], Any]]] = defaultdict(list)
        self._queue: deque[tuple[str, Any]] = deque()
        self._messages = 0
        self._current: Message | None = None
        self._unread: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._readable = asyncio.Event()
        self._ended: Exception | None = None
        self._over = False

    def on(self, name: str, handler: Callable[[Any], Any]) -> None:
        """Call `handler` (a function or coroutine function) with each event of this name."""
        if name not in EVENTS:
            raise ValueError(f"there is no event {name!r}; there are {', '.join(sorted(EVENTS))}")
        if name == "message":
            self.attended = True
            self._queue.extendleft(("message", message) for message in reversed(self._unread))
            self._messages += len(self._unread)
            self._unread.clear()
            self._arrived.set()
        self._handlers[name].append(handler)

    @property
    def count(self) -> int:
        """Messages and other events that nobody has taken yet."""
        return len(self._queue) + len(self._unread)

    def put(self, name: EventName, value: Any) -> None:
        """Add an event."""
        if name == "message":
            if not self.attended and self.count >= self.bound:
                self._discard()
            self._messages += 1
        elif not self._handlers[name]:
            return
        self._queue.append((name, value))
        self._arrived.set()

    def _discard(self) -> None:
        if not self.discarded:
            _log.warning('nobody reads this client\'s messages (no on("message"), no messages()): discarding')
        self.discarded += 1
        if self._unread:
            self._unread.popleft()
            return
        for place, (name, _) in enumerate(self._queue):
            if name == "message":
                del self._queue[place]
                self._messages -= 1
                return

    async def run(self) -> None:
        """Hand events to their handlers until `end`, and what is left then."""
        while True:
            while self._queue:
                name, value = self._queue.popleft()
                if name != "message":
                    await self._call(name, value)
                    continue
                self._messages -= 1
                if not self._handlers["message"]:
                    self._unread.append(value)
                    self._readable.set()
                    continue
                self._current = value
                await self._call(name, value)
                self._current = None
                self.on_room()
            if self._over:
                self._readable.set()
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def _call(self, name: str, value: Any) -> None:
        for handler in self._handlers[name]:
            try:
                result = handler(value)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # noqa: BLE001 - one message's trouble is not the next one's
                _log.exception("a handler of %r failed", name)

    def end(self, error: Exception | None) -> None:
        """Let iterators end once everything is read: quietly, or by raising `error`."""
        self._ended = error
        self._over = True
        self._arrived.set()
        self._readable.set()

    def cut(self) -> None:
        """Call no handler any more; what no handler wants is still there for iterators."""
        if not self._handlers["message"]:
            self._unread.extend(value for name, value in self._queue if name == "message")
            self._queue.clear()
            self._messages = 0
        self.end(None)

    def reopen(self) -> None:
        """Undo `end`: the client connects again."""
        self._ended = None
        self._over = False

    async def iterate(self) -> AsyncIterator[Message]:
        """Yield messages as they come."""
        self.attended = True
        while True:
            while self._unread:
                message = self._unread.popleft()
                self.on_room()
                yield message
            if self._over and (self._handlers["message"] or not self._messages):
                if self._ended is not None:
                    raise self._ended
                return
            self._readable.clear()
            await self._readable.wait()

    def positions(self, received: Mapping[str, Position]) -> dict[str, Position]:
        """Return up to where the program has taken each channel, given what was `received`."""
        taken = dict(received)
        waiting = [value for name, value in self._queue if name == "message"]
        current = [] if self._current is None else [self._current]
        for message in reversed([*current, *self._unread, *waiting]):
            if message.channel in taken:
                taken[message.channel] = Position(message.epoch, message.seq - 1)
        return taken
