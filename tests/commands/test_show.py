"""Answers as a terminal and a program get them."""

from __future__ import annotations

import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.commands.show import Tinted, _room, as_json, plain, table, tint


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal with colours."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "40")


def test_columns_stand_under_each_other():
    """Words to the left, numbers to the right, what is not there as nothing; wide letters count twice."""
    rows = [("a", 7, "x"), ("名前", 100, None), ("abc", None, "yy")]
    assert table(("name", "count", "of"), rows).splitlines() == [
        "NAME  COUNT  OF",
        "a         7  x",
        "名前    100",
        "abc          yy",
    ]


@given(st.lists(st.tuples(st.text(), st.integers() | st.none(), st.text()), min_size=1))
def test_a_table_has_a_line_for_each_row_and_steers_no_terminal(rows):
    """inv 11: whatever a client wrote, every line is printable and no wider than the terminal."""
    lines = table(("a", "b", "c"), rows, width=150).split("\n")
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() for line in lines)
    assert all(_room(line) <= 150 for line in lines)


@given(
    st.recursive(
        st.text() | st.integers(-5, 5), lambda deeper: st.lists(deeper) | st.dictionaries(st.text(), deeper)
    )
)
def test_json_is_what_it_was_and_steers_no_terminal(value):
    """What a terminal could take for a command is escaped, and a program reads the same."""
    for indent in (2, -1):
        text = as_json(value, indent=indent)
        assert msgspec.json.decode(text) == value
        assert text.replace("\n", "").isprintable()


def test_colours_only_on_a_terminal(terminal, monkeypatch):
    """Colours are for who looks, and NO_COLOR switches them off."""
    shown = table(("a", "b"), [(Tinted("dead", "bad"), "x" * 99)])
    assert shown.splitlines()[1].startswith("\x1b[31;1mdead\x1b[0m  xxx")
    assert shown.endswith("x…")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in table(("a", "b"), [(Tinted("dead", "bad"), "x")])
    assert tint("x", "bad") == "x"


def test_what_a_client_wrote_is_escaped(terminal):
    """Escapes, also those of C1 and those that turn the direction of text."""
    assert plain("a\x1b[31m\x9b1m\u202e\nb") == "a\\x1b[31m\\x9b1m\\u202e\\nb"
    assert as_json("\x9b\U000e0001") == '"\\u009b\\udb40\\udc01"'
