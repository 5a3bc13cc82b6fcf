"""The message paths, "client to client" and "API publish", under a load: what one costs each process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loadtest.backend import Backend
from loadtest.generators import Generators, Members
from loadtest.scenario import Crowd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from loadtest.target import Target

BYTES: Final = 128
"""Of text in each message."""

BATCH: Final = 50
"""Messages in a request to publish."""


class Paths:
    """A crowd of pairs, and what their messages cost."""

    def __init__(self, folder: Path, target: Target, users: int, seconds: float, run: str) -> None:
        folder.mkdir(exist_ok=True)
        members = Members(Crowd("pairs", users, "peer"), run)
        self.seconds = seconds
        self.generators = Generators(folder, target, [members])
        self._target = target
        self._users = [members.user(number) for number in range(users)]

    async def open(self) -> None:
        """Connect the crowd."""
        opened = await self.generators.open()
        if opened["failed"]:
            raise RuntimeError(f"{opened['failed']:.0f} connections failed")

    async def measure(self, load: str) -> dict[str, float]:
        """Run a load; return µs of each process for a message, and the percentiles of its time in ms."""
        kind, _, number = load.partition(" ")
        generators = self.generators
        if kind == "publish":
            return await self._spent(lambda: self._published(float(number) or math.inf))
        command = f"flight {number} {BYTES}" if kind == "flight" else f"load {number} {BYTES}"
        await generators.each(command)
        await generators.count("run 2")  # until it flows
        result = await self._spent(lambda: generators.count(f"run {self.seconds}"))
        await generators.each("load 0 0")  # ends `flight`, too
        await self.rest()
        return result

    async def publish(self, rate: float) -> None:
        """Publish to the users in turn, so many a second or with no end as fast as they are taken."""
        async with Backend(self._target) as backend:
            await backend.publish(self._users, rate=rate, seconds=self.seconds, batch=BATCH, size=BYTES)

    async def _published(self, rate: float) -> None:
        await self.publish(rate)  # the crowd serves itself between commands
        await self.rest()

    async def rest(self) -> None:
        """Wait until nothing comes any more: what is on its way is not the next path's."""
        before = -1.0
        while before < (before := (await self.generators.count("run 1"))["messages"]):
            pass

    async def _spent(self, work: Callable[[], Awaitable[object]]) -> dict[str, float]:
        generators = self.generators
        await generators.each("reset")
        before = self._target.cpu() | {"load": generators.cpu()}
        await work()
        after = self._target.cpu() | {"load": generators.cpu()}
        counts = await generators.count()
        wrong = [what for what in ("gaps", "doubles", "errors", "failed") if counts[what]]
        if wrong:
            raise RuntimeError(f"{', '.join(wrong)}: {counts}")
        times = generators.times("message").summary()
        result = {role: (after[role] - before[role]) / counts["messages"] * 1e6 for role in after}
        return result | {"p50": times["p50"], "p99": times["p99"], "rate": counts["messages"] / self.seconds}

    def close(self) -> None:
        """End the crowd."""
        self.generators.close()
