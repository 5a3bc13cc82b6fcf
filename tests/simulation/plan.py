"""What one run does: how large the cluster and the load are, and what goes wrong when. All from the seed."""

from __future__ import annotations

from random import Random
from typing import Final

import msgspec

DRAWN: Final[tuple[str, ...]] = (
    "crash", "stop", "pause", "cut", "reset", "slow", "kafka", "redis", "consul", "rebalance", "client",
    "suffix", "flush",
)  # fmt: skip

CLASSES: Final = (*DRAWN, "recreate", "ambush", "surprise")

DEFAULT: Final = frozenset(CLASSES)


USES: Final[tuple[str, ...]] = ("requests", "doors", "club", "tokens", "tablets", "brief")
"""What people do beside sending and subscribing, in `tests.simulation.uses` and its neighbours."""

RUDE: Final = "rude"
"""One more, which one run of four has."""


class Fault(msgspec.Struct, frozen=True):
    """Something that goes wrong at `at` (s), for `seconds`. `what`: the kind; `names`: of whom."""

    at: float
    what: str
    seconds: float = 0.0
    names: tuple[str, ...] = ()
    share: float = 0.0

    def __str__(self) -> str:
        who = " ".join(self.names)
        return f"{self.at:7.3f}  {self.what} {who} for {self.seconds:.2f} s, {self.share:.2f}"


class Plan(msgspec.Struct, frozen=True):
    """One run. `sends` and `publishes`: of each person, and of the API's caller.

    `backlog`: records that may wait in a partition of the queue (0: any number).
    """

    seed: int
    access: int
    logic: int
    dispatch: int
    partitions: int
    people: int
    sends: int
    publishes: int
    seconds: float
    latency: float
    faults: tuple[Fault, ...] = ()
    uses: tuple[str, ...] = ()
    backlog: int = 0

    def nodes(self) -> list[str]:
        """Return the names of all nodes."""
        counts = (("dispatch", self.dispatch), ("access", self.access), ("logic", self.logic))
        return [f"{role}-{number}" for role, count in counts for number in range(1, count + 1)]


def draw(seed: int, classes: frozenset[str] = DEFAULT) -> Plan:
    """Return the plan of a seed. Fewer classes leave the others' faults as they are."""
    random = Random(f"{seed}/plan")
    plan = Plan(
        seed=seed,
        access=random.choice((2, 2, 3)),
        logic=2,
        dispatch=2,
        partitions=random.choice((2, 3)),
        people=random.randint(3, 6),
        sends=random.randint(8, 40),
        publishes=random.randint(4, 20),
        seconds=random.choice((10.0, 16.0, 30.0)),
        latency=random.choice((0.0003, 0.002, 0.01)),
    )
    faults = [_fault(random, plan) for _ in range(random.choice((0, 1, 2, 4, 6, 8, 12)))]
    anew = Random(f"{seed}/recreate")
    if anew.random() < 0.1:
        at = round(anew.uniform(1.0, plan.seconds * 0.9), 3)
        faults.append(Fault(at, "recreate", 0.0, (), round(anew.random(), 2)))
    faults += _ambushes(Random(f"{seed}/ambush"), plan)
    faults += _surprises(Random(f"{seed}/surprise"), plan)
    kept = tuple(sorted((fault for fault in faults if _class(fault) in classes), key=lambda one: one.at))
    drawn = Random(f"{seed}/uses")
    uses = tuple(sorted(drawn.sample(USES, drawn.choice((0, 1, 1, 2, 2, 3)))))
    if Random(f"{seed}/rude").random() < 0.25:
        uses = (*uses, RUDE)
    backlog = Random(f"{seed}/backlog").choice((0, 0, 6, 20))
    return msgspec.structs.replace(plan, faults=kept, uses=uses, backlog=backlog)


def _ambushes(random: Random, plan: Plan) -> list[Fault]:
    """Draw what happens within milliseconds of a session's beginning, which chance alone rarely hits."""
    faults = []
    for _ in range(random.choice((0, 0, 1, 2, 3))):
        at = round(random.uniform(0.5, plan.seconds * 0.9), 3)
        what = random.choice(("ambush_crash", "ambush_kafka"))
        longest = random.choice((0.5, 2.0, 8.0))
        seconds = round(random.uniform(0.05, longest), 3)
        faults.append(Fault(at, what, seconds, (), round(random.random(), 2)))
    return faults


def _surprises(random: Random, plan: Plan) -> list[Fault]:
    """Draw, for one run of five, calls to the log that fail as nobody expects, of nodes without an API."""
    if random.random() > 0.2:
        return []
    node = random.choice([name for name in plan.nodes() if not name.startswith("logic")])
    at = round(random.uniform(0.5, plan.seconds * 0.9), 3)
    return [Fault(at, "surprise", round(random.uniform(0.5, 6.0), 3), (node,), round(random.random(), 2))]


def _class(fault: Fault) -> str:
    return fault.what.partition("_")[0]


def _fault(random: Random, plan: Plan) -> Fault:
    kind = random.choice(DRAWN)
    at = round(random.uniform(0.5, plan.seconds * 0.9), 3)
    # Most time limits of the cluster lie between 1 and 6 s; who is away for longer is superseded.
    longest = random.choice((1.0, 4.0, 8.0, 14.0))
    seconds = round(random.uniform(0.05, longest), 3)
    share = round(random.uniform(0.1, 0.9), 2)
    nodes = plan.nodes()
    node = random.choice(nodes)
    match kind:
        case "crash":
            return Fault(at, random.choice(("crash", "crash_silent")), seconds, (node,))
        case "pause" if random.random() < 0.3:
            # Long enough for a successor, and over while the run still goes on: a zombie.
            start = round(random.uniform(0.5, max(1.0, plan.seconds - 13.0)), 3)
            return Fault(start, kind, round(random.uniform(7.5, 12.0), 3), (node,))
        case "stop" | "pause" | "slow":
            return Fault(at, kind, seconds, (node,), share)
        case "cut":
            other = random.choice([*nodes, "kafka", "redis", "consul", *_hosts(plan)])
            return Fault(at, kind, seconds, (node, other if other != node else "redis"))
        case "reset":
            return Fault(at, kind, 0.0, (node,), share)
        case "kafka":
            what = random.choice(("kafka_down", "kafka_lose", "kafka_unanswered", "kafka_late"))
            return Fault(at, what, seconds, (), share * 0.5)
        case "redis":
            what = random.choice(("redis_down", "redis_stall", "redis_lossy", "redis_unanswered"))
            return Fault(at, what, seconds, (), share * 0.7)
        case "consul":
            return Fault(at, "consul_down", seconds)
        case "client":
            what = random.choice(("client_restart", "client_forget", "client_slow", "client_pause"))
            return Fault(at, what, seconds, (random.choice(_hosts(plan)),), share)
        case "suffix":
            return Fault(at, random.choice(("suffix", "suffix_shard")), min(seconds, 1.5), (), share)
        case _:
            return Fault(at, kind, seconds)


def _hosts(plan: Plan) -> list[str]:
    return [f"phone-{number}" for number in range(1, plan.people + 1)]
