"""`holdfast deadletter list|show|retry`: what could not be handled, and handling it again."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.commands.ports import run
from holdfast.commands.show import Tinted, as_json, say, table, when
from holdfast.deadletters import DeadLetters, Found, original
from holdfast.errors import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.parts import Parts

DEADLINE = 10.0
"""Seconds until a write without an answer counts as unknown."""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    about = "look at what could not be handled, and handle it again"
    parser = commands.add_parser(
        "deadletter",
        help=about,
        description=f"Dead letters: {about}. Each is named PARTITION-OFFSET, as `list` shows it. "
        "It reads Kafka as the settings name it; docs/deadletters.md says more.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    listing = actions.add_parser(
        "list", parents=[common], help="the newest ones", description="List the newest dead letters."
    )
    _choosing(listing)
    listing.set_defaults(run=_run, work=show_list)

    one = actions.add_parser(
        "show",
        parents=[common],
        help="one with its original",
        description="Show a dead letter: why it is one, and the original with its content.",
    )
    one.add_argument("letter", type=_name, metavar="LETTER", help="its name, as 3-17")
    one.set_defaults(run=_run, work=show_one)

    again = actions.add_parser(
        "retry",
        parents=[common],
        help="handle again, as a new message",
        description="Handle dead letters again, each as a new message under a key of its own: retried twice, "
        "it is one message. Exits with 1 where one was not retried.",
    )
    again.add_argument("letters", type=_name, metavar="LETTER", nargs="*", help="names, as 3-17")
    again.add_argument("--all", action="store_true", help="all that `list` shows, oldest first")
    again.add_argument(
        "--force", action="store_true", help="those too that were retried before, or may have been"
    )
    _choosing(again)
    again.set_defaults(run=_run, work=retry)


def _choosing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=positive, default=100, metavar="N", help="how many, the newest (100)")
    parser.add_argument("--reason", default="", help="only those with this reason, as failed or undecodable")


def positive(text: str) -> int:
    """Return a number above 0, as an argument."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch("[0-9]+-[0-9]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name as `holdfast deadletter list` shows, as 3-17"
        )
    return text


def _run(options: argparse.Namespace) -> int:
    if options.work is retry:
        _check_chosen(options)
    return run(options, options.work, "bus")


async def show_list(ports: Parts, options: argparse.Namespace) -> int:
    """List the newest letters."""
    found = await DeadLetters(ports.bus, ports.clock).newest(options.limit, reason=options.reason)
    letters = [one.letter for one in found]
    if options.json:
        say(as_json(letters))
    elif not letters:
        say("no dead letters" + (f" with reason {options.reason}" if options.reason else ""))
    else:
        head = ("letter", "since", "what", "of", "reason", "state", "detail")
        say(
            table(
                head,
                [(x.id, when(x.at), x.what, x.key, x.reason, _tinted(x.state), x.detail) for x in letters],
            )
        )
    return 0


async def show_one(ports: Parts, options: argparse.Namespace) -> int:
    """Show one letter with its original."""
    found = await DeadLetters(ports.bus, ports.clock).find(options.letter)
    letter, content = found.letter, original(found)
    if options.json:
        raw = found.record.value
        shown = msgspec.to_builtins(letter)
        say(as_json(shown | {"original": content} | ({} if content or raw is None else {"raw": raw.hex()})))
        return 0
    rows = [
        ("letter", letter.id),
        ("since", when(letter.at)),
        ("reason", letter.reason),
        ("detail", letter.detail),
        ("state", _state(letter.state) + (f", {when(letter.retried)}" if letter.retried else "")),
        ("original", f"{letter.topic} {letter.partition}, offset {letter.offset}, key {letter.key}"),
    ]
    say(table(("", ""), rows).lstrip("\n"))
    if content is not None:
        say("\n" + as_json(content))
    elif found.record.value is None:
        say("\nThe original was too large to be kept.")
    else:
        say(f"\nThe original cannot be read; its {len(found.record.value)} bytes begin with:")
        say(found.record.value[:256].hex(" "))
    return 0


async def retry(ports: Parts, options: argparse.Namespace) -> int:
    """Handle letters again."""
    letters = DeadLetters(ports.bus, ports.clock)
    _check_chosen(options)
    chosen: Sequence[Found]
    if options.all:
        chosen = await letters.newest(options.limit, reason=options.reason)
        if not options.force:
            chosen = [one for one in chosen if one.letter.state != "retried"]
    else:
        chosen = [await letters.find(name) for name in dict.fromkeys(options.letters)]
    producer = await ports.bus.producer(deadline=DEADLINE)
    try:
        outcome = await letters.retry(chosen, producer, force=options.force)
    finally:
        await producer.close()
    if options.json:
        say(as_json(outcome))
    elif not outcome:
        say("nothing to retry")
    else:
        say(table(("letter", "outcome"), list(outcome.items())))
    return 0 if all(result == "retried" for result in outcome.values()) else 1


def _check_chosen(options: argparse.Namespace) -> None:
    """Raise Stop unless either names or --all are given."""
    if bool(options.letters) == options.all:
        raise Stop("deadletter retry: name the letters to retry, or give --all")


def _tinted(state: str) -> Tinted:
    return Tinted(_state(state), {"dead": "bad", "retried": "good"}.get(state, "odd"))


def _state(state: str) -> str:
    return "unknown" if state == "begun" else state
