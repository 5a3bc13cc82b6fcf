"""Scenarios are read as they are written, and what is wrong with one is said by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadtest import scenario
from loadtest.generators import Members
from loadtest.target import Target

if TYPE_CHECKING:
    from pathlib import Path

TARGET = Target(["ws://127.0.0.1:1/ws"], ["http://127.0.0.1:2"], "key", "s" * 32)


@pytest.mark.parametrize("name", scenario.names())
def test_every_scenario_can_be_read(name: str) -> None:
    """Each begins by opening its connections, and all of its crowds are there."""
    wanted = scenario.load(name, 0.01)
    assert isinstance(wanted.steps[0], scenario.Open)
    assert all(crowd.size <= crowd.users for crowd in wanted.crowds)


def test_a_wrong_scenario_is_refused(tmp_path: Path) -> None:
    """inv 11: an unknown name, field or crowd is named."""
    with pytest.raises(ValueError, match="chat"):
        scenario.load("caht")
    path = tmp_path / "x.toml"
    path.write_text('title = "x"\nabout = "x"\ncrowds = []\nsteps = [{ do = "opne" }]\n')
    with pytest.raises(ValueError, match="opne"):
        scenario.load(str(path))
    path.write_text(
        'title = "x"\nabout = "x"\ncrowds = [{ name = "a", users = 2 }]\n'
        'steps = [{ do = "load", crowd = "b", rate = 1, seconds = 1 }]\n'
    )
    with pytest.raises(ValueError, match="'b'"):
        scenario.load(str(path))


def test_a_line_says_who_is_told_what_a_user_sends() -> None:
    """Pairs write to each other; the last group is as large as it is."""
    pairs = Members(scenario.Crowd("p", 4, "peer"), "r")
    assert pairs.line(2, TARGET).split("\t")[1:] == ["user:r-p-3", "1", "-"]
    groups = Members(scenario.Crowd("g", 5, "group", 2), "r")
    assert groups.line(4, TARGET).split("\t")[1:] == ["group:r-g-2", "1", "-"]
    assert list(groups.groups())[:2] == [("r-g-0", "r-g-0"), ("r-g-0", "r-g-1")]
    rooms = Members(scenario.Crowd("r", 5, "room", 5), "r")
    assert rooms.line(4, TARGET).split("\t")[1:] == ["room:r-r-0", "5", "room:r-r-0"]
