"""Fan-out: write what a channel has to all who are to get it, in slices, in order.

Encoded once per wire format. What is ready for a channel in one turn of the loop goes out in one write per
connection. A job is bound to those who were subscribed when it was made; the jobs of one channel run one
after the other, and after 2 ms of work the loop gets its turn. Who was put aside or joined since is skipped:
from then on the log serves it.
"""

from __future__ import annotations

import asyncio
import collections
import time
from typing import TYPE_CHECKING, Final

from holdfast.records import message_frame

from .formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.observe.metrics import Metrics

    from .driver import Driver
    from .registry import Channel

SLICE_SECONDS: Final = 0.002
SLICE_SENDS: Final = 256
"""Writes of one slice: what a transport puts off to the end of the turn takes time that is not seen here."""

LOOK: Final = 64
"""Sends between two looks at the clock."""

MAX_PENDING: Final = 1024 * 1024
"""Bytes that wait for their fan-out in one channel; above it the channel reads the log instead."""

SMALL: Final = 64
"""Subscribers up to whom a job is done at once."""

UNREADABLE: Final = b'"ts":0,"id":"","from":null,"type":"unreadable","data":null'
"""What a client of msgpack gets in the place of an entry that is no JSON."""

Entry = tuple[int, bytes]


class Flow:
    """What a channel has on its way: nothing for most channels, most of the time.

    `heard` is a position that was heard of and could not be placed: read the log. `again`: read it in any
    case. `left` counts the jobs of the read that is being handed out.
    """

    __slots__ = ("again", "heard", "jobs", "left", "pending", "size", "syncing")

    def __init__(self) -> None:
        self.pending: list[Entry] = []
        self.jobs: collections.deque[Job] = collections.deque()
        self.size = 0
        self.heard: tuple[str, int] | None = None
        self.again = False
        self.syncing = False
        self.left = 0

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return self.size >= MAX_PENDING

    @property
    def idle(self) -> bool:
        """Whether it can be forgotten."""
        return not (self.pending or self.jobs or self.syncing or self.again or self.heard)


class Blobs:
    """A run of entries as bytes for each wire format, made when the first connection needs it."""

    __slots__ = ("_channel", "entries", "made", "unreadable")

    def __init__(self, channel: Channel, entries: Sequence[Entry]) -> None:
        name, epoch = channel.name, channel.epoch
        self._channel = (name, epoch)
        self.entries = entries
        self.made: list[bytes | None] = [None] * len(FORMATS)
        self.unreadable = 0

    def __getitem__(self, form: int) -> bytes:
        made = self.made[form]
        if made is None:
            made = b"".join([self._one(form, seq, entry) for seq, entry in self.entries])
            self.made[form] = made
        return made

    def _one(self, form: int, seq: int, entry: bytes) -> bytes:
        name, epoch = self._channel
        try:
            return _message(form, name, epoch, seq, entry)
        except ValueError:
            self.unreadable += 1
            return _message(form, name, epoch, seq, UNREADABLE)


def _message(form: int, name: str, epoch: str, seq: int, entry: bytes) -> bytes:
    """Return an entry as a connection gets it.

    Raises ValueError for one that is no JSON where that shows. UNREADABLE then takes its place, so that what
    follows can be told from a gap.
    """
    return FORMATS[form].wrap(message_frame(name, seq, epoch, entry))


class Frames:
    """One frame as bytes for each wire format, in the place of entries."""

    __slots__ = ("_frame", "made")

    unreadable: Final = 0
    entries: Final[Sequence[Entry]] = ()

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self.made: list[bytes | None] = [None] * len(FORMATS)

    def __getitem__(self, form: int) -> bytes:
        made = self.made[form]
        if made is None:
            made = self.made[form] = FORMATS[form].wrap(self._frame)
        return made


class Job:
    """Entries `start` + 1 to `end`, and those who get them. `lagging`: they stand at `start` on their own."""

    __slots__ = (
        "began",
        "blobs",
        "channel",
        "count",
        "done",
        "end",
        "lagging",
        "size",
        "skip",
        "start",
        "to",
    )

    blobs: Blobs | Frames

    def __init__(
        self, channel: Channel, entries: Sequence[Entry], start: int, to: Sequence[Driver], *, lagging: bool
    ) -> None:
        self.channel = channel
        self.blobs = Blobs(channel, entries)
        self.count = len(entries)
        self.size = sum(len(entry) for _, entry in entries)
        self.start = start
        self.end = entries[-1][0]
        self.to = to
        self.done = 0
        self.skip: set[Driver] | None = None
        self.lagging = lagging
        self.began = 0.0


class Notice(Job):
    """A frame about the channel itself. Who does not read gets it too: it is small, and comes once."""

    __slots__ = ()

    def __init__(self, channel: Channel, frame: bytes, to: Sequence[Driver]) -> None:
        self.channel = channel
        self.blobs = Frames(frame)
        self.count = 0
        self.size = 0
        self.start = self.end = channel.seq
        self.to = to
        self.done = 0
        self.skip = None
        self.lagging = False
        self.began = 0.0


