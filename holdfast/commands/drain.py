"""`holdfast drain NODE`: sending an access node's clients elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from holdfast.commands.ports import moving, registered, run
from holdfast.commands.show import Tinted, as_json, note, say, table
from holdfast.errors import Reject

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from holdfast.membership.port import Node
    from holdfast.parts import Parts

HEARD: Final = 10.0
"""Seconds within which a node that was asked to drain is to say so: the ask comes with its next beat."""

_STATIC: Final = (
    "membership.kind is static, so nobody would see that the node drains: take it out of the file and out of "
    "the balancer, and end it with SIGTERM, which drains it"
)

_TINTS: Final = {"asked": "bad", "draining": "odd", "gone": "good"}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "drain",
        parents=[common],
        help="send the clients of access nodes elsewhere",
        description="Drain access nodes: each takes no new clients, sends those it has elsewhere at "
        "access.drain_rate, and leaves the cluster. Its process stays until it is ended, and serves again "
        "only after a restart. Nothing that was acked is lost (invariant 10). Exits with 1 where a node did "
        "not begin, or, with --wait, still has clients at the end.",
    )
    parser.add_argument(
        "nodes", metavar="NODE", nargs="+", help="names or incarnations, as `holdfast nodes` shows"
    )
    parser.add_argument("--wait", action="store_true", help="return when their clients are gone")
    parser.add_argument(
        "--force", action="store_true", help="also where no access node is left that takes clients"
    )
    parser.set_defaults(run=lambda options: run(options, drain, "log", "directory"))


async def drain(ports: Parts, options: argparse.Namespace) -> int:
    """Ask nodes to drain, and wait until they say that they do, or have."""
    if ports.settings.membership.kind == "static":
        raise Reject("conflict", _STATIC)
    known = registered(ports, ())
    chosen = {node.incarnation: node for node in choose(known, options.nodes)}
    others = [
        node.incarnation
        for node in known
        if node.role == "access" and not node.draining and node.incarnation not in chosen
    ]
    if not options.force and not await moving(ports.log, ports.clock, others):
        raise Reject(
            "conflict",
            "no other access node takes clients: draining these would leave nobody to connect to. "
            "Start another one first, or give --force",
        )
    for incarnation in chosen:
        await ports.log.ask(0, incarnation, "drain")
    until = ports.clock.monotonic() + HEARD
    while "asked" in _states(ports, chosen).values() and ports.clock.monotonic() < until:
        await ports.clock.sleep(0.2)
    if options.wait:
        until = ports.clock.monotonic() + ports.settings.process.drain_seconds + HEARD
        while await _clients(ports, chosen) and ports.clock.monotonic() < until:
            await ports.clock.sleep(0.5)
    states, left = _states(ports, chosen), await _clients(ports, chosen)
    if options.json:
        say(
            as_json(
                {
                    node.name: {
                        "incarnation": one,
                        "state": states[one],
                        "connections": left.get(one, 0),
                    }
                    for one, node in chosen.items()
                }
            )
        )
    else:
        rows = [
            (node.name, Tinted(states[one], _TINTS[states[one]]), left.get(one, 0))
            for one, node in chosen.items()
        ]
        say(table(("node", "state", "connections"), rows))
    if "asked" in states.values():
        note(
            f"A node that was asked has not begun after {HEARD:.0f} s: it hangs, or cannot reach Redis or "
            "the membership store. The ask stays, and counts at its next beat."
        )
    return 1 if "asked" in states.values() or (options.wait and left) else 0


def choose(nodes: Sequence[Node], names: Sequence[str]) -> Sequence[Node]:
    """Return the access nodes with these names or incarnations. Raises Reject for one that is not there."""
    chosen: dict[str, Node] = {}
    for name in names:
        found = [node for node in nodes if name in (node.name, node.incarnation)]
        if not found:
            raise Reject("not_found", f"no node is called {name!r}: `holdfast nodes` lists them")
        for node in found:
            if node.role != "access":
                raise Reject(
                    "conflict", f"{name!r} is of {node.role}: only access nodes hold clients to drain"
                )
            chosen[node.incarnation] = node
    return list(chosen.values())


def _states(ports: Parts, chosen: dict[str, Node]) -> dict[str, str]:
    """Return what the membership store says of nodes: `asked` while it says nothing."""
    known = {node.incarnation: node for node in ports.directory.nodes("access")}
    return {
        one: "gone" if one not in known else "draining" if known[one].draining else "asked" for one in chosen
    }


async def _clients(ports: Parts, chosen: dict[str, Node]) -> dict[str, int]:
    """Return how many connections are left at those that have any, and have not gone. Raises Retry."""
    loads = await ports.log.loads(0)
    states = _states(ports, chosen)
    return {one: loads[one] for one in chosen if loads.get(one) and states[one] != "gone"}
