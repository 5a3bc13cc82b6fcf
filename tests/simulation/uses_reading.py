"""Devices that remember nothing, and a channel that keeps little."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from holdfast.auth.issue import issue
from holdfast.client import Client, Closed
from holdfast.errors import Retry
from tests.simulation.configure import BRIEF_KEEPS
from tests.simulation.network import HostNetwork
from tests.simulation.uses import Use

if TYPE_CHECKING:
    from tests.simulation.world import World

BRIEF: Final = "brief:news"


class Tablet:
    """A device that keeps no positions: it tells the server how far it got, and is begun there again."""

    def __init__(self, world: World, user: str, device: str) -> None:
        self.world = world
        self.user = user
        self.device = device
        self.inbox = f"user:{user}"
        self.process = world.loop.process(f"{device} of {user}")
        self.client: Client | None = None
        self.reported = 0  # what it said, whether it was kept or not
        self.seen: set[int] = set()
        self.first: int | None = None
        self.epochs: set[str] = set()
        self.stopping = False

    async def live(self, random: Any) -> None:
        """Run programs, one after the other."""
        while True:
            await self._program()
            await asyncio.sleep(random.uniform(1.0, 8.0))
            if self.stopping:
                return
            client, self.client = self.client, None
            if client is not None:
                await client.close()

    async def _program(self) -> None:
        world = self.world
        client = self.client = Client(
            "ws://ws.lb/ws",
            token=lambda: issue(world.settings.auth, self.user, world.clock.now_ms(), device=self.device)[0],
            device=self.device,
            backoff=(0.2, 2.0),
            attempt=4.0,
            network=HostNetwork(world.net, self.process),
            clock=world.clock,
        )
        known = [False]
        since = world.loop.now

        @client.on("connected")
        def connected(frame: Any) -> None:
            state = frame.channels[self.inbox]
            if not known[0]:
                known[0] = True
                self._began(state.epoch, state.seq, since)

        @client.on("message")
        def message(frame: Any) -> None:
            if frame.channel == self.inbox:
                self.epochs.add(frame.epoch)
                self.seen.add(frame.seq)
                self.reported = max(self.reported, frame.seq)
                client.cursor(self.inbox, frame.seq)

        while self.client is client:
            try:
                await client.connect(timeout=60.0)
            except Retry:
                await asyncio.sleep(0.5)
            except Closed as closed:
                world.ledger.violated(0, f"{self.device} of {self.user}: closed for good: {closed}")
                return
            else:
                return

    def _began(self, epoch: str, seq: int, since: float) -> None:
        """Take where a program, which was started at `since`, is begun."""
        world, ledger = self.world, self.world.ledger
        kept = ledger.kept_cursor(self.inbox, f"{self.user}\0{self.device}", since)
        ledger.note(f"{self.device} of {self.user} begins at {seq}, said {self.reported}, kept is {kept}")
        ledger.counts["begun at a cursor"] += kept is not None
        if self.first is None or (kept is None and seq > self.first):
            self.first = seq  # none of its cursors was kept yet: it begins at the head
        if kept is not None and kept[0] == epoch and seq < kept[1] and not world.losses and not ledger.anew:
            ledger.violated(
                4, f"the {self.device} of {self.user} begins at {seq}, before its cursor, {kept[1]}"
            )
        if epoch:
            self.epochs.add(epoch)


class Tablets(Use):
    """Devices without a memory get all that came since the first time, some of it twice (inv 4, 9)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._tablets: list[Tablet] = []

    def start(self) -> None:
        self._tablets = [Tablet(self.world, "u1", device) for device in ("tablet", "watch")]
        for tablet in self._tablets:
            self.world.loop.spawn(tablet.process, tablet.live(self.random))

    def stop(self) -> None:
        for tablet in self._tablets:
            tablet.stopping = True

    def sessions(self) -> list[str]:
        clients = [tablet.client for tablet in self._tablets]
        return [client.session.session for client in clients if client and client.session]

    def unrest(self) -> str:
        for tablet in self._tablets:
            client = tablet.client
            if client is None or client.session is None:
                return f"the {tablet.device} is not connected"
            if missing := self._missing(tablet):
                return f"the {tablet.device} of {tablet.user} has not seen {missing} of its inbox"
        return ""

    def _missing(self, tablet: Tablet) -> list[int]:
        if len(tablet.epochs) > 1 or tablet.first is None or self.world.ledger.anew:
            return []  # the channel began anew, of which its programs were told
        head = self.world.ledger.known_head(tablet.inbox)
        return [seq for seq in range(tablet.first + 1, head + 1) if seq not in tablet.seen]


class Brief(Use):
    """A channel keeps few messages: a reader gets all, or a reset, and that only where it must (inv 4)."""

    rooms = (BRIEF,)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._stopping = False

    def start(self) -> None:
        self.world.loop.spawn(self.world.caller.process, self._talk())

    def stop(self) -> None:
        self._stopping = True

    async def _talk(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self.random.expovariate(1 / 2.0))
            for _ in range(self.random.choice((1, 1, 3, BRIEF_KEEPS + 3))):
                self.world.loop.spawn(self.world.caller.process, self.world.caller.say(BRIEF))
