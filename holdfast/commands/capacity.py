"""`holdfast capacity`: how large a cluster must be for a load. Asks no server."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, Final

from holdfast.capacity import costs
from holdfast.capacity.plan import CALM, GIB, Load, Plan, checked, plan
from holdfast.commands.show import as_json, say, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIXES: Final = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}

_INPUTS: Final = {
    "rate": "messages a second that clients send, all together",
    "fan_out": "connections that get each message, on average",
    "size": "bytes of payload of a message",
    "session": "seconds that a connection lasts, on average",
    "channels": "channels that Redis keeps (default: an inbox for each connection)",
    "history": "messages that a channel keeps, on average",
    "handler": "µs of CPU that a handler takes for a message",
    "headroom": "share of each core, of Redis's memory and of a node's connections that stays free",
    "spare": "processes of each service that may be gone at the same time",
    "node_connections": "connections of an access process, at most: access.connections",
    "heartbeat": "seconds between the pings of a silent connection: access.heartbeat",
    "redis_memory": "GiB of one Redis master",
    "broker_cores": "cores of one Kafka broker",
    "replication": "replicas of Kafka's topics: kafka.replication",
    "retention": "days that Kafka keeps messages: kafka.retention_seconds",
}


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "capacity",
        help="how large a cluster must be for a load",
        description="Reckon processes, memory, Redis masters, Kafka partitions and brokers, and network "
        "for a load, from what one of each thing costs. No server is asked. Numbers may end in k, M or G. "
        "docs/capacity.md says how far to trust it.",
    )
    parser.add_argument(
        "--connections", type=number, required=True, metavar="N", help="connections at the same time"
    )
    defaults = Load(connections=1)
    for name, about in _INPUTS.items():
        default = getattr(defaults, name)
        shown = "" if default is None else f" (default: {default:g})"
        parser.add_argument(
            _option(name),
            type=number,
            default=default,
            metavar="N",
            help=f"{about}{shown}".replace("%", "%%"),
        )
    parser.add_argument("--costs", action="store_true", help="show what one of each thing costs, too")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=lambda options: show(parser, options))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def number(text: str) -> float:
    """Return the number that a text means: an int where it is whole, so that 0.5 connections are refused."""
    digits, times = (text[:-1], _SUFFIXES[text[-1]]) if text[-1:] in _SUFFIXES else (text, 1)
    try:
        value = float(digits) * times
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, with or without k, M or G")
    return int(value) if value.is_integer() else value


def show(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Show the plan for what was asked; a wrong input ends with the status 2, as argparse has it."""
    try:
        load = checked(**{name: getattr(options, name) for name in ("connections", *_INPUTS)})
        made = plan(load)
    except ValueError as error:
        name, _, what = str(error).partition(": ")
        known = name in ("connections", *_INPUTS)
        parser.error(f"argument {_option(name)}: {what}" if known else str(error))
    if options.json:
        say(as_json(_as_dict(load, made)))
    else:
        say("\n".join(_lines(load, made)))
        if options.costs:
            say("\n" + costs_table())
    return 0


def _lines(load: Load, made: Plan) -> Iterator[str]:
    counts = made.counts
    each = load.connections / counts.access
    rows: list[tuple[Any, ...]] = [
        ("access processes", counts.access, *_use(made, "access"), f"{each:,.0f} connections each"),
        ("logic processes", counts.logic, *_use(made, "logic"), f"handlers of {load.handler:g} µs"),
        ("dispatch processes", counts.dispatch, *_use(made, "dispatch"), ""),
        (
            "Redis masters",
            counts.redis,
            *_use(made, "redis"),
            f"{load.redis_memory:g} GiB each, and replicas",
        ),
        ("Kafka brokers", counts.brokers, *_use(made, "kafka"), f"{load.broker_cores:g} cores each"),
        ("Kafka partitions", counts.partitions, "", "", "of each topic; kafka.partitions"),
    ]
    yield (
        f"{load.connections:,} connections, {load.connects:,.0f} new ones a second; "
        f"{load.rate:,.0f} messages a second of {load.size:g} bytes, to {load.fan_out:,.10g} each"
    )
    yield ""
    yield table(("", "count", "cores busy", "memory", ""), rows)
    yield ""
    links = [(name, _bits(to), _bits(out)) for name, (to, out) in made.network.items()]
    yield table(("network", "to it", "from it"), links)
    yield ""
    yield f"Kafka's disks hold {_bytes(made.disk)}, replicas included."
    yield f"All clients, cut off at once, are back in {max(1, math.ceil(made.back)):,} s."
    yield ""
    yield "Assumed:"
    yield from (f"- {text}" for text in assumptions(load))


def assumptions(load: Load) -> list[str]:
    """Return what the plan takes for granted."""
    guessed = ", ".join(f"{one:g} {one.unit}" for one in costs.TABLE if one.source == costs.ASSUMED)
    text = f"""
CPU costs are those of a busy machine (docs/capacity.md); --costs lists them. Measure on yours.
Nobody has measured ({costs.ASSUMED}): {guessed}.
The load is that of the busiest second, spread evenly.
{load.headroom:.0%} of a core, of Redis's memory, of a node's {load.node_connections:,} connections stay free.
Of each service {load.spare} may be gone.
A process of ours and a Redis master have one core each.
Of the messages that come to a process, {costs.TOGETHER:,.0f} a second come alone, and cost so much more.
Partitions are 12 times a power of two, {CALM} or more for each process of logic, dispatch and Redis.
Who gets a message is on as many nodes as possible, and reads it in time.
A connection lasts {load.session:g} s, and the end of a session costs as much as its beginning.
Redis keeps {load.kept:,.0f} channels of {load.history:g} messages; fragmentation and replicas come on top.
Each replica costs Kafka as much CPU as the first.
TLS, compression and balancers are not counted (docs/kubernetes.md).
"""
    return text.strip().splitlines()


def costs_table() -> str:
    """Return what one of each thing costs, and where that is from."""
    rows = [(f"{one:g} {one.unit}", one.source, one.what) for one in costs.TABLE]
    return table(("cost", "from", "what"), rows)


def _use(made: Plan, role: str) -> tuple[str, str]:
    return f"{made.cores[role]:>10,.1f}", _bytes(made.memory[role]) if role in made.memory else ""


def _bytes(value: float) -> str:
    return f"{value / GIB / 1024:,.1f} TiB" if value >= 1024 * GIB else f"{value / GIB:,.1f} GiB"


def _bits(value: float) -> str:
    return f"{value / 1e9:,.1f} Gbit/s" if value >= 1e9 else f"{value / 1e6:,.1f} Mbit/s"


def _as_dict(load: Load, made: Plan) -> dict[str, Any]:
    return {
        "load": load,
        "counts": made.counts._asdict(),
        "cores": made.cores,
        "memory_bytes": made.memory,
        "disk_bytes": made.disk,
        "network_bits": {name: {"to": to, "from": out} for name, (to, out) in made.network.items()},
        "back_seconds": made.back,
        "assumptions": assumptions(load),
        "costs": [
            {"what": c.what, "value": float(c), "unit": c.unit, "source": c.source} for c in costs.TABLE
        ],
    }
