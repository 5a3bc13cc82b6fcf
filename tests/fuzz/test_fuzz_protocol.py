"""The fuzz target for a bounded number of rounds, and that it can find something."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.fuzz_protocol import TARGETS, FuzzError, Outcome, Target, check, fuzz


def test_any_bytes() -> None:
    """inv 7, inv 11: no bytes make a codec raise, keep more than its bound, or depend on the cut."""
    assert fuzz(20_240_501, rounds=1500) == 1500


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.name))
def test_seeds_lead_somewhere(target: Target) -> None:
    """The unchanged seeds are not all refused: mutations begin at what works."""
    outcomes = [target.run([seed]) for seed in target.seeds]
    assert any(outcome.messages or outcome.written for outcome in outcomes)


def test_fuzz_finds() -> None:
    """A codec that depends on the cut, or raises, is reported with the bytes."""

    def depends(chunks: object) -> Outcome:
        return Outcome(list(chunks), b"", None)  # type: ignore[call-overload]

    def raises(chunks: object) -> Outcome:
        raise KeyError(chunks)

    rng = random.Random(1)

    def search(target: Target) -> None:
        for round_ in range(50):
            check(target, rng, round_)

    for run in (depends, raises):
        with pytest.raises(FuzzError, match=r"broken, round \d+: .* for b['\"]"):
            search(Target("broken", (b"abcdef" * 100,), run))
