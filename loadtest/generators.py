"""The generator processes of a scenario: who is in which, and what all of them are told at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loadtest.histogram import Histogram
from loadtest.native import Program, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loadtest.scenario import Crowd
    from loadtest.target import Target

MOST = 7500
"""Connections of one process: descriptors are limited, and whole processes move from a node that is gone."""

WINDOW = 256
"""Connections of one process that are on their way in at a time."""


class Members:
    """The users of one crowd, and the channels they write to. `run` makes their names new."""

    def __init__(self, crowd: Crowd, run: str) -> None:
        self.crowd = crowd
        self._prefix = f"{run}-{crowd.name}-"

    def user(self, number: int) -> str:
        """Return a user's name."""
        return f"{self._prefix}{number}"

    def channel(self, number: int) -> str:
        """Return the group or room that a user is in."""
        return f"{self.crowd.to}:{self._prefix}{number // self.crowd.size}"

    def groups(self) -> Iterator[tuple[str, str]]:
        """Yield (group, user) for every membership that must exist."""
        if self.crowd.to == "group":
            for number in range(self.crowd.users):
                yield self.channel(number).partition(":")[2], self.user(number)

    def line(self, number: int, target: Target) -> str:
        """Return a user's line for the program: token, channel, audience, subscription."""
        crowd, token = self.crowd, target.token(self.user(number))
        if crowd.to == "none":
            return token
        if crowd.to == "peer":
            peer = min(number ^ 1, crowd.users - 1)
            return f"{token}\tuser:{self.user(peer)}\t1\t-"
        channel = self.channel(number)
        audience = min(crowd.size, crowd.users - number // crowd.size * crowd.size)
        return f"{token}\t{channel}\t{audience}\t{channel if crowd.to == 'room' else '-'}"


class Generators:
    """All processes. Users are dealt out one by one: those who write to each other are on all nodes."""

    def __init__(self, folder: Path, target: Target, crowds: list[Members]) -> None:
        self._target = target
        self.programs: dict[str, list[Program]] = {}
        self.nodes: dict[Program, int] = {}
        source = 10
        for members in crowds:
            users = members.crowd.users
            nodes = len(target.websockets)
            count = min(users, nodes * -(-users // (nodes * MOST)))
            for number in range(count):
                path = folder / f"clients-{members.crowd.name}-{number}"
                path.touch(mode=0o600)
                path.write_text("".join(members.line(n, target) + "\n" for n in range(number, users, count)))
                source += 1
                node = number % nodes
                program = Program("crowd", target.port(node), path, "-", source, WINDOW, target.dialect)
                self.programs.setdefault(members.crowd.name, []).append(program)
                self.nodes[program] = node
        self.counts: dict[str, float] = {}

    async def each(self, line: str | Callable[[Program], str]) -> list[dict[str, float]]:
        """Tell all processes something, which they do at the same time; return their answers."""

        def tell() -> list[dict[str, float]]:
            for program in self.nodes:
                program.tell(line if isinstance(line, str) else line(program))
            return [program.numbers() for program in self.nodes]

        return await asyncio.to_thread(tell)

    async def count(self, line: str = "count") -> dict[str, float]:
        """Tell all processes something that is answered with the counters; return these, added up."""
        total: dict[str, float] = {}
        for answer in await self.each(line):
            for name, value in answer.items():
                total[name] = total.get(name, 0.0) + value
        self.counts = total
        return total

    async def open(self) -> dict[str, float]:
        """Open what is not open; return how many, how many failed, and the seconds of the last one."""
        answers = await self.each(f"open {MOST}")
        return {
            "opened": sum(answer["opened"] for answer in answers),
            "failed": sum(answer["failed"] for answer in answers),
            "seconds": max(answer["seconds"] for answer in answers),
        }

    async def load(self, crowd: str, rate: float, size: int) -> None:
        """Let a crowd (or all who write, in proportion to their processes) send `rate` a second."""
        programs = self.programs[crowd] if crowd else list(self.nodes)
        for program in programs:
            program.say(f"load {rate / len(programs):.6f} {size}")

    async def share(self, command: str, share: float) -> None:
        """Tell each process to do something with a share of its connections."""
        counts = dict(zip(self.nodes, await self.each("count"), strict=True))
        await self.each(lambda program: f"{command} {round(counts[program]['open'] * share)}")

    async def move(self, gone: int) -> None:
        """Send those of a node that is gone to the others."""
        left = [node for node in range(len(self._target.websockets)) if node != gone]
        for turn, program in enumerate(self.nodes):
            if self.nodes[program] == gone:
                self.nodes[program] = left[turn % len(left)]
                program.say(f"port {self._target.port(self.nodes[program])}")

    def times(self, what: str) -> Histogram:
        """Return how long `connect`, `ack` or `message` took."""
        total = Histogram()
        for program in self.nodes:
            program.tell(f"times {what}")
            pairs = (word.split(":") for word in program.hear()[1:])
            total.add((int(bucket), int(count)) for bucket, count in pairs)
        return total

    def cpu(self) -> float:
        """Return CPU seconds of all processes."""
        return sum(cpu_seconds(program.pid) for program in self.nodes)

    def close(self) -> None:
        """End all."""
        for program in self.nodes:
            program.close()
