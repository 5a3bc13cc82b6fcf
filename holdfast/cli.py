"""The `holdfast` command."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from holdfast import __version__
from holdfast.commands import (
    capacity,
    carry,
    deadletter,
    doctor,
    drain,
    inspect_message,
    nodes,
    presence,
    tail,
)
from holdfast.commands import config as config_command
from holdfast.errors import HoldfastError, Retry, Stop
from holdfast.wiring import load_services

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERVICES = {
    "access": "hold connections: the WebSocket and TCP listeners",
    "logic": "run handlers and serve the HTTP API",
    "dispatch": "append to the logs and push to access nodes",
}


EXIT = {Stop: 78, Retry: 75}
"""Exit statuses, as sysexits.h has them: 78, the settings are wrong; 75, the same may work later; else 1."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits the process."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except HoldfastError as error:
        print(f"holdfast: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(next((status for kind, status in EXIT.items() if isinstance(error, kind)), 1))
    except KeyboardInterrupt:
        sys.exit(130)


class _Help(argparse.HelpFormatter):
    """Leaves room for the indent of commands, which argparse forgets."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="Long connections at scale, and messages that are never lost, doubled or reordered.",
        formatter_class=_Help,
        epilog="Start with `holdfast dev`. Every setting is in docs/settings.md and in `holdfast settings`.",
    )
    parser.add_argument("--version", action="version", version=f"holdfast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("--config", metavar="FILE", help="a TOML file with settings (or HOLDFAST_CONFIG)")
    dev = commands.add_parser(
        "dev",
        parents=[config],
        help="the whole system in this process, with a demo page",
        description="Run all services in this process, on memory, with a demo page on port 8080: "
        "what it holds is gone when it ends. Ctrl-C ends it.",
    )
    dev.add_argument(
        "app",
        nargs="?",
        help="your handlers, as MODULE:NAME (`chat:app` for the App named app in chat.py here; default: the "
        "setting logic.app, else the demo's)",
    )
    dev.set_defaults(run=_dev)

    for role, about in _SERVICES.items():
        service = commands.add_parser(
            role, parents=[config], help=about, description=f"Run a service: {about}."
        )
        service.set_defaults(run=_service, role=role)

    operator = argparse.ArgumentParser(add_help=False, parents=[config])
    operator.add_argument("--json", action="store_true", help="answer in JSON")
    nodes.add(commands, operator)
    drain.add(commands, operator)
    presence.add(commands, operator)
    tail.add(commands, operator, deadletter.positive)
    inspect_message.add(commands, operator)
    deadletter.add(commands, operator)
    config_command.add(commands, operator)
    doctor.add(commands, operator)
    carry.add(commands, operator)
    capacity.add(commands)

    settings = commands.add_parser(
        "settings",
        help="list every setting with its default",
        description="List every setting: its environment variable with the default, and what it means.",
    )
    settings.set_defaults(run=_settings)
    return parser


def _use_config(options: argparse.Namespace) -> None:
    """Let this process, and workers that it starts, read the settings file."""
    if options.config:
        os.environ["HOLDFAST_CONFIG"] = options.config


def _dev(options: argparse.Namespace) -> int:
    _use_config(options)
    sys.path.insert(0, "")  # so that `module:name` finds a module in the current folder
    return int(load_services("embedded.dev").run_dev(options.app) or 0)


def _service(options: argparse.Namespace) -> int:
    _use_config(options)
    sys.path.insert(0, "")
    from holdfast.process import main as run  # noqa: PLC0415

    run(options.role, load_services(f"{options.role}.service").build)
    return 0


def _settings(_: argparse.Namespace) -> int:
    from holdfast.settings import all_settings  # noqa: PLC0415

    for setting in all_settings():
        default = ",".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        print(f"{setting.variable}={default}\n    {setting.description} ({setting.type})")  # noqa: T201
    return 0


if __name__ == "__main__":
    main()
