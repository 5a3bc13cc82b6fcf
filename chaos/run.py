"""One run: a cluster, its links, the load, the schedule, and the wait for quiet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from chaos import report, schedule
from chaos.callers import Caller
from chaos.counters import Counters
from chaos.faults import Faults
from chaos.guests import Guests
from chaos.ledger import Ledger
from chaos.links import VIA, Links
from chaos.memory import Memory
from chaos.people import CROWD, NARROW, Person, World
from deploy.local.cluster import LocalCluster
from deploy.local.process import Unavailable
from holdfast.settings import Auth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

QUIET: Final = 60.0
"""Seconds without any progress after which waiting for quiet is given up."""
_LOOK: Final = 5.0

_CHANNELS: Final = {
    f"channels.{kind}": {"subscribe": subscribe, "send": send, "keep_count": 100_000, "keep_seconds": 86_400}
    for kind, subscribe, send in (
        ("user", "owner", "anyone"),
        ("group", "members", "members"),
        ("room", "anyone", "anyone"),
    )
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is to be. `baseline`, `seconds`: without and with faults. `load`: 1 is a hundred people."""

    seed: int
    seconds: float
    baseline: float = 20.0
    brokers: int = 3
    load: float = 0.3
    only: str = ""
    """Kinds of faults by how their names begin, comma-separated; empty: all."""


