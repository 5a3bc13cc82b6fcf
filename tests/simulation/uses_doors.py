"""Sessions' beginnings and ends, as handlers are told them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from holdfast.app import App, Context, Session  # noqa: TC001 - handlers are asked for their types
from holdfast.auth.issue import issue
from holdfast.channel import partition_of
from holdfast.client import Client, Closed
from holdfast.errors import Retry
from holdfast.records import SessionEvent
from tests.simulation.loop import current
from tests.simulation.network import HostNetwork
from tests.simulation.uses import Use

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.world import World

DOORS: Final = "room:doors"
PASSERS: Final = 2
BOTH: Final = ["connect", "disconnect"]


class Passer:
    """Somebody who comes, and is gone within a second or so, again and again."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process = world.loop.process(name)
        self.stopping = False
        self.over = False

    async def live(self, random: Random) -> None:
        """Come and go."""
        while not self.stopping:
            await asyncio.sleep(random.expovariate(1 / 1.5))
            await self._visit(random.choice((0.0, random.uniform(0.0, 1.5))))
        self.over = True

    async def _visit(self, seconds: float) -> None:
        world = self.world
        client = Client(
            "tcp://tcp.lb",
            token=lambda: issue(world.settings.auth, self.name, world.clock.now_ms())[0],
            backoff=(0.2, 1.0),
            attempt=2.0,
            network=HostNetwork(world.net, self.process),
            clock=world.clock,
        )
        client.on("connected")(lambda frame: world.connected(frame.session, frame.node))
        try:
            await client.connect(timeout=8.0)
            await asyncio.sleep(seconds)
        except (Retry, Closed) as error:
            world.ledger.note(f"{self.name}: {error}")
        await client.close()


class Doors(Use):
    """Every session has one `connect` and, when it is over, one `disconnect`, in this order (inv 6)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.begun: dict[str, float] = {}  # session, and when its client was told
        self.known: dict[str, float] = {}  # session, and when the store was told
        self._passers: list[Passer] = []
        self._runs: dict[str, dict[str, int]] = defaultdict(dict)  # by session: the record of each kind

    def handle(self, app: App) -> None:
        @app.on_connect
        async def connected(ctx: Context, session: Session) -> None:
            self._ran("connect", session)
            ctx.publish(DOORS, "connect", session.id)

        @app.on_disconnect
        async def disconnected(ctx: Context, session: Session) -> None:
            self._ran("disconnect", session)
            ctx.publish(DOORS, "disconnect", session.id)

    def start(self) -> None:
        self._passers = [Passer(self.world, f"passer-{number}") for number in range(1, PASSERS + 1)]
        for passer in self._passers:
            self.world.loop.spawn(passer.process, passer.live(self.random))

    def stop(self) -> None:
        for passer in self._passers:
            passer.stopping = True

    def connected(self, session: str) -> None:
        self.begun[session] = self.world.loop.now

    def recorded(self, session: str) -> None:
        self.known.setdefault(session, self.world.loop.now)

    # what handlers are told

    def _ran(self, kind: str, session: Session) -> None:
        """Take a run of a handler: of a repetition, or of a `connect` after the end, there is none."""
        offset = self._offset(kind, session)
        if offset is None:
            return
        runs = self._runs[session.id]
        first = runs.setdefault(kind, offset)
        text = ""
        if offset > first:
            text = f"{kind} was told, and at {offset} again"
        elif kind == "connect" and offset > runs.get("disconnect", offset):
            text = f"connect was told at {offset}, disconnect at {runs['disconnect']}"
        if text and not self.world.unrecalled:
            self.world.ledger.violated(6, f"session {session.id}: {text}")

    def _offset(self, kind: str, session: Session) -> int | None:
        """Return the offset of the record that is being handled, None where its worker has lost it."""
        process = current()
        node = next((node for node in self.world.nodes.values() if node.process is process), None)
        worker: Any = node.service._worker if node is not None and node.service is not None else None
        if worker is None:
            return None
        part = worker._parts.get(partition_of(session.user, self.world.plan.partitions))
        lane = part.lanes.get(session.user) if part is not None else None
        if lane is None or not lane.queue:
            return None
        item = lane.queue[0]
        what = item.what
        if not isinstance(what, SessionEvent) or (what.session, what.kind) != (session.id, kind):
            return None
        return int(item.record.offset)

    # what is written

    def _events(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for (channel, _), names in self.world.ledger.log.items():
            if channel == DOORS:
                for name in names:
                    session, _, rest = name.partition("/")
                    found[session].append(rest.partition("-")[0])
        return found

    def _wanted(self, session: str) -> list[str]:
        open_now = any(person.session == session for person in self.world.people)
        return ["connect"] if open_now else BOTH

    def _forgotten(self, session: str) -> bool:
        """Tell whether a session was recorded in a store that lost it, by a node that then died."""
        since = min(self.begun.get(session, self.known.get(session, 0.0)), self.known.get(session, 1e9))
        return self.world.home(session).dead and any(lost >= since - 1.0 for lost in self.world.losses)

    def unrest(self) -> str:
        if not all(passer.over for passer in self._passers):
            return "somebody is still passing by"
        if self.world.ledger.anew:
            return ""
        events = self._events()
        for session in self.begun:
            if not self._forgotten(session) and events.get(session, []) != self._wanted(session):
                return f"session {session} has {events.get(session, [])}, wanted {self._wanted(session)}"
        for session in self.known:
            # Whether its client ever heard of it or not.
            if not self._forgotten(session) and events.get(session, []) not in ([], ["connect"], BOTH):
                return f"session {session}, of which nobody heard, has {events[session]}"
        return ""

    async def judge(self) -> None:
        allowed: tuple[list[str], ...] = ([], ["connect"], ["disconnect"], BOTH)
        for session, kinds in self._events().items():
            if kinds not in allowed and not self.world.ledger.anew:
                self.world.ledger.violated(6, f"session {session} has {kinds}")
