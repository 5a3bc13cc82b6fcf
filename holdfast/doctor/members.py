"""The processes: whether each lives and is ready, its version, its room for files, and its clock."""

from __future__ import annotations

import asyncio
import email.utils
import re
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec

from holdfast.doctor.finding import Findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.clock import Clock
    from holdfast.commands.nodes import Seen
    from holdfast.doctor.finding import Finding
    from holdfast.tls import Trust

SECONDS: Final = 3.0
"""How long a process may take to answer."""

SPARE: Final = 1000
"""File descriptors that an access node needs beside one for each connection: links, files, its listeners."""

ASKEW: Final = 0.5
"""Seconds by which a clock may differ."""

AT_ONCE: Final = 50

DAY_MS: Final = 86_400_000
SOON: Final = 21
"""Days before its end from which on a certificate is a matter for the doctor."""

LATE: Final = 3
"""Days before its end from which on it is urgent."""


class Told(msgspec.Struct):
    """What a process says of itself. `ahead` s is how far its clock is ahead at least, below 0 behind."""

    problems: list[str] = []
    ahead: float = 0.0
    version: str = ""
    metrics: dict[str, float] = {}
    certificates: dict[str, float] = {}
    error: str = ""


async def look(
    seen: Sequence[Seen], missing: Sequence[str], partitions: int, clock: Clock, trust: Trust
) -> Sequence[Finding]:
    """Look at processes that were seen, and ask those that tell where; name roles that are `missing`.

    Those that speak TLS are believed by `trust`.
    """
    findings = Findings("processes")
    for role in missing:
        findings.wrong(role, "there is none", f"start {role}, or look why it ends: its log says it")
    room = asyncio.Semaphore(AT_ONCE)
    connector = aiohttp.TCPConnector(ssl=trust.context)
    timeout = aiohttp.ClientTimeout(SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        every = await asyncio.gather(*(_ask(session, room, one.metrics, clock) for one in seen))
    for one, told in zip(seen, every, strict=True):
        _judge(findings, one, told, partitions, clock.now_ms())
    silent = {
        one.node: told.error
        for one, told in zip(seen, every, strict=True)
        if told.error and one.state in ("alive", "draining")
    }
    if silent:
        findings.advice(
            ", ".join(silent),
            f"alive, and cannot be asked: {next(iter(silent.values()))}",
            "run this where process.metrics_port of all can be reached, or look at these processes",
        )
    versions = sorted({told.version for told in every if told.version})
    if len(versions) > 1:
        findings.advice("versions", ", ".join(versions), "finish the roll-out, or take it back")
    return findings.all


async def _ask(session: aiohttp.ClientSession, room: asyncio.Semaphore, address: str, clock: Clock) -> Told:
    if not address:
        return Told(error="it tells no address")
    url = address if address.startswith("https://") else f"http://{address}"
    try:
        async with room:
            began = clock.now_ms()
            async with session.get(f"{url}/readyz") as answer:
                told = Told(problems=(await answer.json())["problems"])
                told.ahead = _ahead(answer.headers.get("Date", ""), began / 1000, clock.now_ms() / 1000)
            async with session.get(f"{url}/metrics") as answer:
                text = await answer.text()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
        return Told(error=f"{address} does not answer: {error or type(error).__name__}")
    found = re.search(r'^holdfast_build_info\{version="([^"]*)"\} 1', text, re.MULTILINE)
    told.version = found[1] if found else ""
    for name in ("files_limit", "access_connections_limit", "bus_partitions"):
        value = re.search(rf"^holdfast_{name} (\S+)$", text, re.MULTILINE)
        if value:
            told.metrics[name] = float(value[1])
    ends = re.findall(r'^holdfast_tls_expires_seconds\{part="([^"]*)"\} (\S+)$', text, re.MULTILINE)
    told.certificates = {part: float(end) for part, end in ends}
    return told


def _ahead(date: str, began: float, ended: float) -> float:
    """Return by how much, at least, the clock that wrote a `Date` (in whole seconds) differs, in s."""
    try:
        second = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, second - ended) or min(0.0, second + 1.0 - began)


def _judge(findings: Findings, one: Seen, told: Told, partitions: int, now_ms: int) -> None:
    count = len(findings.all)
    name, told_of = one.node, told.metrics
    if one.state in ("silent", "unregistered"):
        findings.wrong(
            name, f"{one.role}, {one.state}", "`holdfast nodes` says what that means; look at its log"
        )
    if told.error:
        if one.state == "drained":
            findings.good(name, f"{one.role}, {one.state}")
        return
    if told.problems and one.state == "alive":
        findings.wrong(name, f"not ready: {'; '.join(told.problems)}", "look at what it waits for")
    if abs(told.ahead) > ASKEW:
        findings.wrong(
            name,
            f"its clock is at least {told.ahead:+.1f} s from this machine's",
            "set both clocks by NTP: tokens and delivery times are judged by them",
        )
    files, wanted = told_of.get("files_limit"), told_of.get("access_connections_limit", 0)
    if files is not None and wanted and 0 <= files < wanted + SPARE:  # -1 is unlimited
        findings.wrong(
            name,
            f"it may open {files:.0f} files, access.connections is {wanted:.0f}",
            f"raise its limit (ulimit -n, LimitNOFILE) to {wanted + SPARE:.0f}, or lower access.connections",
        )
    if told_of.get("bus_partitions", partitions) != partitions:
        findings.wrong(
            name,
            f"its kafka.partitions is {told_of['bus_partitions']:.0f}, here it is {partitions}",
            "give all services, and this command, the same settings",
        )
    for part, end in told.certificates.items():
        days = (end * 1000 - now_ms) / DAY_MS
        if days < SOON:
            found = f"its certificate of {part} " + (f"ends in {days:.0f} days" if days > 0 else "has ended")
            note = findings.wrong if days < LATE else findings.advice
            note(name, found, "put a new one into its file: it is taken within seconds, without a restart")
    if len(findings.all) == count:
        more = f", room for {files:.0f} files" if files is not None and files >= 0 else ""
        findings.good(name, f"{one.role}, {one.state}, version {told.version}{more}")
