"""A sender as invariant 12 has it: numbers in order, again from the first that failed, from node to node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import Retry

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence

    from holdfast.bus.port import Producer


class Connection:
    """What an access node does for one connection: after `n` failed, only `n` is taken."""

    def __init__(self, sender: Sender, producer: Producer) -> None:
        self.failed: int | None = None
        self._last: asyncio.Future[int] | None = None
        self._sender = sender
        self._producer = producer

    def send(self, n: int) -> bool:
        """Produce one number; False: refused."""
        if self.failed is not None and n != self.failed:
            return False
        last = self._last
        if last is not None and last.done() and last.exception() is not None:
            return False  # it has just failed, and who is told so hears it in the loop's next turn
        try:
            future = self._producer.produce("inbound", self._sender.partition, b"k", self._sender.value(n))
        except Retry:
            self.failed = n
            self._sender.failures += 1
            return False
        self.failed = None
        self._last = future
        future.add_done_callback(lambda done: self._done(n, done))
        return True

    def _done(self, n: int, done: asyncio.Future[int]) -> None:
        if done is self._last:
            self._last = None
        if done.cancelled() or done.exception() is not None:
            self._sender.failures += 1
            self.failed = n if self.failed is None else min(n, self.failed)
        else:
            self._sender.acked[n] = done.result()


class Sender:
    """Sends 0, 1, 2 and so on over whichever connection it has now; what is not acked is sent again."""

    def __init__(self, name: bytes, partition: int, producers: Sequence[Producer], window: int = 50) -> None:
        self.partition = partition
        self.acked: dict[int, int] = {}
        self.failures = 0
        self.moves = 0
        self._name = name
        self._producers = producers
        self._window = window
        self._next = 0
        self._connection = Connection(self, producers[0])

    def value(self, n: int) -> bytes:
        return b"%b:%d" % (self._name, n)

    @property
    def lowest(self) -> int:
        """The first number without an ack."""
        n = len(self.acked)
        while n in self.acked:
            n += 1
        return next((m for m in range(n) if m not in self.acked), n)

    def pump(self, count: int) -> None:
        """Send so many more, as far as the window and the node let it."""
        connection = self._connection
        if connection.failed is not None:
            self._next = connection.failed
        for _ in range(count):
            if self._next >= self.lowest + self._window or not connection.send(self._next):
                return
            self._next += 1

    def move(self) -> None:
        """Leave this node, whatever is on its way there, and go on over the next."""
        self.moves += 1
        self._connection = Connection(self, self._producers[self.moves % len(self._producers)])
        self._next = self.lowest

    def check(self, values: Iterable[tuple[int, bytes | None]]) -> None:
        """Assert that what a log has of this sender (by offset) is a prefix, every ack in its place."""
        mine = {
            offset: int(value.rpartition(b":")[2])
            for offset, value in values
            if value is not None and value.startswith(self._name + b":")
        }
        highest = -1
        for n in mine.values():
            assert n <= highest + 1, f"{n} was written after {highest}: a gap"
            highest = max(highest, n)
        for n, offset in self.acked.items():
            assert mine[offset] == n, f"{n} was acked at {offset}, where {mine.get(offset)} is"
