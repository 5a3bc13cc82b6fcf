"""The membership store: Consul, a Redis or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.doctor.finding import Findings
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.doctor.finding import Finding
    from holdfast.membership.port import Directory
    from holdfast.settings import Settings


async def look(settings: Settings, directory: Directory) -> Sequence[Finding]:
    """Start a directory and look at its store. Raises Stop for settings that cannot be."""
    kind = settings.membership.kind
    findings = Findings({"consul": "Consul"}.get(kind, "membership"))
    try:
        await directory.start()
        if kind == "consul":
            await _look_at_consul(findings, settings, directory)
        else:
            findings.good("store", {"redis": "the same Redis", "static": settings.membership.static}[kind])
    except Retry as error:
        at = f"{settings.consul.address}: " if kind == "consul" else ""
        where = (
            "start Consul, or correct consul.address and consul.token" if kind == "consul" else "start Redis"
        )
        findings.wrong("servers", f"{at}{error}", where)
    return findings.all


async def _look_at_consul(findings: Findings, settings: Settings, directory: Directory) -> None:
    from holdfast.membership.consul import ConsulDirectory  # noqa: PLC0415 - its client, only where used

    assert isinstance(directory, ConsulDirectory)
    facts = await directory.facts()
    found = (
        f"version {facts.version or 'unknown'} at {settings.consul.address}, leader {facts.leader or 'none'}"
    )
    if not facts.leader:
        findings.wrong(
            "leader", found, "look at Consul's servers: without a leader nobody is registered or seen"
        )
    elif facts.servers == 1:
        findings.advice(
            "servers", f"{found}, one server", "have three or five: with one, its loss is an outage"
        )
    elif facts.servers == 2:
        findings.advice(
            "servers", f"{found}, two servers", "have three: with two, the loss of either is an outage"
        )
    else:
        findings.good("servers", f"{found}, {facts.servers} servers")