class Run:
    """Keeps everything that belongs to a run together. `folder` takes its logs and its report."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.random = Random(options.seed)  # noqa: S311 - not a secret
        self.begin = time.monotonic()
        self.ledger = Ledger(self.now)
        self.memory = Memory()
        self.counters = Counters()
        settings: dict[str, Any] = {
            f"{kind}.{key}": value for kind, policy in _CHANNELS.items() for key, value in policy.items()
        }
        settings |= {
            "access.buffer": 16_384,  # who stops for seconds is put aside
            "access.catch_up": 100_000,  # and may be far behind without a reset
            "kafka.deadline": 3.0,  # below what faults last: produces fail
        }
        self.cluster = LocalCluster(
            folder / "cluster", brokers=options.brokers, via=VIA, app="chaos.handlers:app", settings=settings
        )
        self.links = Links(self._names)
        self.faults = Faults(
            self.cluster,
            self.links,
            self.now,
            self.note,
            failed=lambda fault, why: self.ledger.violate("failed", "", f"{fault} was not undone: {why}"),
            random=self.random,
        )
        self.people: list[Person] = []
        self._notes = (folder / "timeline.txt").open("w", encoding="utf-8", buffering=1)

    def now(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self.begin

    def note(self, text: str) -> None:
        """Add a line to the timeline."""
        self._notes.write(f"{self.now():9.2f}  {text}\n")

    async def go(self, say: Callable[[str], None]) -> bool:
        """Run; say how it goes and what came out. Returns whether every promise was kept."""
        names = [*self.cluster.nodes, *self.cluster.server_ports]
        plan = self._plan(names)
        (self.folder / "plan.txt").write_text("\n".join(schedule.told(plan)) + "\n")
        say(f"starting {len(names)} processes; this run's folder is {self.folder}")
        async with self._cluster():
            caller = Caller(world := await self._world())
            looking = asyncio.ensure_future(self._look())
            try:
                guests = await self._gather(world, caller)
                say(f"{len(self.people)} people are there; {self.options.baseline:g} s without faults")
                await asyncio.sleep(self.options.baseline)
                say(f"{len(plan.faults)} faults over {plan.seconds:.0f} s")
                await self.faults.run(plan)
                say("waiting for quiet")
                await self._quiet(world, caller)
                await self._compare(caller, guests)
            finally:
                looking.cancel()
                await asyncio.gather(*(person.end() for person in self.people))
                await caller.end()
            self.memory.look(self._sizes())
            await self.counters.look(self._metrics())
        self.ledger.settle()
        for where, line in troubles(self.cluster.dir, self.cluster.nodes):
            self.ledger.violate("failed", "", f"{where} logged {line}")
        self._write(say)
        return not self.ledger.violations

    # parts

    def _plan(self, names: list[str]) -> schedule.Plan:
        options = self.options
        return schedule.make(options.seed, options.seconds, schedule.roles(names), options.only)

    @contextlib.asynccontextmanager
    async def _cluster(self) -> AsyncIterator[None]:
        cluster, links = self.cluster, self.links
        for name, node in cluster.nodes.items():
            for port in node.ports.values():
                await links.stand_before(name, port)
        for name, port in cluster.server_ports.items():
            await links.stand_before(name, port)
        try:
            await asyncio.to_thread(cluster.start)
            for server in cluster.servers.values():
                if not server.ours:
                    raise Unavailable(server.name, "chaos needs one of its own, and HF_LOCAL_… names another")
            self.note("the cluster serves")
            yield
        finally:
            await asyncio.to_thread(cluster.stop)
            await links.close()

    async def _world(self) -> World:
        nodes = self.cluster.nodes

        def ports(key: str) -> list[tuple[str, int]]:
            return [(name, node.ports[key]) for name, node in nodes.items() if key in node.ports]

        websocket = await self.links.balance(ports("ACCESS_WEBSOCKET_PORT"))
        tcp = await self.links.balance(ports("ACCESS_TCP_PORT"))
        narrow = await self.links.balance(ports("ACCESS_WEBSOCKET_PORT"), room=NARROW)
        return World(
            ledger=self.ledger,
            note=self.note,
            urls=[f"ws://{VIA}:{websocket}/ws"] * 3 + [f"tcp://{VIA}:{tcp}"],
            narrow=[f"ws://{VIA}:{narrow}/ws"],
            apis=[f"http://{VIA}:{port}" for _, port in ports("API_PORT")],
            api_key=self.cluster.api_key,
            auth=Auth(secrets=(self.cluster.secret,)),
            random=self.random,
        )

    async def _gather(self, world: World, caller: Caller) -> Guests:
        """Let everybody come: pairs, groups, a crowd, the slow and the restless; API publishers; guests."""
        load = self.options.load
        groups = {
            f"g{number}": [f"pair-{number}-{one}" for one in "ab"] for number in range(max(int(10 * load), 1))
        }
        people = self.people
        for number in range(max(int(20 * load), 2)):
            for one, other in ("ab", "ba"):
                mine = [
                    f"group:{group}" for group, users in groups.items() if f"pair-{number}-{one}" in users
                ]
                targets = [f"user:pair-{number}-{other}", f"user:pair-{number}-{other}", *mine]
                people.append(Person(world, f"pair-{number}-{one}", targets, pace=2.0))
        for number in range(max(int(40 * load), 2)):
            targets = [CROWD] if number < 4 else []
            people.append(Person(world, f"crowd-{number}", targets, rooms=[CROWD], pace=1.0))
        for number in range(max(int(10 * load), 1)):
            groups["g0"].append(f"slow-{number}")
            people.append(Person(world, f"slow-{number}", [], rooms=[CROWD], slow=10.0))
        for number in range(max(int(10 * load), 1)):
            groups["g0"].append(f"restless-{number}")
            targets = [CROWD, "group:g0", f"user:restless-{number}"]
            people.append(Person(world, f"restless-{number}", targets, rooms=[CROWD], pace=1.5, restless=6.0))
        await asyncio.gather(*(caller.join(group, users) for group, users in groups.items()))
        for person in people:
            person.start()
        await asyncio.gather(*(person.ready.wait() for person in people))
        targets = [
            CROWD,
            *(f"group:{group}" for group in groups),
            *(f"user:{person.user}" for person in people),
        ]
        caller.start(max(int(10 * load), 1), targets, pace=0.5)
        guests = Guests(world, caller, people, groups)
        guests.start(max(int(20 * load), 2))
        return guests

    async def _look(self) -> None:
        """Look at the memory now and then; first when the load has been there for a moment."""
        while True:
            await asyncio.sleep(_LOOK)
            if self.ledger.counts["acked"]:
                self.memory.look(self._sizes())
                await self.counters.look(self._metrics())

    async def _quiet(self, world: World, caller: Caller) -> None:
        """Stop the load, and wait until everything has come or nothing comes any more."""
        world.going = False
        for person in self.people:
            person.calm()
        finishing = asyncio.ensure_future(caller.finish())
        progress, since = (-1, -1), self.now()
        while self.now() - since < QUIET:
            await asyncio.sleep(0.5)
            state = (self.ledger.counts["delivered"], self.ledger.open())
            if state != progress:
                progress, since = state, self.now()
            elif self.now() - since > 2.0 and finishing.done() and self._complete():
                break
        if not finishing.done():
            self.ledger.violate("failed", "", "some calls of the API were not answered")
            finishing.cancel()
        for error in await asyncio.gather(finishing, return_exceptions=True):
            if isinstance(error, Exception):
                self.ledger.violate("failed", "", f"who calls the API ended: {error!r}")

    def _complete(self) -> bool:
        return not self.ledger.open() and next(self.ledger.missing(), None) is None

    async def _compare(self, caller: Caller, guests: Guests) -> None:
        """Compare what the API says at the end with what programs were given: logs, and members of groups."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30.0):
                await guests.compare()
        for channel in self.ledger.channels():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30.0):
                    self.ledger.logged(channel, *await caller.history(channel))

    def _names(self) -> dict[int, str]:
        return {os.getpid(): "clients"} | {pid: name for name, pid in self._sizes().items() if pid}

    def _sizes(self) -> dict[str, int]:
        return {
            name: process.pid
            for name, process in (*self.cluster.nodes.items(), *self.cluster.servers.items())
        }

    def _metrics(self) -> dict[str, tuple[int, str]]:
        return {name: (node.pid, node.address) for name, node in self.cluster.nodes.items() if node.pid}

    def _write(self, say: Callable[[str], None]) -> None:
        ledger, faults = self.ledger, self.faults
        lines = report.whole(ledger, faults.done, self.memory, faults.restarts, self.counters)
        (self.folder / "report.txt").write_text("\n".join(lines) + "\n")
        (self.folder / "violations.txt").write_text("\n".join(report.violations(ledger, faults.done)) + "\n")
        result = {
            "seed": self.options.seed,
            "counts": dict(ledger.counts),
            "counters": self.counters.totals(),
            "violations": {kind: ledger.count(kind) for kind in ("lost", "doubled", "reordered", "failed")},
            "resets": len(ledger.resets),
        }
        (self.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        self._notes.close()
        say("\n".join(["", *lines]))


def troubles(folder: Path, nodes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield, by node, what services have logged as an error, or printed instead of logging it."""
    for node in nodes:
        with (folder / f"{node}.log").open(encoding="utf-8", errors="replace") as log:
            for line in log:
                if not line.startswith("{") or '"level":"error"' in line:
                    yield node, line.strip()[:2000]
