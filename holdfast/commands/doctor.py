"""`holdfast doctor`: what Holdfast stands on, looked at; what to change, and a status that says whether."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.commands import nodes
from holdfast.commands.findings import report
from holdfast.commands.ports import run
from holdfast.commands.show import as_json, say
from holdfast.doctor import kafka, machine, members, membership, redis, shards
from holdfast.doctor.finding import Findings
from holdfast.errors import Retry
from holdfast.membership.watchers import ROLES
from holdfast.tls import health_client

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from holdfast.doctor.finding import Finding
    from holdfast.parts import Parts


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="check what Holdfast stands on, and say what to change",
        description="Look at Kafka (brokers, topics and their settings, what waits), Redis (version, "
        "memory, eviction, persistence, replicas, speed), the membership store, the shards, every process "
        "(ready, version, room for files), clocks, and this machine's limits and kernel settings. Nothing is "
        "written. Exits with 0 where nothing is wrong, 1 where something is, 75 where something could not be "
        "looked at; advice counts only with --strict.",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="show only what is not in order")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for advice, too")
    parser.set_defaults(run=lambda options: run(options, show))


async def show(ports: Parts, options: argparse.Namespace) -> int:
    """Look at everything, all areas at the same time."""
    findings = await look(ports)
    say(as_json({"findings": findings}) if options.json else report(findings, quiet=options.quiet))
    levels = {one.level for one in findings}
    if "wrong" in levels or (options.strict and "advice" in levels):
        return 1
    return 75 if "unknown" in levels else 0


async def look(ports: Parts) -> Sequence[Finding]:
    """Return all findings, area by area. Raises Stop for settings that cannot be."""
    from holdfast.log.redis_scripts import Caller  # noqa: PLC0415 - the adapters, only where used
    from holdfast.network import TcpNetwork  # noqa: PLC0415
    from holdfast.observe.metrics import Metrics  # noqa: PLC0415

    settings, clock = ports.settings, ports.clock
    caller = Caller(settings.redis, Metrics(), clock, TcpNetwork())
    try:
        areas = await asyncio.gather(
            kafka.look(settings.kafka, ports.bus, clock),
            redis.look(settings.redis, caller, ports.log.partitions, clock),
            membership.look(settings, ports.directory),
        )
        told = not any(one.level == "wrong" for one in areas[-1])
        above = await asyncio.gather(
            shards.look(ports.log, settings.dispatch.idle, clock), _processes(ports, told=told)
        )
    finally:
        await caller.close()
        await ports.log.close()
        await ports.directory.close()
    here = machine.look(settings.access.connections)
    return [one for area in (*areas, *above, here) for one in area]


async def _processes(ports: Parts, *, told: bool) -> Sequence[Finding]:
    """Look at all processes; without the membership store (`told`) nobody knows which they are."""
    findings = Findings("processes")
    if not told:
        findings.unknown("all", "the membership store does not tell which there are")
        return findings.all
    try:
        seen = await nodes.look(ports)
    except Retry as error:
        findings.unknown("all", str(error))
        return findings.all
    missing = [role for role in ROLES if role not in {one.role for one in seen}]
    trust = health_client(ports.settings.process)
    return await members.look(seen, missing, ports.log.partitions, ports.clock, trust)
