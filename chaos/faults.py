"""Doing it: a schedule's faults, on the processes and links of a local cluster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from chaos.links import Cut, Links, Mode
from deploy.local.process import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from chaos.schedule import Fault, Plan
    from deploy.local.cluster import LocalCluster
    from deploy.local.process import Running


@dataclass(slots=True)
class Done:
    """A fault that was done: when it began and when it was undone, in seconds since the start of the run."""

    fault: Fault
    begin: float
    end: float = 0.0

    def __str__(self) -> str:
        return f"{self.begin:.2f} to {self.end:.2f} s: {self.fault}"


class Faults:
    """Carries out a plan. Whoever is befallen twice at a time is so one after the other.

    `failed` is told of what could not be undone: a process did not come back.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        links: Links,
        now: Callable[[], float],
        note: Callable[[str], None],
        *,
        failed: Callable[[Fault, str], None],
        random: Random,
    ) -> None:
        self.done: list[Done] = []
        self.restarts: dict[str, int] = {}
        self._cluster = cluster
        self._links = links
        self._now = now
        self._note = note
        self._failed = failed
        self._random = random
        self._locks: dict[str, asyncio.Lock] = {}

    async def run(self, plan: Plan) -> None:
        """Carry it out; everything is as before at the end."""
        begin = self._now()
        async with asyncio.TaskGroup() as group:
            for fault in plan.faults:
                await asyncio.sleep(max(begin + fault.at - self._now(), 0.0))
                group.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        # Of three brokers one may be away at a time, not two.
        whom = fault.kind.on if fault.kind.on == "kafka" else f"{fault.target} {fault.to}"
        lock = self._locks.setdefault(whom, asyncio.Lock())
        async with lock:
            done = Done(fault, self._now())
            self.done.append(done)
            self._note(f"FAULT {fault}")
            try:
                await (self._cut(fault) if fault.to else self._strike(fault))
            except (Unavailable, TimeoutError) as error:
                self._failed(fault, str(error))
            done.end = self._now()
            self._note(f"UNDONE {fault}")

    async def _cut(self, fault: Fault) -> None:
        cut = Cut({fault.target}, {fault.to}, cast("Mode", fault.mode))
        self._links.cut(cut)
        try:
            await asyncio.sleep(fault.hold)
        finally:
            self._links.heal(cut, late=self._random.random() < 0.5)

    async def _strike(self, fault: Fault) -> None:
        process = self._process(fault.target)
        match fault.kind.what:
            case "kill" | "restart" | "empty" | "rewind":
                await self._again(process, fault)
            case "pause":
                process.pause()
                try:
                    await asyncio.sleep(fault.hold)
                finally:
                    process.resume()
            case "flush":
                await asyncio.to_thread(_redis, process.port, "FLUSHALL")

    async def _again(self, process: Running, fault: Fault) -> None:
        dump = self._cluster.dir / "redis" / "dump.rdb"
        if fault.kind.what == "rewind":
            await asyncio.to_thread(_redis, process.port, "SAVE")
            await asyncio.sleep(1.0)
        if fault.kind.what == "restart":
            await asyncio.to_thread(process.stop)
        else:
            await asyncio.to_thread(process.kill)
        if fault.kind.what == "empty":
            dump.unlink(missing_ok=True)
        await asyncio.sleep(fault.hold)
        process.start()
        self.restarts[process.name] = self.restarts.get(process.name, 0) + 1
        await asyncio.to_thread(process.wait_ready, 120.0)

    def _process(self, name: str) -> Running:
        return {**self._cluster.nodes, **self._cluster.servers}[name]


def _redis(port: int, command: str) -> None:
    """Give a Redis one command, however long it takes to listen."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=30.0) as link,
        ):
            link.sendall(f"{command}\r\n".encode())
            answer = link.recv(64)
            if answer.startswith(b"+OK"):
                return
        time.sleep(0.1)
    raise TimeoutError(f"Redis did not take {command}")
