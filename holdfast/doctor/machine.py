"""This machine: limits and kernel settings that many connections need, where it runs access."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.doctor.finding import Findings
from holdfast.doctor.members import SPARE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.doctor.finding import Finding

PROC: Final = Path("/proc/sys")

BACKLOG: Final = 4096
"""Connections that the listeners let wait to be accepted."""

TRACKED: Final = 4
"""Entries of the connection table for each client, where a balancer is on the same machine."""


def look(connections: int, proc: Path = PROC) -> Sequence[Finding]:
    """Look at this machine, for an access node of so many connections."""
    findings = Findings("this machine")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _at_least(findings, "open files (ulimit -Hn)", _none_is_all(hard), connections + SPARE, _FILES)
    if soft != hard:
        findings.good("open files (ulimit -Sn)", f"{soft}; services raise it to {hard} themselves")
    for name, wanted, why in (
        ("net.core.somaxconn", BACKLOG, "connections of a storm wait to be accepted; more are refused"),
        ("net.ipv4.tcp_max_syn_backlog", BACKLOG, "so many handshakes of a storm may be under way"),
        ("fs.file-max", 2 * connections, "every connection is an open file of the machine"),
        ("fs.nr_open", connections + SPARE, "no process may open more files than this"),
        (
            "net.netfilter.nf_conntrack_max",
            TRACKED * connections,
            "packets are dropped when the table is full",
        ),
    ):
        value = _read(proc, name)
        if value is not None:
            _at_least(findings, name, int(value[0]), wanted, f"sysctl -w {name}={wanted}: {why}")
    ports = _read(proc, "net.ipv4.ip_local_port_range")
    if ports is not None and int(ports[1]) - int(ports[0]) < 50_000:
        findings.advice(
            "net.ipv4.ip_local_port_range",
            " ".join(ports),
            'where a balancer runs: sysctl -w net.ipv4.ip_local_port_range="1024 65535": each client takes a '
            "port of its own towards a node",
        )
    overcommit = _read(proc, "vm.overcommit_memory")
    if overcommit is not None and overcommit[0] != "1":
        findings.advice(
            "vm.overcommit_memory",
            overcommit[0],
            "where Redis runs: sysctl -w vm.overcommit_memory=1: its snapshots fork, and fail without it "
            "where memory is short",
        )
    return findings.all


_FILES: Final = "raise the hard limit (ulimit -Hn, LimitNOFILE): each connection is one"


def _none_is_all(limit: int) -> int:
    return 2**62 if limit == resource.RLIM_INFINITY else limit


def _at_least(findings: Findings, name: str, found: int, wanted: int, change: str) -> None:
    if found >= wanted:
        findings.good(name, "unlimited" if found >= 2**62 else str(found))
    else:
        findings.advice(name, f"{found}, for access.connections it should be {wanted} or more", change)


def _read(proc: Path, name: str) -> Sequence[str] | None:
    """Return the words of a kernel setting, None where this kernel (or container) has none."""
    try:
        return proc.joinpath(*name.split(".")).read_text().split() or None
    except OSError:
        return None
