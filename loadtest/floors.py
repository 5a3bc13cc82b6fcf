"""The C floors: what the same accepts and messages cost a program that does nothing but system calls."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from typing import TYPE_CHECKING

from deploy.local.process import free_port
from loadtest.backend import AT_ONCE
from loadtest.native import Program, cpu_seconds
from loadtest.paths import BATCH, BYTES, Paths
from loadtest.target import Target

if TYPE_CHECKING:
    from pathlib import Path


def start(mode: str = "send") -> tuple[Program, int]:
    """Start the program; return it when it listens, and its port."""
    port = free_port()
    floor = Program("floor", port, mode)
    floor.hear()
    return floor, port


def crowd(
    folder: Path, port: int, size: int, *, channel: str = "-", source: int, window: int = 64
) -> Program:
    """Start a crowd for a floor, unconnected: all of one name, since nobody writes to them."""
    none = folder / "none"
    none.write_text("none\n" * size)
    return Program("crowd", port, none, channel, source, window)


def accept(folder: Path, size: int, source: int, window: int) -> float:
    """Return µs of a C program that accepts, answers the upgrade and sends one frame."""
    floor, port = start()
    clients = crowd(folder, port, size, source=source, window=window)
    before = cpu_seconds(floor.pid)
    clients.say(f"open {size}")
    spent = cpu_seconds(floor.pid) - before
    clients.close()
    floor.close()
    return spent / size * 1e6


class Floor:
    """The floor of a fan-out, with a crowd of its own."""

    def __init__(self, folder: Path, size: int, mode: str, source: int) -> None:
        self.mode = mode
        self._size = size
        self._floor, port = start(mode)
        self._crowd = crowd(folder, port, size, channel="room:x", source=source)
        self._crowd.say(f"open {size}")

    def send(self, frame: int, rounds: int) -> float:
        """Send a frame of so many bytes to all, `rounds` times; return CPU seconds for a delivery."""
        self._crowd.say("reset")
        before = cpu_seconds(self._floor.pid)
        for done in range(rounds):
            self._floor.say(f"fan {frame} 1")
            self._crowd.say(f"wait {(done + 1) * self._size} 20")
        spent = cpu_seconds(self._floor.pid) - before
        if self._crowd.say("count")["messages"] != rounds * self._size:
            raise RuntimeError("the floor lost frames")
        return spent / (rounds * self._size)

    def close(self) -> None:
        """End both."""
        self._crowd.close()
        self._floor.close()


class Relay(Paths):
    """The floor of the message paths: the same crowd under the same load, with a C loop between them."""

    def __init__(self, folder: Path, users: int, seconds: float, run: str) -> None:
        self._floor, port = start()
        target = _Loop(
            [f"ws://127.0.0.1:{port}/ws"],
            [],
            key="",
            secret="",
            pids={"floor": self._floor.pid},
            roles={"floor": "floor"},
        )
        super().__init__(folder, target, users, seconds, run)

    async def measure(self, load: str) -> dict[str, float]:
        """Do as the same of `Paths`, and make sure that nothing was lost."""
        before = self._floor.say("count")
        result = await super().measure(load)
        after = self._floor.say("count")
        if any(after[what] > before[what] for what in ("dropped", "short")):
            raise RuntimeError(f"the floor lost messages: {after}")
        return result

    async def publish(self, rate: float) -> None:
        """Have the loop send as many as a request has; with an infinite rate, as many as are on their way."""
        begin = time.monotonic()
        batch = AT_ONCE * BATCH if rate == math.inf else BATCH
        for done in itertools.count(batch, batch):
            self._floor.say(f"publish {batch} {BYTES}")
            if rate == math.inf:
                await self.generators.each(f"wait {done} 20")
            await asyncio.sleep(begin + done / rate - time.monotonic())
            if time.monotonic() >= begin + self.seconds:
                return

    def close(self) -> None:
        """End the loop and its crowd."""
        super().close()
        self._floor.close()


class _Loop(Target):
    """A C loop in the place of a cluster: it takes a user's name for a token."""

    def token(self, user: str) -> str:
        return user
