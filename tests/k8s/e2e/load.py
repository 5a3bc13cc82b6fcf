"""Clients through HAProxy: people who talk, people who only listen, programs that publish; one ledger of all.

The people and the ledger are those of `chaos`: what is lost, doubled or reordered means the same here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from bisect import bisect_right
from random import Random
from typing import TYPE_CHECKING, Final

from chaos.callers import Caller
from chaos.ledger import Ledger
from chaos.people import CROWD, Person, World
from deploy.kubernetes.sandbox import OUTSIDE
from holdfast.settings import Auth
from tests.k8s.e2e.cluster import API, SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.k8s.e2e.cluster import Cluster

TALKING: Final = 12
LISTENING: Final = 188
MORE: Final = 120
"""Who comes later, for the scaler to see."""
QUIET: Final = 60.0
SPREAD: Final = 1.0
"""Seconds within which clients that were sent away at one moment come back (`AccessNode.drain_after`)."""


class Load:
    """Steady from `start` to `finish`. `folder` takes a timeline."""

    def __init__(self, cluster: Cluster, folder: Path, seed: int = 1) -> None:
        self.begin = time.monotonic()
        self.ledger = Ledger(self.now)
        self._notes = (folder / "timeline.txt").open("w", encoding="utf-8", buffering=1)
        tls = ssl.create_default_context(cafile=str(cluster.plane.authority.file))
        secrets = _secrets(cluster)
        self.world = World(
            ledger=self.ledger,
            note=self.note,
            urls=[f"wss://{OUTSIDE}/ws"] * 7 + [f"tcps://{OUTSIDE}:8443"],
            narrow=[],
            apis=[f"https://{API}"],
            api_key=secrets["HOLDFAST_API_KEYS"],
            auth=Auth(secrets=(secrets["HOLDFAST_AUTH_SECRETS"],)),
            random=Random(seed),
            tls=tls,
            backoff=(0.5, 30.0),  # as the client library is shipped: who gives up early takes others' turns
            attempt=10.0,
        )
        self.caller = Caller(self.world)
        self.people: list[Person] = []

    def now(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self.begin

    def note(self, text: str) -> None:
        """Add a line to the timeline."""
        self._notes.write(f"{self.now():9.2f}  {text}\n")

    async def start(self) -> None:
        """Let everybody come."""
        pairs = [f"talker-{number}" for number in range(TALKING)]
        members = {"g0": pairs[: TALKING // 2], "g1": pairs[TALKING // 2 :]}
        await asyncio.gather(*(self.caller.join(group, users) for group, users in members.items()))
        people = []
        for number, user in enumerate(pairs):
            group = next(group for group, users in members.items() if user in users)
            targets = [f"user:{pairs[number ^ 1]}", f"user:{pairs[number ^ 1]}", f"group:{group}", CROWD]
            people.append(Person(self.world, user, targets, rooms=[CROWD], pace=2.0))
        people += [self._listener(number) for number in range(LISTENING)]
        await self._come(people)
        targets = [CROWD, "group:g0", "group:g1", *(f"user:{person.user}" for person in people)]
        self.caller.start(2, targets, pace=0.25)

    async def grow(self) -> None:
        """Let more people come, who listen."""
        await self._come([self._listener(number) for number in range(LISTENING, LISTENING + MORE)])

    async def burst(self, count: int) -> None:
        """Have everybody who talks send so many messages at once."""
        talking = [person for person in self.people if person.targets]
        for _ in range(count):
            for person in talking:
                if person.client is not None:
                    task = asyncio.ensure_future(person._one(person.client, person._programs))
                    person._sends.add(task)
                    task.add_done_callback(person._sends.discard)
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Stop sending, wait until all is there or nothing comes any more, and compare the logs."""
        world, ledger = self.world, self.ledger
        world.going = False
        for person in self.people:
            person.calm()
        finishing = asyncio.ensure_future(self.caller.finish())
        progress, since = (-1, -1), self.now()
        while self.now() - since < QUIET:
            await asyncio.sleep(0.5)
            state = (ledger.counts["delivered"], ledger.open())
            if state != progress:
                progress, since = state, self.now()
            elif self.now() - since > 2.0 and finishing.done() and self._complete():
                break
        if not finishing.done():
            ledger.violate("failed", "", "some calls of the API were not answered")
            finishing.cancel()
        await asyncio.gather(finishing, return_exceptions=True)
        for channel in ledger.channels():
            try:
                async with asyncio.timeout(60.0):
                    ledger.logged(channel, *await self.caller.history(channel))
            except TimeoutError:
                ledger.violate("failed", channel, "its log could not be read")
        ledger.settle()

    async def end(self) -> None:
        """End all clients."""
        self.world.going = False
        await asyncio.gather(*(person.end() for person in self.people))
        await self.caller.end()
        self._notes.close()

    def most_connects(self, since: float, seconds: float) -> int:
        """Return how many clients came within any so many seconds since a time."""
        return most_within([at for at in self.world.connects if at >= since], seconds)

    def connects(self, since: float) -> int:
        """Return how many clients came since a time."""
        return sum(at >= since for at in self.world.connects)

    async def until(self, holds: Callable[[], bool], seconds: float) -> float:
        """Wait until something holds, asked in a thread; return the seconds. Raises TimeoutError."""
        begin = self.now()
        while not await asyncio.to_thread(holds):
            if self.now() - begin > seconds:
                raise TimeoutError(f"not within {seconds:g} s")
            await asyncio.sleep(0.5)
        return self.now() - begin

    def all_here(self) -> bool:
        """Tell whether everybody is connected."""
        return all(person.connection is not None for person in self.people)

    def _listener(self, number: int) -> Person:
        return Person(self.world, f"listener-{number}", [], rooms=[CROWD] if number % 8 == 0 else [])

    async def _come(self, people: list[Person]) -> None:
        self.people += people
        for person in people:
            person.start()
            await asyncio.sleep(0.1)  # no storm yet
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.gather(*(person.ready.wait() for person in people))
        if missing := [person.user for person in people if not person.ready.is_set()]:
            raise TimeoutError(f"{len(missing)} of {len(people)} clients were not connected within 60 s")

    def _complete(self) -> bool:
        return not self.ledger.open() and next(self.ledger.missing(), None) is None


def most_within(times: Sequence[float], seconds: float) -> int:
    """Return how many of some times are within any span of so many seconds."""
    times = sorted(times)
    return max((bisect_right(times, at + seconds) - index for index, at in enumerate(times)), default=0)


def _secrets(cluster: Cluster) -> dict[str, str]:
    """Return what the services' Secret says."""
    for secret in cluster.api.get(f"/api/v1/namespaces/{SPACE}/secrets")["items"]:
        if secret["metadata"]["name"].startswith("holdfast-secrets"):
            return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    raise LookupError("there is no Secret of the services")
