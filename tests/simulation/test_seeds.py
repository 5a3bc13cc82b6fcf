"""The search for a violation of the invariants, as long as `make test` has time for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation, mutated

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))


def simulate(tmp_path: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Run the command; return its code, what it printed, and what it found."""
    # In a process of its own: the order of sets follows from PYTHONHASHSEED, which is fixed at the start.
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "0", "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    file = tmp_path / "holdfast" / "simulation.json"
    found = json.loads(file.read_bytes()) if file.exists() else {}
    return done.returncode, done.stdout + done.stderr, found


def test_no_seed_violates_an_invariant(tmp_path: Path) -> None:
    """inv 1-6, 8, 9, 12: crashes, pauses, cuts, lost answers and outages lose, double and reorder nothing."""
    code, output, found = simulate(tmp_path, "--seeds", str(SEEDS))
    assert code == 0, output
    assert found["next"] == SEEDS
    assert found["counts"]["presented"] > 10 * SEEDS, "the runs do next to nothing"


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was run with the same sources is not run again."""
    simulate(tmp_path, "--seeds", "4")
    code, output, found = simulate(tmp_path, "--seeds", "6")
    assert code == 0, output
    assert "going on at seed 4" in output
    assert found["next"] == 6


def test_a_seed_is_the_same_run_every_time(tmp_path: Path) -> None:
    """Who ran when, and what came of it, has the same hash in another process, and after other runs."""
    script = (
        "from tests.simulation.search import run\n"
        "from tests.simulation.plan import DEFAULT\n"
        "import sys\n"
        "order = [int(one) for one in sys.argv[1:]]\n"
        "found = {seed: run((seed, DEFAULT)).trace for seed in order}\n"
        "print(sorted(found.items()))\n"
    )
    outputs = []
    seeds = [str(seed) for seed in range(1000, 1012)]
    for order in (seeds, seeds[::-1]):
        done = subprocess.run(
            [sys.executable, "-c", script, *order],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.what)
def test_mutations_are_of_the_code_as_it_is(mutation: Mutation) -> None:
    """The deliberate breakages of docs/simulation.md can still be carried out."""
    _, source = mutated(mutation)
    compile(source, mutation.where, "exec")
