"""One simulated cluster and the people who use it: built, disturbed, healed and judged from a plan."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import Retry
from holdfast.log.port import FENCED
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts
from services.access.service import build as build_access
from services.dispatch.service import build as build_dispatch
from services.logic.service import build as build_logic
from tests.simulation.configure import BRIEF_KEEPS, simulated_settings
from tests.simulation.directory import SimConsul, SimDirectory
from tests.simulation.disturb import DEATH_LIMIT, STOP_LIMIT, Disturber
from tests.simulation.judge import Judge
from tests.simulation.kafka import SimBus, SimKafka
from tests.simulation.ledger import Ledger, Memory
from tests.simulation.loop import Process, SimClock, SimLoop
from tests.simulation.network import HostNetwork, Links, SimNetwork
from tests.simulation.people import ROOM, Caller, Person, handlers
from tests.simulation.redis import SURPRISE, SimLog, SimRedis
from tests.simulation.uses import Requests, Use
from tests.simulation.uses_doors import Doors
from tests.simulation.uses_groups import CLUB, Club, Tokens
from tests.simulation.uses_reading import BRIEF, Brief, Tablets
from tests.simulation.uses_rude import MANNERS, Rude
from tests.simulation.watch import DrainWatch, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.log.port import NodeUpdate
    from tests.simulation.plan import Plan

RESTART: Final = 0.5
RECALL: Final = "services.logic.recall"
"""Whose warnings say that events may be told twice."""

_USES: Final[dict[str, type[Use]]] = {
    "requests": Requests,
    "doors": Doors,
    "club": Club,
    "tokens": Tokens,
    "tablets": Tablets,
    "brief": Brief,
    "rude": Rude,
}


class Node:
    """One process of a service, as its supervisor sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.role = name.partition("-")[0]
        self.process: Process | None = None
        self.service: Any = None
        self.serving = False
        self.metrics: Metrics | None = None

    @property
    def incarnation(self) -> str:
        return str(getattr(self.service, "incarnation", getattr(self.service, "_incarnation", "")))

    @property
    def up(self) -> bool:
        return self.process is not None and not self.process.dead


