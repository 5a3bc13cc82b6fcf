"""Who has what of each channel: pushes, gaps, reads of the log, and subscribers who lag.

The log is the truth, the push is a hint. A push that follows the channel's position goes to the live
subscribers; one that does not makes the channel read the log, and so does a subscriber who is behind. One
read per channel is in flight; it serves all who stand within the same page.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.log.port import Query
from holdfast.protocol.frames import Reset
from holdfast.records import entry_ts

from . import journal
from .fanout import Fanout, Flow, Job, Notice
from .registry import UNKNOWN, Channel, older

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.log.port import View
    from holdfast.observe.metrics import Metrics

    from .driver import Driver
    from .fanout import Entry
    from .reader import Reader
    from .traces import Traces

PAGE: Final = 100
"""Entries of one channel in one read, at most."""

PAGE_BYTES: Final = 128 * 1024
"""Bytes of entries written to one lagging connection before it is looked at again whether it reads."""

_encode: Final = msgspec.json.Encoder().encode
TIMED: Final = 8
"""One message in so many is timed, pushed or read since its push was lost: a late crowd weighs as a crowd."""

_log = logging.getLogger(__name__)


class Delivery:
    """Brings each channel's messages to its subscribers, each once and in order (inv 4)."""

    def __init__(
        self,
        reader: Reader,
        metrics: Metrics,
        put: Callable[[Driver, bytes], None],
        catch_up: int,
        traces: Traces | None,
    ) -> None:
        self._reader = reader
        self._metrics = metrics
        self._catch_up = catch_up
        self._advanced = 0
        self._traces = traces
        self._journal = journal.wanted()
        self._followed = self._journal or traces is not None
        self.fanout = Fanout(metrics, put, self._aside, self._caught_up, self._job_done)

    # pushes

    def push(self, channel: Channel, epoch: str, seq: int, entry: bytes) -> None:
        """Take one pushed entry."""
        if channel.seq != UNKNOWN and not channel.epoch and channel.seq == 0 and seq == 1:
            channel.epoch = epoch  # the channel's first message: nothing can have been missed
        if channel.epoch != epoch:
            self.heard(channel, epoch, seq)
            return
        if seq <= channel.seq:
            self._metrics.access_duplicates.inc()
            return
        flow = channel.flow
        if seq == channel.seq + 1 and channel.seq != UNKNOWN and (flow is None or not flow.full):
            self._advance(channel, seq, entry)
            return
        if channel.seq != UNKNOWN and (flow is None or (flow.heard is None and not flow.syncing)):
            self._metrics.access_gaps.inc()
        self.heard(channel, epoch, seq)

    def heard(self, channel: Channel, epoch: str, seq: int) -> None:
        """Take a position that somebody else knows of: what leads there is to be read."""
        flow = self._flow(channel)
        heard = flow.heard
        if heard is None or heard[0] != epoch or heard[1] < seq:
            flow.heard = (epoch, seq)
        self._sync(channel)

    def look(self, channel: Channel) -> None:
        """Read the channel, whatever was heard of it."""
        self._flow(channel).again = True
        self._sync(channel)

    def _advance(self, channel: Channel, seq: int, entry: bytes) -> None:
        channel.seq = seq
        live = channel.live
        if live is not None:
            # Who follows messages wants to know of the end of jobs.
            if isinstance(live, set) or live.blocked or channel.flow is not None or self._followed:
                self.fanout.add(channel, self._flow(channel), seq, entry)
            else:
                self.fanout.one(channel, live, seq, entry)
            if not self._advanced % TIMED:
                age = self._reader.clock.now_ms() - entry_ts(entry)
                self._metrics.access_delivery_seconds.observe(max(age, 0) / 1000)
            self._advanced += 1
        if channel.own is not None:
            for driver in [driver for driver, place in channel.own.items() if place == seq]:
                if not driver.blocked:
                    self.go_live(channel, driver)

    # subscribers

    def placed(self, channel: Channel, view: View) -> None:
        """Take what a read for somebody else said of the channel's position."""
        if channel.seq == UNKNOWN:
            channel.epoch, channel.seq = view.epoch, view.head
            flow = channel.flow
            if flow is not None and flow.heard is not None:
                epoch, seq = flow.heard
                flow.heard = None
                if epoch != view.epoch or seq > view.head:
                    self.heard(channel, epoch, seq)
            if flow is not None and flow.again:
                self._sync(channel)  # it was to be looked at before it had a position
            return
        if channel.epoch != view.epoch:
            if older(view, channel.epoch):
                return  # a push came before this answer, and knows more
            if channel.epoch or channel.seq or view.first != 1:
                self._switch(channel, view)
                return
            channel.epoch = view.epoch
        if view.head > channel.seq:
            self.heard(channel, view.epoch, view.head)

    def settle(self, channel: Channel, driver: Driver, epoch: str, seq: int) -> None:
        """Let a subscriber begin who was told that delivery goes on after this position."""
        # A position without an epoch is before the channel's first message, which may have come since.
        if epoch not in (channel.epoch, ""):
            self._resets(channel, [driver], "another epoch began")
        elif seq == channel.seq:
            self.go_live(channel, driver)
        else:
            channel.lag(driver, seq)
            self._sync(channel)

    def go_live(self, channel: Channel, driver: Driver) -> None:
        """Let a subscriber share the channel's position, at which it stands."""
        channel.unlag(driver)
        # What waits was read from the log already. Jobs that it was bound to earlier skip it since it left.
        self.fanout.cut(channel)
        channel.add_live(driver)

    def leave(self, channel: Channel, driver: Driver) -> None:
        """Take a subscriber out."""
        if not channel.remove_live(driver):
            channel.unlag(driver)
        elif channel.flow is not None:
            self._skip(channel, driver)

    def reads_again(self, channel: Channel, driver: Driver) -> None:
        """Go on with a subscriber who was put aside and takes bytes again."""
        own = channel.own
        if own is None or driver not in own:
            return
        if own[driver] == channel.seq:
            self.go_live(channel, driver)
        else:
            self._sync(channel)

    def _aside(self, channel: Channel, driver: Driver, seq: int) -> None:
        """Give a live subscriber who does not read a position of its own; nothing is buffered for it."""
        if not channel.remove_live(driver):
            return
        channel.lag(driver, seq)
        self._skip(channel, driver)
        driver.put_aside()

    def _skip(self, channel: Channel, *drivers: Driver) -> None:
        # What waits unbound has the subscriber no more; what is bound must pass it by.
        flow = channel.flow
        for job in flow.jobs if flow is not None else ():
            if job.skip is None:
                job.skip = set()
            job.skip.update(drivers)

    # reading

    def _flow(self, channel: Channel) -> Flow:
        flow = channel.flow
        if flow is None:
            flow = channel.flow = Flow()
        return flow

    def _sync(self, channel: Channel) -> None:
        """Read what is missing, unless a read is under way, after which it is looked at again."""
        flow = self._flow(channel)
        if flow.syncing or channel.seq == UNKNOWN or flow.full:
            return
        places = set()
        lost: list[Driver] = []
        for driver, place in (channel.own or {}).items():
            if driver.blocked or place >= channel.seq:
                continue
            if channel.seq - place > self._catch_up:
                lost.append(driver)
            else:
                places.add(place)
        if lost:
            self._resets(channel, lost, "more was missed than is sent again")
            if channel.flow is not flow or flow.syncing:
                return  # at the end of the resets it was looked at again
        if flow.again or flow.heard is not None:
            places.add(channel.seq)
        flow.again = False
        flow.heard = None
        if not places:
            self._tidy(channel)
            return
        flow.syncing = True
        starts: list[int] = []
        for place in sorted(places):
            if not starts or place >= starts[-1] + PAGE:
                starts.append(place)
        views: dict[int, View] = {}
        for start in starts:
            self._reader.read(
                channel.shard,
                Query(channel.name, after=start, limit=PAGE),
                functools.partial(self._page, channel, views, start, len(starts)),
            )

    def _page(self, channel: Channel, views: dict[int, View], start: int, count: int, view: View) -> None:
        views[start] = view
        if len(views) == count:
            self._read(channel, views)

    def _read(self, channel: Channel, views: dict[int, View]) -> None:
        flow = self._flow(channel)
        newest = views[max(views)]
        if newest.epoch != channel.epoch:
            if not channel.epoch and channel.seq == 0 and newest.first == 1:
                channel.epoch = newest.epoch
            else:
                if older(newest, channel.epoch):
                    self._reader.later(functools.partial(self.look, channel))
                else:
                    self._switch(channel, newest)
                self._synced(channel)
                return
        flow.left = 1
        for start in sorted(views):
            self._hand_out(channel, flow, start, views[start])
        if newest.head > channel.seq and newest.epoch == channel.epoch and flow.heard is None:
            flow.heard = (newest.epoch, newest.head)  # more than a page is missing
        flow.left -= 1
        if flow.left == 0 and newest.head < channel.seq:
            self._reader.later(functools.partial(self._synced, channel))  # the store is behind
        elif flow.left == 0:
            self._synced(channel)

    def _hand_out(self, channel: Channel, flow: Flow, start: int, view: View) -> None:
        """Give a page to those who stand within it; the live first, so that the others can join them."""
        if view.epoch != channel.epoch:
            return
        entries = view.entries
        if start <= channel.seq < view.first - 1:
            self._switch(channel, view)
            return
        for seq, entry in entries:
            if seq == channel.seq + 1 and not flow.full:
                self._advance(channel, seq, entry)
        groups: dict[int, list[Driver]] = {}
        for driver, place in (channel.own or {}).items():
            if start <= place < start + PAGE and place < channel.seq and not driver.blocked:
                groups.setdefault(place, []).append(driver)
        for place, drivers in groups.items():
            if place < view.first - 1:
                self._resets(channel, drivers, "what was missed is not kept any more")
                continue
            run = _run(entries, place, channel.seq)
            if run:
                flow.left += 1
                self.fanout.run(flow, Job(channel, run, place, drivers, lagging=True))

    def _caught_up(self, channel: Channel, driver: Driver, seq: int) -> None:
        if seq == channel.seq:
            self.go_live(channel, driver)
        else:
            channel.lag(driver, seq)

    def _job_done(self, channel: Channel, job: Job) -> None:
        if self._traces is not None:
            self._traces.done(channel, job)
        if self._journal:
            journal.delivered(channel, job)
        flow = self._flow(channel)
        if job.lagging:
            flow.left -= 1
            if flow.left == 0:
                self._synced(channel)
        elif flow.heard is not None or flow.again or channel.own is not None:
            self._sync(channel)
        else:
            self._tidy(channel)

    def _synced(self, channel: Channel) -> None:
        flow = self._flow(channel)
        flow.syncing = False
        heard = flow.heard
        if heard is not None and heard[0] == channel.epoch and heard[1] <= channel.seq:
            flow.heard = None
        self._sync(channel)

    def _tidy(self, channel: Channel) -> None:
        flow = channel.flow
        if flow is not None and flow.idle:
            channel.flow = None

    # broken continuity

    def _switch(self, channel: Channel, view: View) -> None:
        """Go on at the log's head: another epoch, or the channel's place is not kept any more.

        Who began after what is still kept, further on than this channel has got, misses nothing and stays.
        """
        _log.info("a channel goes on elsewhere", extra={"channel": channel.name, "epoch": view.epoch})
        reason = (
            "another epoch began" if view.epoch != channel.epoch else "what was missed is not kept any more"
        )
        ahead: dict[Driver, int] = {}
        if view.epoch == channel.epoch and channel.own is not None:
            ahead = {driver: place for driver, place in channel.own.items() if place >= view.first - 1}
        self.fanout.drop(channel)
        channel.epoch, channel.seq = view.epoch, view.head
        self._resets(channel, [driver for driver in channel.drivers() if driver not in ahead], reason)
        for driver, place in ahead.items():
            if place == channel.seq and not driver.blocked:
                self.go_live(channel, driver)

    def _resets(self, channel: Channel, drivers: Sequence[Driver], reason: str) -> None:
        """Let subscribers go on at the channel's position, and tell them so, in slices as any fan-out.

        What comes after it waits behind the notice.
        """
        self.fanout.cut(channel)  # those who lag stand behind what waits, and are not to get it
        self._skip(channel, *drivers)  # nothing of before may come after the reset
        for driver in drivers:
            if driver.blocked:
                if not channel.remove_live(driver):
                    channel.unlag(driver)
                channel.lag(driver, channel.seq)
            else:
                channel.unlag(driver)
                channel.add_live(driver)
        self._metrics.access_resets.inc(len(drivers))
        frame = _encode(Reset(channel.name, channel.epoch, channel.seq, reason))
        self.fanout.run(self._flow(channel), Notice(channel, frame, drivers))


def _run(entries: Sequence[Entry], after: int, upto: int) -> list[Entry]:
    """Return the entries that follow `after` without a gap, up to `upto` and about PAGE_BYTES."""
    run: list[Entry] = []
    size = 0
    for seq, entry in entries:
        if seq == after + 1 + len(run) and seq <= upto and size < PAGE_BYTES:
            run.append((seq, entry))
            size += len(entry)
    return run
