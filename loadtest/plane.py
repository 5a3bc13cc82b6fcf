"""The connection plane: memory, accept and fan-out of one access process, beside the C floor in the same run.

    python -m loadtest.plane [--connections 10000] [--runs 3] [--write]

Starts a local cluster of real servers with one process of each service. CPU is utime + stime of the access
process alone, but where a row says otherwise; medians of several runs. `--write` puts the table into
`docs/performance.md`. Loopback only; takes a few minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from deploy.local.cluster import LocalCluster
from loadtest import centrifugo, floors
from loadtest.floors import Floor
from loadtest.native import Program, cpu_seconds, resident
from loadtest.page import compared, parser, publish, table
from loadtest.target import SETTINGS, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.centrifugo import Centrifugo

PAYLOAD = "x" * 128
DELIVERIES = 270_000
"""Of one measurement of a fan-out: more than a second of CPU."""

TURNS = 9
"""In which ours and the floor take part one after the other."""

WINDOW = 256
"""Connections on their way in at a time: a storm, of which the process takes what it can."""

FLOOR_NAMES = {"send": "C loop of send()", "uring": "io_uring"}


class Node:
    """A process that holds connections, and what is measured of it.

    `process` is its name in a target, `prefix` begins the names of its rows, and `first` is the number of the
    first address that its crowds leave from.
    """

    process: str
    prefix = ""
    first = 1

    def __init__(self, folder: Path, connections: int) -> None:
        self.folder = folder
        self.connections = connections
        self.target = self.now()
        self.window = WINDOW
        self._source = self.first - 1

    def now(self) -> Target:
        """Return the target as it runs now."""
        raise NotImplementedError

    def restart(self) -> None:
        """Start the process anew."""
        raise NotImplementedError

    @property
    def access(self) -> int:
        """The process measured."""
        return self.target.pids[self.process]

    def fresh(self) -> None:
        """Start the process anew: memory that a crowd has left would hide what the next one takes."""
        self.restart()
        self.target = self.now()
        self.target.settle()

    def crowd(self, count: int, channel: str, prefix: str) -> Program:
        """Start a crowd, unconnected, leaving from addresses of its own."""
        tokens = self.target.write_tokens(
            self.folder / f"tokens-{prefix}", (f"{prefix}{n}" for n in range(count))
        )
        target = self.target
        return Program("crowd", target.port(), tokens, channel, self.source(), self.window, target.dialect)

    def source(self) -> int:
        """Return the number of an address that no crowd has left from yet."""
        self._source += 1
        return self._source

    def storm(self, run: int) -> dict[str, float]:
        """Open idle connections; return CPU of each process in µs and memory in KiB for each of them."""
        count = self.connections
        self.fresh()
        crowd = self.crowd(count, "-", f"idle{run}-")
        memory = resident(self.access)
        before, begun = self.target.cpu(), cpu_seconds(self.access)
        opened = crowd.say(f"open {count}")
        busy = cpu_seconds(self.access) - begun
        crowd.say("wait 1 2")  # what follows a connect belongs to it: its event, and the batches' ends
        after = self.target.cpu()
        if opened["failed"]:
            raise RuntimeError(f"{opened['failed']:.0f} connections failed")
        result = {f"accept µs {role}": (after[role] - before[role]) / count * 1e6 for role in before}
        result["accept KiB"] = (resident(self.access) - memory) / count / 1024
        result["accept rate"] = count / busy
        result["accept wall"] = count / opened["seconds"]
        crowd.close()
        self.target.settle()
        return result


class Plane(Node):
    """One local cluster, and its access process."""

    process = "access-0"

    def __init__(self, folder: Path, cluster: LocalCluster, connections: int) -> None:
        self.cluster = cluster
        super().__init__(folder, connections)

    def now(self) -> Target:
        """See `Node`."""
        return Target.of_cluster(self.cluster.dir)

    def restart(self) -> None:
        """See `Node`."""
        self.cluster.restart(self.process)

    def accept(self, run: int) -> dict[str, float]:
        """Return what a storm of accepts costs, and the floor."""
        return {"accept floor": self.accept_floor()} | self.storm(run)

    def accept_floor(self) -> float:
        """Return µs of a C program that accepts, answers the upgrade and sends one frame."""
        return floors.accept(self.folder, self.connections, self.source(), self.window)

    async def fan_out(self, size: int, run: int, peers: Sequence[Node] = ()) -> dict[str, float]:
        """Fan out to a room, and from the floor to as many; return CPU-s for a million deliveries.

        They take turns, and so do peers with rooms of theirs: what else the machine does, it does to all.
        """
        rooms = {node.prefix: Room(node, size, run) for node in (self, *peers)}
        beside = [Floor(self.folder, size, mode, self.source()) for mode in FLOOR_NAMES]
        await asyncio.to_thread(self.target.settle)
        cost: dict[str, list[float]] = {mode: [] for mode in FLOOR_NAMES}
        rounds = max(1, DELIVERIES // size // TURNS)
        async with aiohttp.ClientSession() as http:
            for room in rooms.values():
                await room.publish(http, together=16, rounds=1)
                await room.publish(http, together=1, rounds=3)
            for turn in range(TURNS + 1):
                costs = {floor.mode: floor.send(rooms[""].frame, rounds) for floor in beside}
                for prefix, room in rooms.items():
                    costs[prefix + "x1"] = await room.publish(http, together=1, rounds=rounds)
                    costs[prefix + "x16"] = await room.publish(http, together=16, rounds=max(1, rounds // 4))
                if turn:  # the first turn warms up
                    for name, value in costs.items():
                        cost.setdefault(name, []).append(value * 1e6)
        for room in rooms.values():
            room.close()
        for floor in beside:
            floor.close()
        await asyncio.to_thread(self.target.settle)
        result = {f"floor {mode} {size}": statistics.median(cost[mode]) for mode in FLOOR_NAMES}
        for prefix, name in itertools.product(rooms, ("x1", "x16")):
            values = cost[prefix + name]
            result[f"{prefix}fan-out {size} {name}"] = statistics.median(values)
            ratios = [mine / floor for mine, floor in zip(values, cost["send"], strict=True)]
            result[f"{prefix}ratio {size} {name}"] = statistics.median(ratios)
        return result


class PeerNode(Node):
    """A node of Centrifugo."""

    process = "centrifugo"
    prefix = "peer "
    first = 121  # those of ours are below

    def __init__(self, folder: Path, server: Centrifugo, connections: int) -> None:
        self._server = server
        super().__init__(folder, connections)

    def now(self) -> Target:
        """See `Node`."""
        return self._server.target

    def restart(self) -> None:
        """See `Node`."""
        self._server.restart()


class Room:
    """A room with a crowd in it."""

    def __init__(self, node: Node, size: int, run: int) -> None:
        self._node = node
        self._size = size
        self._channel = f"room:fan{size}-{run}"
        self._crowd = node.crowd(size, self._channel, f"fan{size}-{run}-")
        self.frame = 0
        opened = self._crowd.say(f"open {size}")
        if opened["failed"]:
            raise RuntimeError(f"{opened['failed']:.0f} connections failed")
        self.close = self._crowd.close

    def leave(self) -> None:
        """Have all hang up, as clients do that end; `close` resets their connections."""
        self._crowd.say("leave")

    async def publish(self, http: aiohttp.ClientSession, *, together: int, rounds: int) -> float:
        """Publish `together` at a time and wait until all have them; return CPU seconds for a delivery."""
        target = self._node.target
        path, body = target.publishing([(self._channel, PAYLOAD)] * together)
        self._crowd.say("reset")
        before = cpu_seconds(self._node.access)
        wanted = 0
        for _ in range(rounds):
            async with http.post(target.apis[0] + path, json=body, headers=target.headers()) as answer:
                answer.raise_for_status()
            wanted += self._size * together
            # In a thread: the crowd answers when all is there, and the session must stay alive meanwhile.
            await asyncio.to_thread(self._crowd.say, f"wait {wanted} 20")
        spent = cpu_seconds(self._node.access) - before
        counted = self._crowd.say("count")
        if counted["messages"] != wanted or counted["gaps"]:
            raise RuntimeError(f"{wanted} deliveries expected, counted {counted}")
        self.frame = round(counted["bytes"] / wanted)
        return spent / wanted


async def measure(
    plane: Plane, runs: int, sizes: list[int], peers: Sequence[Node] = ()
) -> dict[str, list[float]]:
    """Take every measurement `runs` times; return the rows of the table with all their values."""
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)
        print(f"{name}: {value:.2f}", flush=True)

    for run in range(runs):
        for name, value in plane.accept(run).items():
            note(name, value)
        for peer in peers:
            for name, value in peer.storm(run).items():
                note(peer.prefix + name, value)
        for size in sizes:
            for name, value in (await plane.fan_out(size, run, peers)).items():
                note(name, value)
    return rows


BOUNDS = {
    "accept KiB": ("memory per idle connection, KiB", 2.5),
    "accept µs access": ("accept to `connected`, µs of access", 90.0),
    "accept rate": ("accepts a second and core of access", -8000.0),
    "ratio 1000 x1": ("fan-out to 1,000, one at a time, ratio to the C loop", 1.4),
    "ratio 10000 x1": ("fan-out to 10,000, one at a time, ratio to the C loop", 1.25),
    "ratio 1000 x16": ("fan-out to 1,000, 16 at a time, ratio to the C loop", 1.0),
    "ratio 10000 x16": ("fan-out to 10,000, 16 at a time, ratio to the C loop", 1.0),
}
"""Titles and bounds; below 0: a bound from below."""


OWN = ("accept µs access", "accept µs logic", "accept µs dispatch")
STORES = ("accept µs kafka", "accept µs redis", "accept µs consul")
COMPARED = (
    ("memory per idle connection, KiB", ("accept KiB",), ("peer accept KiB",)),
    ("accept to `connected`, µs of its own processes", OWN, ("peer accept µs centrifugo",)),
    ("the same, µs of Redis, Kafka and Consul", STORES, ("peer accept µs redis",)),
    *(
        (
            f"fan-out to {size:,}, {together} at a time, CPU-s per million deliveries",
            (f"fan-out {size} x{together}",),
            (f"peer fan-out {size} x{together}",),
        )
        for size in (1000, 10_000)
        for together in (1, 16)
    ),
)
"""What is set beside a peer: title, the rows that are added up of ours, and those of the peer's."""


