"""`holdfast config check`: whether services would start with these settings, and which they are."""

from __future__ import annotations

import asyncio
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from holdfast.commands.findings import report
from holdfast.commands.show import as_json, say, table
from holdfast.doctor.finding import Findings
from holdfast.errors import Stop
from holdfast.membership.watchers import ROLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from holdfast.doctor.finding import Finding
    from holdfast.settings import Settings

EXIT_WRONG: Final = 78
"""As services end that refuse their settings: EX_CONFIG of sysexits.h."""

HIDDEN: Final = "(secret)"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    about = "check settings before services are started with them"
    parser = commands.add_parser("config", help=about, description=f"Settings: {about}.")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        parents=[common],
        help="whether services would start with them",
        description="Read the settings as a service does (--config or HOLDFAST_CONFIG, then HOLDFAST_… "
        "variables), show what is set and from where, and build every service without starting it: keys and "
        "other files are read, handlers imported, addresses parsed; no server is asked. Secrets are not "
        "shown. Exits with 78 where a service would refuse.",
    )
    check.set_defaults(run=show)


def show(options: argparse.Namespace) -> int:
    """Check the settings."""
    from holdfast.settings_load import load  # noqa: PLC0415 - the services, only where used

    settings = load(options.config)
    given = _given(settings, options.config)
    findings = look(settings)
    wrong = any(one.level == "wrong" for one in findings)
    if options.json:
        shown = {name: {"value": value, "from": source} for name, value, source in given}
        say(as_json({"settings": shown, "findings": findings}))
        return EXIT_WRONG if wrong else 0
    if given:
        say(
            table(
                ("setting", "from", "value"), [(name, source, _text(value)) for name, value, source in given]
            )
        )
        say("")
    else:
        say("Nothing is set: every setting has its default (`holdfast settings` lists them).\n")
    say(report(findings))
    return EXIT_WRONG if wrong else 0


def _text(value: Any) -> Any:
    """Return a value as the environment would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _given(settings: Settings, path: str | None) -> Sequence[tuple[str, Any, str]]:
    """Return (name, value, where from) of what is set, in the order of the documentation."""
    from holdfast.settings import PREFIX, SECRETS, all_settings  # noqa: PLC0415

    path = path or os.environ.get(f"{PREFIX}CONFIG")
    tree = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    given: list[tuple[str, Any, str]] = []
    for setting in all_settings():
        name = f"{setting.section}.{setting.name}"
        value = getattr(getattr(settings, setting.section), setting.name)
        value = list(value) if isinstance(value, tuple) else value
        shown = HIDDEN if name in SECRETS and value else value
        if setting.variable in os.environ:
            given.append((name, shown, setting.variable))
        elif setting.name in tree.get(setting.section, {}):
            given.append((name, shown, str(path)))
    for kind, policy in tree.get("channels", {}).items():
        given += [(f"channels.{kind}.{name}", value, str(path)) for name, value in policy.items()]
    return given


def look(settings: Settings) -> Sequence[Finding]:
    """Build what each service is built from, and judge what is allowed but hardly meant."""
    findings = Findings("settings")
    for role in ROLES:
        try:
            _build(settings, role)
        except Stop as stop:
            findings.wrong(role, "it would not start", str(stop))
        else:
            findings.good(role, "it would start")
    if settings.membership.kind == "static":
        _read_membership(findings, settings)
    if not settings.auth.secrets and not settings.auth.key_files:
        findings.wrong("auth", "no keys", "give auth.secrets or auth.key_files: no client could connect")
    if not settings.api.keys:
        findings.advice("api.keys", "none", "give one: without, every call of the HTTP API is refused")
    if not settings.nodelink.secret:
        findings.advice(
            "nodelink.secret",
            "none",
            "give one: without, whoever reaches the nodelink port can push to clients",
        )
    if settings.process.host in ("", "0.0.0.0", "::") and not settings.process.advertise:  # noqa: S104
        findings.advice(
            "process.advertise",
            f"none, and process.host is {settings.process.host}",
            "give the address under which other machines reach this one: dispatch pushes to it",
        )
    if settings.kafka.replication < 3:
        findings.advice(
            "kafka.replication",
            str(settings.kafka.replication),
            "3, where there are three brokers: what is acked outlives one of them",
        )
    access, seconds = settings.access, settings.process.drain_seconds
    if access.connections > access.drain_rate * seconds * 0.8:
        findings.advice(
            "process.drain_seconds",
            f"{seconds:g}, for {access.connections} connections at access.drain_rate {access.drain_rate}",
            "raise either: a full node sends its clients away faster than that, to be done in time",
        )
    return findings.all


def _read_membership(findings: Findings, settings: Settings) -> None:
    from holdfast.observe.metrics import Metrics  # noqa: PLC0415
    from holdfast.process import make_directory  # noqa: PLC0415

    async def read() -> None:
        directory = make_directory(settings, Metrics())
        await directory.start()
        await directory.close()

    try:
        asyncio.run(read())
    except Stop as stop:
        findings.wrong("membership", "services would not start", str(stop))


def _build(settings: Settings, role: str) -> None:
    """Build a service and drop it. Raises Stop."""
    from holdfast.observe.metrics import Metrics  # noqa: PLC0415
    from holdfast.process import make_parts  # noqa: PLC0415
    from holdfast.wiring import load_services  # noqa: PLC0415

    sys.path.insert(0, "")  # as a service does, for `module:name` in the current folder
    parts = make_parts(settings, Metrics())
    load_services(f"{role}.service").build(parts, "check", 0)
