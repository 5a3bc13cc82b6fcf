"""The publishes of a backend: as many as the schedule has, whatever it comes to."""

from __future__ import annotations

import math

import pytest

from loadtest.backend import AT_ONCE, Backend
from loadtest.target import Target


class Counting(Backend):
    """A backend that counts instead of calling."""

    def __init__(self) -> None:
        super().__init__(Target([], [], "key", "secret"))
        self.sizes: list[int] = []

    async def _post(self, messages: list[tuple[str, dict[str, object]]]) -> None:
        self.sizes.append(len(messages))
        self._limit.release()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("rate", "sizes"), [(100.0, [2, 2, 1]), (70.0, [2, 1]), (10.0, [])])
async def test_a_schedule_of_any_length_ends(rate: float, sizes: list[int]) -> None:
    """Whole messages only: what is left of the last one is not sent, and nobody waits for it."""
    backend = Counting()
    await backend.publish(["a", "b"], rate=rate, seconds=0.05, batch=2, size=1)
    assert backend.sizes == sizes


@pytest.mark.timeout(20)
async def test_as_fast_as_they_are_answered() -> None:
    """Without a rate whole requests go out until the time is over, and all places are free again."""
    backend = Counting()
    await backend.publish(["a", "b"], rate=math.inf, seconds=0.05, batch=2, size=1)
    assert backend.sizes
    assert set(backend.sizes) == {2}
    assert backend._limit._value == AT_ONCE