class Fanout:
    """Runs the jobs of all channels.

    `put` writes to a connection at the end of the loop's turn. `on_aside` takes a subscriber who does not
    read out of the channel, at a position; `on_caught_up` hears of a lagging one who got a job; `on_done` of
    each job's end.
    """

    def __init__(
        self,
        metrics: Metrics,
        put: Callable[[Driver, bytes], None],
        on_aside: Callable[[Channel, Driver, int], None],
        on_caught_up: Callable[[Channel, Driver, int], None],
        on_done: Callable[[Channel, Job], None],
    ) -> None:
        self.slice_sends = SLICE_SENDS
        self._metrics = metrics
        self._put = put
        self._on_aside = on_aside
        self._on_caught_up = on_caught_up
        self._on_done = on_done
        self._ready: dict[Channel, None] = {}
        self._scheduled = False
        self._active: collections.deque[Job] = collections.deque()
        self.bytes = 0

    def add(self, channel: Channel, flow: Flow, seq: int, entry: bytes) -> None:
        """Give the next entry to the channel's live subscribers, soon."""
        flow.pending.append((seq, entry))
        flow.size += len(entry)
        self._ready[channel] = None
        self._wake()

    def one(self, channel: Channel, driver: Driver, seq: int, entry: bytes) -> None:
        """Give the next entry to the only subscriber of a channel that has nothing on its way.

        Most channels are inboxes. What a connection gets in one turn is joined by `put`, so it needs no job.
        """
        name, epoch = channel.name, channel.epoch
        try:
            blob = _message(driver.format, name, epoch, seq, entry)
        except ValueError:
            self._metrics.access_unreadable.inc()
            blob = _message(driver.format, name, epoch, seq, UNREADABLE)
        self._put(driver, blob)
        self.bytes += len(blob)
        self._metrics.access_fanout_size.observe(1)
        self._metrics.access_deliveries.inc()

    def cut(self, channel: Channel) -> None:
        """Bind what waits in the channel to those who are live now, before that changes."""
        flow = channel.flow
        if flow is None or not flow.pending:
            return
        entries, flow.pending = flow.pending, []
        job = Job(channel, entries, entries[0][0] - 1, channel.live_drivers(), lagging=False)
        self._metrics.access_fanout_size.observe(len(job.to))
        self.run(flow, job)

    def drop(self, channel: Channel) -> None:
        """Forget what waits in the channel: its subscribers are told that they missed it."""
        flow = channel.flow
        if flow is not None and flow.pending:
            flow.size -= sum(len(entry) for _, entry in flow.pending)
            flow.pending = []

    def run(self, flow: Flow, job: Job) -> None:
        """Run a job, after those that its channel has already."""
        if job.lagging:
            flow.size += job.size
        flow.jobs.append(job)
        if len(flow.jobs) > 1:
            return
        if len(job.to) <= SMALL:
            try:
                self._work(job, len(job.to))
            finally:
                self._finish(job)  # or the channel's later jobs would wait for it for ever
        else:
            job.began = time.perf_counter()
            self._active.append(job)
            self._wake()

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        ready, self._ready = self._ready, {}
        for channel in ready:
            self.cut(channel)
        end = time.perf_counter() + SLICE_SECONDS
        sends = self.slice_sends
        active = self._active
        while active and sends > 0:
            job = active[0]
            step = min(LOOK, sends)
            self._work(job, step)
            sends -= step
            if job.done >= len(job.to):
                active.popleft()
                self._finish(job)
            elif time.perf_counter() > end:
                active.rotate(-1)  # other channels come before the rest of this crowd
                break
        if active or self._ready:
            self._wake()

    def _work(self, job: Job, most: int) -> None:
        """Write a job to the next `most` of its connections."""
        blobs, skip, lagging, notice = job.blobs, job.skip, job.lagging, isinstance(job, Notice)
        few, put = len(job.to) <= SMALL, self._put
        made = blobs.made  # a call of ours for each delivery would be 2 % of a crowd's
        to = job.to[job.done : job.done + most]
        written = 0
        # Set before the loop: what is called from it may look at the job.
        job.done += len(to)
        for driver in to:
            if skip is not None and driver in skip:
                continue
            if driver.blocked and (driver.ended or not notice):
                if not lagging and not driver.ended:
                    self._on_aside(job.channel, driver, job.start)
                continue
            if lagging:
                own = job.channel.own
                if own is None or own.get(driver) != job.start:
                    continue
            blob = made[driver.format] or blobs[driver.format]
            if few or driver.out is not None:
                put(driver, blob)
            else:
                driver.transport.write(blob)
            if lagging:
                self._on_caught_up(job.channel, driver, job.end)
            written += 1
        if written:
            # Counted here, not for each: of several formats the mean will do.
            sizes = [len(blob) for blob in made if blob is not None]
            self.bytes += written * sum(sizes) // len(sizes)
            self._metrics.access_deliveries.inc(written * job.count)

    def _finish(self, job: Job) -> None:
        channel = job.channel
        flow = channel.flow
        assert flow is not None
        flow.jobs.popleft()
        flow.size -= job.size
        if job.began:
            self._metrics.access_fanout_seconds.observe(time.perf_counter() - job.began)
        if job.blobs.unreadable:
            self._metrics.access_unreadable.inc(job.blobs.unreadable)
        if flow.jobs:
            following = flow.jobs[0]
            if len(following.to) > SMALL:
                following.began = time.perf_counter()
            self._active.append(following)
            self._wake()
        self._on_done(channel, job)
