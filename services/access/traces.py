"""The last step of messages that are followed: from a push to what was written to connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.nodelink.frames import ChangeItem, MessageItem

if TYPE_CHECKING:
    from holdfast.clock import Clock
    from holdfast.nodelink.frames import Item
    from holdfast.observe.tracing import Span, Tracing

    from .fanout import Job
    from .registry import Channel, Registry

MAX_OPEN: Final = 1000
"""Messages on their way to connections that are followed at once; above it the step ends as `crowded`."""

OPEN_SECONDS: Final = 10.0
"""After this long it ends as `waiting`: nobody reads, or the channel went on elsewhere."""


class Traces:
    """Knows which entries that are being handed out are followed."""

    def __init__(self, tracing: Tracing, registry: Registry, clock: Clock, node: str) -> None:
        self._tracing = tracing
        self._registry = registry
        self._clock = clock
        self._node = node
        self._open: dict[str, list[tuple[int, float, Span]]] = {}
        self._count = 0

    def begin(self, item: Item) -> Span | None:
        """Begin the step of a pushed item, before it is handed on."""
        if isinstance(item, ChangeItem) or not item.trace:
            return None
        return self._tracing.follow(item.trace, "access deliver", node=self._node)

    def given(self, item: Item, span: Span) -> None:
        """Take an item that was handed on; a message may still be on its way to connections."""
        if not isinstance(item, MessageItem):
            span.end("reply")
            return
        channel = self._registry.get(item.channel)
        if channel is None:
            span.end("nobody", seq=item.seq)
        elif channel.flow is None:
            span.end("nothing new", seq=item.seq)
        elif self._count >= MAX_OPEN:
            span.end("crowded", seq=item.seq)
        else:
            self._count += 1
            self._open.setdefault(item.channel, []).append((item.seq, self._clock.monotonic(), span))

    def done(self, channel: Channel, job: Job) -> None:
        """End what a job has handed out. `read`: it came from the log, not from a push."""
        waiting = self._open.get(channel.name)
        if waiting is None or not job.count:
            return
        left = []
        for one in waiting:
            if job.start < one[0] <= job.end:
                one[2].end("read" if job.lagging else "delivered", seq=one[0], connections=len(job.to))
            else:
                left.append(one)
        self._keep(channel.name, waiting, left)

    def tick(self) -> None:
        """End what has been open for too long."""
        late = self._clock.monotonic() - OPEN_SECONDS
        for name, waiting in list(self._open.items()):
            left = []
            for one in waiting:
                if one[1] < late:
                    one[2].end("waiting", seq=one[0])
                else:
                    left.append(one)
            self._keep(name, waiting, left)

    def _keep(
        self, name: str, before: list[tuple[int, float, Span]], left: list[tuple[int, float, Span]]
    ) -> None:
        self._count -= len(before) - len(left)
        if left:
            self._open[name] = left
        else:
            self._open.pop(name, None)
