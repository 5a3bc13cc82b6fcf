"""Channels that have subscribers here, and where those stand.

All `live` subscribers of a channel stand at its position, which the channel holds once. Those who lag (they
join, or do not read) are in `own`, with a position each. A channel with a single subscriber holds it without
a set: most channels are inboxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.channel import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.log.port import View

    from .driver import Driver
    from .fanout import Flow
    from .joins import Join

UNKNOWN: Final = -1
"""The position of a channel that was not read yet."""


def older(view: View, epoch: str) -> bool:
    """Tell whether a view is of a moment before an epoch began, whose name has the offset at which it did."""
    generation, _, offset = epoch.partition(".")
    return generation == view.generation and offset.isdecimal() and view.position < int(offset)


class Channel:
    """A channel with a local subscriber, or one on its way.

    `epoch` and `seq`: everything up to there was given to the live subscribers, or is on its way to them in
    order. `joins` counts who is joining; `waiting` are those of them who wait for the route.
    """

    __slots__ = ("epoch", "flow", "joins", "live", "name", "own", "routed", "seq", "shard", "waiting")

    def __init__(self, name: str, shard: int) -> None:
        self.name = name
        self.shard = shard
        self.epoch = ""
        self.seq = UNKNOWN
        self.live: Driver | set[Driver] | None = None
        self.own: dict[Driver, int] | None = None
        self.flow: Flow | None = None
        self.joins = 0
        self.routed = False
        self.waiting: list[Join] | None = None

    @property
    def empty(self) -> bool:
        """Whether nobody needs it."""
        return not self.joins and not self.live and not self.own

    def live_drivers(self) -> list[Driver]:
        """Return the live subscribers, in a list of their own."""
        live = self.live
        if live is None:
            return []
        return list(live) if isinstance(live, set) else [live]

    def drivers(self) -> list[Driver]:
        """Return all subscribers."""
        return [*self.live_drivers(), *(self.own or ())]

    def add_live(self, driver: Driver) -> None:
        """Let a subscriber share the channel's position."""
        live = self.live
        if live is None:
            self.live = driver
        elif isinstance(live, set):
            live.add(driver)
        elif live is not driver:
            self.live = {live, driver}

    def remove_live(self, driver: Driver) -> bool:
        """Take a live subscriber out; tell whether it was one."""
        live = self.live
        if live is driver:
            self.live = None
            return True
        if isinstance(live, set) and driver in live:
            live.discard(driver)
            if not live:
                self.live = None
            return True
        return False

    def lag(self, driver: Driver, seq: int) -> None:
        """Give a subscriber a position of its own."""
        if self.own is None:
            self.own = {}
        self.own[driver] = seq

    def unlag(self, driver: Driver) -> bool:
        """Take a position of its own away; tell whether there was one."""
        own = self.own
        if own is None or own.pop(driver, None) is None:
            return False
        if not own:
            self.own = None
        return True


class Registry:
    """All channels of this node. `on_new` and `on_gone` write their routes."""

    def __init__(
        self, partitions: int, on_new: Callable[[Channel], None], on_gone: Callable[[Channel], None]
    ) -> None:
        self._partitions = partitions
        self._on_new = on_new
        self._on_gone = on_gone
        self._channels: dict[str, Channel] = {}

    def get(self, name: str) -> Channel | None:
        """Return a channel that somebody here has, or None."""
        return self._channels.get(name)

    def shard_of(self, name: str) -> int:
        """Return the shard of a channel."""
        return partition_of(name, self._partitions)

    def enter(self, name: str) -> Channel:
        """Return a channel for a join: it is kept until `left` was called as often."""
        channel = self._channels.get(name)
        if channel is None:
            channel = Channel(name, self.shard_of(name))
            self._channels[name] = channel
            self._on_new(channel)
        channel.joins += 1
        return channel

    def left(self, channel: Channel) -> None:
        """Note the end of a join, whatever came of it."""
        channel.joins -= 1
        self.tidy(channel)

    def tidy(self, channel: Channel) -> None:
        """Forget a channel that nobody needs any more."""
        if channel.empty and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._on_gone(channel)

    def of_shard(self, shard: int) -> Iterator[Channel]:
        """Yield the channels of a shard."""
        return (channel for channel in self._channels.values() if channel.shard == shard)

    def __len__(self) -> int:
        return len(self._channels)
