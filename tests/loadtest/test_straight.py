"""The line that costs should follow."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest import straight
from loadtest.scaling import PICTURES

COSTS = st.floats(0.01, 1e6)
POINTS = st.lists(st.integers(1, 10**6), min_size=2, max_size=8, unique=True)


@given(COSTS, COSTS, POINTS)
def test_a_line_is_found(fixed, each, points):
    """Costs that are on a line fit it: what is predicted at each point is what was there."""
    found = {x: fixed / x + each for x in points}
    line = straight.fit(found, grows=True)
    assert line.off < 1e-3
    assert all(line.at(x) == pytest.approx(y, rel=1e-3) for x, y in found.items())


@example({269: 0.01, 315: 78816.0}, True)
@given(st.dictionaries(st.integers(1, 10**6), COSTS, min_size=2), st.booleans())
def test_no_line_promises_less_than_nothing(found, grows):
    """Whatever was measured, a line costs nothing below zero, and says how far it is off."""
    line = straight.fit(found, grows=grows)
    assert line.fixed >= 0
    assert all(line.at(x) > 0 for x in found)
    assert line.off == pytest.approx(max(abs(line.at(x) / y - 1) for x, y in found.items()))


def test_what_gets_dearer_with_size_is_off_the_line():
    """A cost that doubles with each step is not called straight."""
    assert straight.fit({1: 1.0, 10: 2.0, 100: 4.0}, grows=True).off > 0.4


def test_one_point_is_no_line():
    """A line through one point says nothing."""
    with pytest.raises(ValueError, match="two points"):
        straight.fit({1: 1.0}, grows=True)


def test_pictures_say_nothing_of_where_they_were_drawn(tmp_path):
    """The same record draws the same bytes: no date, no program, no path in them; and so in docs/pictures."""
    pytest.importorskip("matplotlib")
    sweep = straight.Sweep("here", {10: {"delivery": 9.0, "load": 3.0}, 100: {"delivery": 7.0}})
    record = straight.Record({"room": sweep})
    drawn = list(straight.draw(record, tmp_path))
    assert [path.name for path in drawn] == ["room.png", "room.svg"]
    first = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in straight.draw(record, tmp_path)] == first
    for path in (tmp_path / "room.svg", *PICTURES.glob("*.svg")):
        text = path.read_text(encoding="utf-8")
        ET.fromstring(text)
        assert not re.search(r"<metadata|<dc:|Created|file://|/home|/tmp|/root", text), path.name
        assert len(text) < 100_000, path.name


def test_a_sweep_that_is_not_whole_is_shown(tmp_path):
    """One point, or a cost below the noise, leaves a gap in table and plot, not an error."""
    record = straight.Record({"room": straight.Sweep("here", {10: {"delivery": -0.1}})})
    assert "| access for a delivery, µs |  |  |" in straight.tables(record)
    pytest.importorskip("matplotlib")
    assert len(list(straight.draw(record, tmp_path))) == 2
