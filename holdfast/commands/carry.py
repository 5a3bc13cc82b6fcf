"""`holdfast carry`: memberships and revocations, from topics of another prefix into those of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.carry import carry
from holdfast.commands.show import as_json, say
from holdfast.errors import Stop

if TYPE_CHECKING:
    import argparse

    from holdfast.settings import Settings


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    about = "take memberships and revocations along to topics with another number of partitions"
    parser = commands.add_parser(
        "carry",
        parents=[common],
        help=about,
        description=f"Moving to another number of partitions: {about}. The settings name the new ones. "
        "It may run again, for what has changed since; docs/upgrading.md says when.",
    )
    parser.add_argument(
        "--from-prefix", required=True, metavar="PREFIX", help="kafka.prefix of the old topics"
    )
    parser.add_argument(
        "--from-partitions", required=True, type=int, metavar="N", help="kafka.partitions that they had"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from holdfast.process import run_loop  # noqa: PLC0415 - uvloop and the adapters, only where used
    from holdfast.settings_load import load  # noqa: PLC0415

    return run_loop(carry_over(load(options.config), options))


async def carry_over(settings: Settings, options: argparse.Namespace) -> int:
    """Do it, and say what was done."""
    from holdfast.bus.kafka import KafkaBus  # noqa: PLC0415
    from holdfast.clock import SystemClock  # noqa: PLC0415
    from holdfast.observe.metrics import Metrics  # noqa: PLC0415

    if options.from_prefix == settings.kafka.prefix:
        raise Stop(
            "kafka.prefix (HOLDFAST_KAFKA_PREFIX) is still the old one: the settings name the new topics"
        )
    if options.from_partitions < 1:
        raise Stop("--from-partitions is the number of partitions that the old topics had")
    before = msgspec.structs.replace(
        settings.kafka, prefix=options.from_prefix, partitions=options.from_partitions, create_topics=False
    )
    clock = SystemClock()
    old, new = KafkaBus(before, Metrics(), clock), KafkaBus(settings.kafka, Metrics(), clock)
    old.checked = False  # partitions that were added to them are a reason to be here
    try:
        await old.start()
        await new.start()
        carried = await carry(old, new, clock)
    finally:
        await old.close()
        await new.close()
    if options.json:
        say(as_json(carried))
    else:
        say(
            f"{carried.members} memberships and {carried.revocations} revocations are written; "
            f"{carried.left} facts of the old logs stay behind, {carried.unreadable} could not be read"
        )
    return 0
