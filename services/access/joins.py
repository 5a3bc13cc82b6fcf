"""Joining a channel: the route first, then a read that says where the subscriber stands (inv 5).

A join waits for the batch that carries its channel's route, asks the log about the channel (and, in the same
read, for the stored cursor, the membership or the user's groups), and tells whoever began it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from holdfast.log.port import Change, Query

from .registry import older

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.clock import Clock
    from holdfast.log.port import Membership, View
    from holdfast.protocol.frames import Position

    from .delivery import Delivery
    from .driver import Driver
    from .durable import Durable
    from .reader import Reader
    from .registry import Channel, Registry
    from .routes import Routes

LOST_RETRY: Final = 0.5
"""Seconds after which a shard that knows less than the client is asked again."""


class Start:
    """Where a subscriber begins: everything up to `seq` of `epoch` is known or not asked for."""

    __slots__ = ("epoch", "recovered", "seq")

    def __init__(self, epoch: str, seq: int, *, recovered: bool) -> None:
        self.epoch = epoch
        self.seq = seq
        self.recovered = recovered


class Join:
    """One subscriber on its way into one channel. `call` gets it with the view, or with None: refused.

    `automatic` ones begin at the stored cursor; `member`: only members may; `user`: the view is to have the
    user's groups; `floor`: where a membership began; `fresh`: it began just now, nothing after it
    was seen. `durable`: the offset that a store must have taken in for its "no" to count; None: not known.
    """

    __slots__ = (
        "automatic",
        "call",
        "channel",
        "done",
        "driver",
        "durable",
        "floor",
        "fresh",
        "member",
        "since",
        "user",
    )

    def __init__(
        self,
        driver: Driver,
        channel: Channel,
        call: Callable[[Join, View], None],
        *,
        since: Position | None = None,
        automatic: bool = False,
        member: bool = False,
        user: bool = False,
        floor: Membership | None = None,
        fresh: bool = False,
    ) -> None:
        self.fresh = fresh
        self.driver = driver
        self.channel = channel
        self.call = call
        self.since = since
        self.automatic = automatic
        self.member = member
        self.user = user
        self.floor = floor
        self.durable: int | None = None
        self.done = False


class Joins:
    """Carries joins through. Whoever gave up on one sets `done`; it is then dropped when its answer comes."""

    def __init__(
        self,
        *,
        registry: Registry,
        routes: Routes,
        reader: Reader,
        delivery: Delivery,
        durable: Durable,
        clock: Clock,
        catch_up: int,
    ) -> None:
        self._registry = registry
        self._routes = routes
        self._reader = reader
        self._delivery = delivery
        self._durable = durable
        self._clock = clock
        self._catch_up = catch_up

    def route(self, channel: Channel) -> None:
        """Write the route of a channel that is new here."""
        self._routes.change(
            channel.shard, Change("+r", channel.name), functools.partial(self._routed, channel)
        )

    def begin(self, join: Join) -> None:
        """Begin a join, for which its channel was entered."""
        channel = join.channel
        if channel.routed:
            self.read(join)
        elif channel.waiting is None:
            channel.waiting = [join]
        else:
            channel.waiting.append(join)

    def _routed(self, channel: Channel) -> None:
        channel.routed = True
        waiting, channel.waiting = channel.waiting, None
        for join in waiting or ():
            self.read(join)

    def read(self, join: Join) -> None:
        """Ask the log where the subscriber stands."""
        channel, session = join.channel, join.driver.session
        if join.done or session is None:
            self.over(join)
            return
        query = Query(
            channel.name,
            device=session.cursor_key if join.automatic and join.since is None else "",
            member=session.user if join.member else "",
            user=join.user,
        )
        self._reader.read(channel.shard, query, functools.partial(self._viewed, join))

    def _viewed(self, join: Join, view: View) -> None:
        channel = join.channel
        if join.done or join.driver.session is None:
            self.over(join)
            return
        if join.since is not None and older(view, join.since.epoch):
            # It has lost writes and nobody has noticed yet: to begin there would show what was seen as new.
            self._clock.call_later(LOST_RETRY, functools.partial(self.read, join))
            return
        if join.member and view.membership is None:
            if join.durable is None:
                self._durable.ask(functools.partial(self._reaches, join))
                return
            if view.position < join.durable:
                self._clock.call_later(LOST_RETRY, functools.partial(self.read, join))
                return
        self._delivery.placed(channel, view)
        join.call(join, view)

    def _reaches(self, join: Join, ends: Mapping[int, tuple[int, int]] | None) -> None:
        """Ask the store again, now that it is known what it must have taken in to say no."""
        if ends is None:
            self._clock.call_later(LOST_RETRY, functools.partial(self.read, join))
        else:
            join.durable = ends[join.channel.shard][1] - 1
            self.read(join)

    def over(self, join: Join) -> None:
        """End a join, whatever came of it."""
        join.done = True
        self._registry.left(join.channel)

    def start(self, join: Join, view: View) -> Start:
        """Return where the subscriber begins."""
        epoch, head = view.epoch, view.head
        oldest = max(view.first - 1, head - self._catch_up, 0)
        floor = join.floor or view.membership
        since = join.since
        if since is not None:
            fits = since.epoch == epoch or (not since.epoch and since.seq == 0)
            seen = floor is None or floor.epoch != epoch or since.seq >= floor.seq
            if fits and seen and since.seq >= oldest:
                return Start(epoch, since.seq, recovered=True)
        elif join.automatic:
            seq = head
            if view.cursor is not None and view.cursor[0] == epoch:
                # Ahead of the head, as far as the log knows, is never set back.
                seq = max(view.cursor[1], oldest)
            elif join.fresh and join.floor is not None and join.floor.epoch == epoch:
                seq = max(join.floor.seq, oldest)
            if floor is not None and floor.epoch == epoch:
                seq = max(seq, floor.seq)
            return Start(epoch, seq, recovered=False)
        return Start(epoch, head, recovered=False)
