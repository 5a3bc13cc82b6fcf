"""`holdfast capacity` as a person and a program get it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import cli
from holdfast.commands.capacity import number


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["capacity", *arguments])
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err


def test_a_table_for_people(capsys):
    """Parts, network and assumptions; with --costs what each thing costs and where that is from."""
    status, text, _ = run(capsys, "--connections", "10M", "--rate", "100k", "--costs")
    assert status == 0
    for word in ("access processes", "Kafka partitions", "bit/s", "Assumed:", "make bench-plane"):
        assert word in text
    assert text.startswith("10,000,000 connections")


def test_json_for_programs(capsys):
    """The same in JSON: counts, cores, bytes, bits, assumptions, and the load as it was understood."""
    status, text, _ = run(capsys, "--connections", "1.5M", "--json")
    found = msgspec.json.decode(text)
    assert status == 0
    assert found["load"]["connections"] == 1_500_000
    assert found["counts"]["access"] > 100
    assert set(found["memory_bytes"]) == {"access", "logic", "dispatch", "redis"}
    assert {one["source"] for one in found["costs"]} > {"assumed"}
    assert found["assumptions"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "--connections"),
        (["--connections", "many"], "--connections: 'many' is not a number"),
        (["--connections", "1.5"], "--connections: expected a whole number"),
        (["--connections", "nan"], "'nan' is not a number"),
        (["--connections", "1M", "--node-connections", "0"], "--node-connections: expected"),
        (["--connections", "1M", "--headroom", "1"], "--headroom: expected a number < 1.0"),
        (["--connections", "1000G"], "several clusters"),
    ],
)
def test_wrong_inputs_are_named(capsys, arguments, what):
    """inv 11: what is wrong ends with status 2, and says which."""
    status, text, error = run(capsys, *arguments)
    assert (status, text) == (2, "")
    assert what in error.splitlines()[-1]


@given(st.integers(0, 10**9), st.sampled_from(["", "k", "M", "G"]))
def test_numbers_may_have_a_suffix(value, suffix):
    """k, M and G are thousands, millions and thousands of millions; whole numbers stay whole."""
    times = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[suffix]
    found = number(f"{value}{suffix}")
    assert found == value * times
    assert isinstance(found, int)
