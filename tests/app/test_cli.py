"""The command line as a user reads it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from holdfast import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def every(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Sequence[str]]:
    """Yield each command and subcommand."""
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, deeper in action.choices.items():
                yield from every(deeper, (*path, name))


COMMANDS = list(every(cli._parser()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_is_for(command, capsys):
    """`--help` has a sentence on the command and on each of its arguments."""
    code, text, _ = run(capsys, *command, "--help")
    assert code == 0
    parser = cli._parser()
    for name in command:
        (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = action.choices[name]
    assert parser.description
    assert all(
        action.help for action in parser._actions if not isinstance(action, argparse._SubParsersAction)
    )
    assert parser.description.split(".")[0][:20] in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "COMMAND"),
        (["acess"], 2, "invalid choice: 'acess'"),
        (["dev", "nothere"], 78, "must be module:name, as `chat.handlers:app`"),
        (["dev", "nothere:app"], 78, "start in the folder of nothere.py"),
        (["dev", "json:dumps"], 78, "holds a function, not an App, as 'dumps'"),
        (["dev", "--config", "nothere.toml"], 78, "cannot read the settings file nothere.toml"),
        (["logic", "--config", "nothere.toml"], 78, "cannot read the settings file nothere.toml"),
        (["deadletter"], 2, "ACTION"),
        (["deadletter", "show", "x"], 2, "'x' is not a name"),
        (["deadletter", "list", "--limit", "0"], 2, "'0' is not a number above 0"),
        (["deadletter", "retry"], 78, "name the letters to retry, or give --all"),
        (["deadletter", "retry", "--all", "1-2"], 78, "name the letters to retry, or give --all"),
        (["deadletter", "list", "--config", "nothere.toml"], 78, "cannot read the settings file"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments, code, says, capsys, monkeypatch):
    """inv 11: one line that says what to change, no traceback, and a status that a supervisor understands."""
    monkeypatch.setenv("HOLDFAST_CONFIG", "")
    ended, out, wrong = run(capsys, *arguments)
    assert (ended, out) == (code, "")
    assert says in wrong
    assert "Traceback" not in wrong


def test_a_wrong_setting_is_named(capsys, monkeypatch):
    """inv 11: a misspelt variable and a wrong value are told by name, with what was probably meant."""
    monkeypatch.setenv("HOLDFAST_API_PROT", "5")
    assert "did you mean HOLDFAST_API_PORT?" in run(capsys, "deadletter", "list")[2]
    monkeypatch.delenv("HOLDFAST_API_PROT")
    monkeypatch.setenv("HOLDFAST_API_PORT", "many")
    assert "api.port (HOLDFAST_API_PORT) is wrong" in run(capsys, "logic")[2]
