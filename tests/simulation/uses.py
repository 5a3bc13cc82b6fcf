"""What else people do with the cluster, beside sending and subscribing. Each run does some of it.

A use adds its handlers, begins with the people, and says at rest whether it is done and what must be so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

from holdfast.app import App, Context, Request  # noqa: TC001 - handlers are asked for their types
from holdfast.client import Closed
from holdfast.errors import Reject, Retry

if TYPE_CHECKING:
    from tests.simulation.people import Person
    from tests.simulation.world import World


class Use:
    """See the module."""

    rooms: tuple[str, ...] = ()
    """Channels that everybody subscribes, and is subscribed to at rest."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = Random(f"{world.plan.seed}/{type(self).__name__}")

    def handle(self, app: App) -> None:
        """Add handlers."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Begin nothing more: all is about to be healed."""

    def connected(self, session: str) -> None:
        """Take a session that its client knows of."""

    def recorded(self, session: str) -> None:
        """Take a session that the store knows of."""

    def sessions(self) -> list[str]:
        """Return the sessions it has, of users who are people too."""
        return []

    def unrest(self) -> str:
        """Return what is not done yet, "" when all is."""
        return ""

    async def judge(self) -> None:
        """Check what must be so at rest."""


class Requests(Use):
    """A request gets its own answer, or fails in time; at rest it gets it (inv 7, 11)."""

    TIMEOUT: Final = 6.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._failed: Counter[str] = Counter()
        self._open = 0
        self._count = 0
        self._stopping = False

    def handle(self, app: App) -> None:
        draws, failed = self.world.draws, self._failed

        @app.on_request("echo")
        async def echo(ctx: Context, request: Request[Any]) -> Any:
            await asyncio.sleep(draws.choice((0.0, 0.001, 0.3)))
            if failed[ctx.message] < 2 and draws.random() < 0.3:
                failed[ctx.message] += 1
                raise Retry("later")
            return request.data

    def start(self) -> None:
        for person in self.world.people:
            self.world.loop.spawn(person.process, self._ask(person))

    def stop(self) -> None:
        self._stopping = True

    async def _ask(self, person: Person) -> None:
        while not self._stopping:
            await asyncio.sleep(self.random.expovariate(1 / 3.0))
            await self._one(person, self.TIMEOUT)

    async def _one(self, person: Person, timeout: float) -> bool:
        ledger, client = self.world.ledger, person.client
        if client is None or client.session is None:
            return False
        self._count += 1
        asked = {"key": f"{person.name}?{self._count}"}
        self._open += 1
        began = self.world.loop.now
        try:
            answer = await client.request("echo", asked, timeout=timeout)
        except (TimeoutError, Closed):
            return False
        except Reject as reject:
            ledger.violated(11, f"{asked} was refused: {reject.code}, {reject}")
            return False
        finally:
            self._open -= 1
            late = self.world.loop.now - began - timeout
            if late > 1.0 and not person.was_held(began):
                ledger.violated(7, f"{asked} ended {late:.1f} s after its time")
        ledger.counts["answered"] += 1
        if answer != asked:
            ledger.violated(11, f"{asked} was answered {answer}")
        return True

    def unrest(self) -> str:
        return f"{self._open} requests are not over" if self._open else ""

    async def judge(self) -> None:
        people = self.world.people
        tasks = [self.world.loop.spawn(one.process, self._one(one, 15.0)) for one in people]
        for person, task in zip(people, tasks, strict=True):
            if not await task:
                self.world.ledger.violated(7, f"{person.name} asks, and nobody answers")
