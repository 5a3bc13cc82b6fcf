"""`holdfast inspect MESSAGE-ID`: where a message is on its way, or what became of it.

The way leaves traces: its record in inbound, how far logic has committed, what came of it in outbound, how
far dispatch has applied, and the channel's log. This reads them all; none is written.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from holdfast.channel import parse, partition_of
from holdfast.commands import journey
from holdfast.commands.ports import run
from holdfast.commands.show import Tinted, as_json, say, table, when
from holdfast.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.commands.journey import Step
    from holdfast.parts import Parts

_TINTS = {"kept": "good", "dead": "bad"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "inspect",
        parents=[common],
        help="where a message is on its way",
        description="Find a message by the id that its `ack`, a `message` or the publish call gave, and "
        "show how far it has come: in inbound, handled by logic, in outbound, applied by dispatch, in the "
        "channel's log, or among the dead letters. It reads what came into Kafka's topics within --since; "
        "--user and --channel leave one partition of each. Exits with 1 where it is not found.",
    )
    parser.add_argument("message", metavar="MESSAGE-ID", help="its id")
    parser.add_argument(
        "--since", type=_seconds, default=600, metavar="TIME", help="how old it may be, as 90s, 15m, 2h (10m)"
    )
    parser.add_argument(
        "--user", default="", help="who sent it: only that sender's partition of inbound is read"
    )
    parser.add_argument(
        "--channel", default="", help="where it went: only that channel's partition of outbound is read"
    )
    parser.set_defaults(run=lambda options: run(options, show, "bus", "log"))


def _seconds(text: str) -> int:
    found = re.fullmatch("([1-9][0-9]{0,6})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time as 90s, 15m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


async def show(ports: Parts, options: argparse.Namespace) -> int:
    """Show where a message is."""
    if len(options.message) < 4:
        raise Reject("bad_request", f"{options.message!r} is too short for a message's id")
    partitions: dict[str, Sequence[int]] = {}
    if options.user:
        parse(f"user:{options.user}")
        partitions["inbound"] = [partition_of(options.user, ports.bus.partitions)]
    if options.channel:
        parse(options.channel)
        partitions["outbound"] = [partition_of(options.channel, ports.bus.partitions)]
    since = ports.clock.now_ms() - options.since * 1000
    steps = await journey.of(ports, options.message, since, partitions)
    verdict = _verdict(options, steps, since)
    if any(sum(one.step == topic for one in steps) >= journey.MOST for topic in ("inbound", "outbound")):
        verdict += f" Of each topic only the first {journey.MOST} records that speak of it were looked at."
    if options.json:
        say(as_json({"message": options.message, "since": since, "steps": steps, "verdict": verdict}))
    else:
        if steps:
            head = ("step", "at", "where", "state", "detail")
            say(table(head, [_row(one) for one in steps]) + "\n")
        say(verdict)
    return 0 if steps else 1


def _row(one: Step) -> tuple[str, ...]:
    tint = "odd" if one.state in journey.WAITING else _TINTS.get(one.state, "")
    state = Tinted(one.state, tint) if tint else one.state
    return (one.step, when(one.ts), one.where, state, one.detail)


def _verdict(options: argparse.Namespace, steps: Sequence[Step], since: int) -> str:
    """Return in a sentence or two where the message is."""
    if not steps:
        given = [f"--{name} {value}" for name in ("user", "channel") if (value := getattr(options, name))]
        return (
            f"Nothing since {when(since)} has the id {options.message}{' with ' * bool(given)}"
            f"{' '.join(given)}. A message that was acked is in Kafka: give a longer --since, or look "
            "whether its client had an ack."
        )
    waiting = next((one.state for one in steps if one.state in journey.WAITING), "")
    if waiting:
        return journey.WAITING[waiting]
    logs = [one for one in steps if one.step == "log"]
    kept = _and([one.where for one in logs if one.state == "kept"])
    letters = [one for one in steps if one.step == "dead letter"]
    about = "".join(
        f" {one.where.capitalize()} is about it ({one.detail}): `holdfast deadletter show "
        f"{one.where.rpartition(' ')[2]}`."
        for one in letters
    )
    if kept:
        return f"It is in {kept}: every subscriber has it, or gets it from there.{about}"
    if letters:
        return f"It could not be handled.{about}"
    if not logs:
        return (
            "Logic has handled it, and nothing came of it for any channel: no handler forwarded or published "
            "it, it was refused, or it was a repetition of one from before --since."
        )
    return (
        f"It went through {_and([one.where for one in logs])}, which does not keep it now: the channel has "
        "kept newer ones since (keep_count, keep_seconds), or it was a repetition."
    )


def _and(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