def title(name: str) -> str:
    """Return the words for a row that has no bound."""
    kind, _, rest = name.partition(" ")
    first, _, size = rest.partition(" ")
    if name == "accept floor":
        return "a C program that accepts, upgrades and sends one frame, µs"
    if kind == "floor":
        return f"{FLOOR_NAMES[first]} to {int(size):,}, CPU-s per million"
    if kind == "fan-out":
        return f"fan-out to {int(first):,}, {size[1:]} at a time, CPU-s per million deliveries"
    if first == "µs":
        return f"the same, µs of {size}"
    return "accepts a second as they came in, all processes on the machine's cores"


def main() -> None:
    """Measure, print, and write the page if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--connections", type=int, default=10_000, help="idle connections (default 10000)")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="rooms to fan out to")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            LocalCluster(folder / "cluster", access=1, logic=1, dispatch=1, settings=SETTINGS) as cluster,
            centrifugo.started(folder / "centrifugo") as server,
        ):
            plane = Plane(folder, cluster, options.connections)
            peers = [PeerNode(folder, server, options.connections)] if server else []
            rows = asyncio.run(measure(plane, options.runs, options.sizes, peers))
    command = f"make bench-plane RUNS={options.runs}"
    words = {
        name: BOUNDS.get(name) or (title(name), 0.0) for name in rows if not name.startswith(PeerNode.prefix)
    }
    publish("plane", table(rows, words, command, options.runs), write=options.write)
    if server:
        publish("plane-peer", compared(rows, COMPARED, server.name, command), write=options.write)


if __name__ == "__main__":
    main()
