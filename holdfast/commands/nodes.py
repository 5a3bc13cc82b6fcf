"""`holdfast nodes`: every process of the cluster, and whether it lives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.commands.ports import moving, registered, run
from holdfast.commands.show import Tinted, as_json, say, table, tint
from holdfast.doctor.spans import spans
from holdfast.membership.watchers import ROLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from holdfast.log.port import ShardState
    from holdfast.membership.port import Node
    from holdfast.parts import Parts

STRAY_SECONDS: Final = 2.0
"""How long a beat of a node that is not registered is waited for: what is left of the dead does not move."""

_TINTS: Final = {"alive": "good", "draining": "odd", "drained": "odd", "silent": "bad", "unregistered": "bad"}

_WITHOUT: Final = {
    "access": "nobody is connected",
    "logic": "sends are acked and wait in Kafka, and the HTTP API is away",
    "dispatch": "messages wait in Kafka, and nothing is delivered",
}

_MEANS: Final = {
    "silent": (
        "is registered, but its beat in Redis has not moved for 5 s, so its sessions do not count as online: "
        "it hangs, is dead, or cannot reach Redis. Look at its log."
    ),
    "unregistered": (
        "beats in Redis, but the membership store does not know it, so nothing is pushed to it and its "
        "clients get messages late. It cannot reach the membership store: look at its log."
    ),
}


class Seen(msgspec.Struct):
    """One process, as the membership store and Redis show it.

    `state`: `alive`, `draining`, `silent` (access: registered, and its beat does not move), `unregistered`
    (its beat moves, and the membership store does not know it), `drained` (the same, without a connection).
    Logic and dispatch are `alive` while they are registered. `connections` is of access nodes, `partitions`
    are those that a dispatcher has taken.
    """

    node: str
    role: str
    state: str
    incarnation: str
    address: str = ""
    region: str = ""
    metrics: str = ""
    connections: int | None = None
    partitions: list[int] | None = None


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    about = "list every process of the cluster"
    parser = commands.add_parser(
        "nodes",
        parents=[common],
        help=about,
        description="List every process of the cluster: who is registered in the membership store, whether "
        "access nodes live (by their beat in Redis, which takes 1 s to see, 6 s where one is silent), and "
        "which partitions each dispatcher has taken. Exits with 1 where a node is silent or unregistered, a "
        "role has nobody, or a partition is not taken.",
    )
    parser.set_defaults(run=lambda options: run(options, show, "log", "directory"))


async def show(ports: Parts, options: argparse.Namespace) -> int:
    """List the processes."""
    found = await look(ports)
    missing = [role for role in ROLES if role not in {one.role for one in found}]
    taken = {shard for one in found for shard in one.partitions or ()}
    untaken = sorted(set(range(ports.log.partitions)) - taken)
    wrong = [one for one in found if one.state in _MEANS]
    if options.json:
        say(as_json({"nodes": found, "missing": missing, "untaken": untaken}))
        return 1 if missing or untaken or wrong else 0
    head = ("node", "role", "state", "connections", "partitions", "address")
    say(table(head, [_row(one, found) for one in found]))
    trouble = [f"There is no {role} node: {_WITHOUT[role]}." for role in missing]
    if untaken and "dispatch" not in missing:
        trouble.append(
            f"Nobody who is registered has partitions {spans(untaken)}: their messages wait in Kafka. It "
            "takes about 5 s after a dispatcher died until another one has them."
        )
    trouble += [f"{one.node} {_MEANS[one.state]}" for one in wrong]
    for text in trouble:
        say(tint(f"\n{text}", "bad"))
    return 1 if trouble else 0


def _row(one: Seen, every: Sequence[Seen]) -> tuple[Any, ...]:
    alone = sum(other.node == one.node for other in every) == 1
    return (
        one.node if alone else one.incarnation,
        one.role,
        Tinted(one.state, _TINTS[one.state]),
        one.connections,
        "" if one.partitions is None else spans(one.partitions),
        one.address,
    )


async def look(ports: Parts) -> Sequence[Seen]:
    """Return every process. Raises Retry."""
    beats, loads, buried = await asyncio.gather(
        ports.log.beats(0), ports.log.loads(0), ports.log.tombstones(0)
    )
    known = registered(ports, beats.keys() - buried.keys())
    states = await asyncio.gather(*(ports.log.state(shard) for shard in range(ports.log.partitions)))
    access = [node.incarnation for node in known if node.role == "access"]
    # Who died leaves beats until it is swept: they are looked at, and nobody waits for them.
    strays = sorted(beats.keys() - set(access) - buried.keys())
    alive = await moving(ports.log, ports.clock, access)
    if strays:
        alive |= await moving(ports.log, ports.clock, strays, patience=STRAY_SECONDS)
    return [
        *(_seen(node, alive, loads, states) for node in known),
        *(_stray(name, loads.get(name, 0)) for name in strays if name in alive),
    ]


def _stray(incarnation: str, connections: int) -> Seen:
    state = "unregistered" if connections else "drained"
    return Seen(incarnation, "access", state, incarnation, connections=connections)


def _seen(node: Node, alive: set[str], loads: dict[str, int], states: Sequence[ShardState]) -> Seen:
    seen = Seen(node.name, node.role, "alive", node.incarnation, node.address, node.region, node.metrics)
    if node.role == "access":
        seen.connections = loads.get(node.incarnation)
    elif node.role == "dispatch":
        seen.partitions = [shard for shard, held in enumerate(states) if held.owner == node.incarnation]
    if node.role == "access" and node.incarnation not in alive:
        seen.state = "silent"
    elif node.draining:
        seen.state = "draining"
    return seen