class World:
    """See the module."""

    def __init__(self, plan: Plan, *, keep: bool) -> None:
        self.plan = plan
        seed = plan.seed
        self.loop = SimLoop(Random(f"{seed}/turns"), self._error)
        self.ledger = Ledger(self.loop.time, keep=keep)
        self.draws = Random(f"{seed}/handlers")
        self.random = Random(f"{seed}/world")
        self.clock = SimClock(self.loop)
        self.links = Links(Random(f"{seed}/links"), plan.latency)
        self.net = SimNetwork(self.loop, self.links)
        self.settings = simulated_settings(plan)
        policies = self.settings.policies()
        self.redis = SimRedis(
            self.loop, self.links, self.clock, plan.partitions, policies, Random(f"{seed}/redis")
        )
        self.redis.on_applied = self.ledger.applied
        self.redis.on_updated = self._updated
        self.ambushes: list[Callable[[str], None]] = []  # what awaits the next session, given its node
        self.members: set[str] = set()
        self.uses = [_USES[name](self) for name in plan.uses]
        self.rooms = (ROOM, *(room for use in self.uses for room in use.rooms))
        self.app = handlers(self)
        self.ledger.resets_for = self._may_reset
        self.nodes = {name: Node(name) for name in plan.nodes()}
        self.net.balancers = {
            "ws.lb": lambda: self._ports("access", "websocket"),
            "tcp.lb": lambda: self._ports("access", "tcp"),
            "api.lb": lambda: self._ports("logic", "api"),
        }
        self.people: list[Person] = []
        self.memories: list[Memory] = []
        self.graveyard: list[Any] = []
        self.joined: list[tuple[Person, Memory, str, int]] = []
        self.losses: list[float] = []  # when Redis lost writes
        self.unrecalled = False  # a worker could not find out which events were there before
        self.blind = 0.0  # until when an observer of beats may have been kept from seeing them
        self._homes: dict[str, Process] = {}
        self._died: dict[Process, float] = {}
        self.healing = False
        self._handler = _Logs(self)

    # what goes on inside

    async def run(self) -> None:
        plan, loop = self.plan, self.loop
        self.kafka = SimKafka(
            loop,
            self.links,
            self.clock,
            plan.partitions,
            Random(f"{plan.seed}/kafka"),
            self.settings.kafka.session_timeout,
        )
        self.kafka.on_append = self.ledger.appended
        self.consul = SimConsul(loop, self.links, Random(f"{plan.seed}/consul"))
        for node in self.nodes.values():
            self.start(node)
        self.caller = Caller(self)
        self.people = [Person(self, number) for number in range(1, plan.people + 1)]
        self.memories += [person.memory for person in self.people]
        await asyncio.sleep(self.random.uniform(0.0, 2.0))
        self.caller.start()
        for person in self.people:
            person.start()
        for use in self.uses:
            use.start()
        self.loop.spawn(self.loop.world, Watch(self).run())
        disturber = Disturber(self)
        began = loop.now
        for fault in plan.faults:
            await asyncio.sleep(max(0.0, began + fault.at - loop.now))
            self.ledger.note(f"FAULT {fault}")
            disturber.begin(fault)
        await asyncio.sleep(max(0.0, began + plan.seconds - loop.now))
        self.healing = True
        for person in self.people:
            person.stop()
        for use in self.uses:
            use.stop()
        await disturber.heal()
        self.ledger.note("HEALED")
        judge = Judge(self)
        await judge.quiet()
        await judge.judge()

    def start(self, node: Node) -> None:
        """Start a node's process."""
        process = self.loop.process(node.name)
        node.process, node.service, node.serving = process, None, False
        self.loop.spawn(process, self._boot(node, process))

    async def _boot(self, node: Node, process: Process) -> None:
        settings = self.settings
        clock = SimClock(self.loop, Random(f"{self.plan.seed}/{node.name}/skew").randrange(-300, 300))
        node.metrics = Metrics()
        log: Any = SimLog(self.redis, process, settings.redis.timeout)  # has every method there is
        parts = Parts(
            settings=settings,
            clock=clock,
            network=HostNetwork(self.net, process),
            bus=SimBus(self.kafka, process, settings.kafka.buffer_records),
            log=log,
            directory=SimDirectory(self.consul, process),
            metrics=node.metrics,
        )
        try:
            for part in (parts.bus, parts.log, parts.directory):
                await _until_there(part.start)
            if node.role == "access":
                node.service = build_access(parts, node.name, 0)
            elif node.role == "logic":
                node.service = build_logic(parts, node.name, 0, self.app)
            else:
                node.service = build_dispatch(parts, node.name, 0)
            await node.service.start()
        except Retry as error:
            self.ledger.note(f"{node.name}: did not start: {error}")
            self.kill(node, silent=False)
            self.loop.call_later(RESTART, self.start, node, context=self.loop.world.context)
            return
        node.serving = True
        self.ledger.note(f"{node.name}: serving as {node.incarnation}")

    def kill(self, node: Node, *, silent: bool) -> None:
        """End a node's process at once."""
        if node.process is None or node.process.dead:
            return
        self.loop.kill(node.process)
        self._died[node.process] = self.loop.now
        self.net.died(node.process, silent)
        self.consul.views = [view for view in self.consul.views if view.process is not node.process]
        self.graveyard.append((node.process, node.service))

    async def stop(self, node: Node) -> None:
        """End a node's process as SIGTERM does, or at the supervisor's limit."""
        process, service = node.process, node.service
        if process is None or process.dead or service is None or not node.serving:
            return
        node.serving = False
        drain = DrainWatch(self, node)
        task = self.loop.spawn(process, service.stop())
        until = self.loop.now + STOP_LIMIT
        while not task.done() and self.loop.now < until and not process.dead:
            drain.look()
            await asyncio.sleep(0.05)
        self.ledger.note(f"{node.name}: stopped, {'done' if task.done() else 'too late'}")
        if task.done() and task.exception() is not None:
            self.ledger.violated(0, f"{node.name}: stop failed: {task.exception()!r}")
        if not process.dead:
            self.kill(node, silent=False)

    def _ports(self, role: str, name: str) -> Sequence[int]:
        ports = []
        for node in self.nodes.values():
            if node.role == role and node.serving and node.up:
                port = node.service.details().get(name)
                if port in self.net.servers:
                    ports.append(port)
        return ports

    # what must not happen

    def _updated(self, shard: int, process: Process, update: NodeUpdate, answer: int, dead: bool) -> None:
        """Take what a node has written of its routes and sessions."""
        if dead and answer != FENCED:
            self.ledger.violated(8, f"{update.incarnation} is dead, and shard {shard} took its update")
        if update.whole or answer != update.number:
            return
        for change in update.changes:
            if change.info is not None:
                self._homes.setdefault(change.info.session, process)
                for use in self.uses:
                    use.recorded(change.info.session)
                if self.ambushes and not process.dead:
                    self.ambushes.pop(0)(process.name)

    def connected(self, session: str, node: str) -> None:
        """Note where a session lives."""
        process = self.nodes[node].process
        if process is not None:
            self._homes[session] = process
        for use in self.uses:
            use.connected(session)

    def sessions(self) -> list[str]:
        """Return the sessions that are there now, as their clients see it."""
        return [
            *(person.session for person in self.people),
            *(session for use in self.uses for session in use.sessions()),
        ]

    def home(self, session: str) -> Process:
        """Return the process that a session lives or lived in."""
        return self._homes[session]

    def _may_refuse(self, user: str) -> bool:
        """Tell whether a user may be told that it is no member of the club."""
        return any(isinstance(use, Club) and use.may_refuse(user) for use in self.uses)

    def _may_reset(self, program: str, channel: str, place: int) -> bool:
        """Tell whether a program may be told to begin a channel anew, though Redis lost nothing."""
        if channel == BRIEF:
            return self.ledger.known_head(channel) > place + BRIEF_KEEPS
        person = next((one for one in self.people if one.memory.name == program), None)
        return channel == CLUB and any(
            isinstance(use, Club) and person is not None and person.user in use.left for use in self.uses
        )

    def online(self, asked: float, sessions: Sequence[str]) -> None:
        """Take the API's answer to who is online, asked at a time: no dead node's sessions (inv 6)."""
        for session in sessions:
            died = self._died.get(self._homes[session]) if session in self._homes else None
            if died is not None and died > self.blind and asked > died + DEATH_LIMIT:
                text = f"{session} is online {asked - died:.1f} s after its node's death"
                self.ledger.violated(6, text)

    def trouble(self, name: str, trouble: Any) -> None:
        """Take an error that a client was told, outside of any answer."""
        self.ledger.note(f"{name}: error {trouble}")
        person = next(person for person in self.people if person.name == name)
        if trouble.code == "forbidden" and trouble.channel == CLUB and self._may_refuse(person.user):
            person.memory.places.pop(CLUB, None)
            return
        if trouble.code == "connect_first":
            # It stood still while it connected. The code says not to come back: the program begins anew.
            self.loop.spawn(person.process, person.restart(forget=False))
        elif trouble.code not in ("draining", "superseded", "slow", "overloaded", "silent", "fenced"):
            self.ledger.violated(11, f"{name} was told {trouble.code}: {trouble.message}")

    def _error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.ledger.violated(0, f"nobody handled: {context['message']}: {error!r}")
        if error is not None and self.ledger._keep:
            import traceback

            self.ledger.note("".join(traceback.format_exception(error)))


async def _until_there(start: Any) -> None:
    while True:
        try:
            await start()
        except Retry:
            await asyncio.sleep(0.5)
        else:
            return


class _Logs(logging.Handler):
    """Takes what services log: into the history; an error with an exception must not be."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        ledger = self._world.ledger
        text = f"{record.name}: {record.getMessage()}"
        ledger.note(f"{record.levelname.lower()} {text}")
        if record.name == RECALL:
            self._world.unrecalled = True
        if record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1] is not None:
            if str(record.exc_info[1]) in (MANNERS, SURPRISE):
                return  # a failure on purpose
            error = record.exc_info[1]
            ledger.violated(0, f"{text}: {error!r}")
            if ledger._keep:
                ledger.note(logging.Formatter().formatException(record.exc_info))
