"""A sender whose messages are slow, on real processes: it waits, and others of its partition do not."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

import pytest

from holdfast.channel import partition_of
from tests.e2e.overload import Reader, one_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.cluster import LocalCluster
    from tests.e2e.conftest import People

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

P = 3
ROOM = "room:polite"
SECONDS = 14.0
LATEST = 4.0
"""Seconds from an ack to its message, on a machine that is shared."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """So few records in hand of a partition that one sender could fill it within the test."""
    settings = {"kafka.partitions": P, "logic.pending": 800, "logic.share": 50}
    with one_of_each(tmp_path_factory.mktemp("crowding"), settings) as running:
        yield running


async def test_one_slow_sender_delays_no_other(people: People) -> None:
    """inv 7: who sends ten times what its handler does waits; who shares its partition does not notice."""
    hog = people.name("hog")
    names = (people.name(f"polite{n}") for n in itertools.count())
    polite = next(name for name in names if partition_of(name, P) == partition_of(hog, P))
    reader = Reader(await people.join(people.name("reader")))
    await reader.client.subscribe(ROOM)
    crowding, other = await people.join(hog), await people.join(polite)
    until = time.monotonic() + SECONDS
    numbers = itertools.count()
    acked: dict[str, list[float]] = {polite: []}

    async def crowd() -> None:
        while time.monotonic() < until:
            await crowding.send("room:hog", "slower", next(numbers))

    async def talk() -> None:
        while time.monotonic() < until:
            await other.send(ROOM, "text", [polite, len(acked[polite])])
            acked[polite].append(time.monotonic())
            await asyncio.sleep(0.2)

    crowds = [asyncio.ensure_future(crowd()) for _ in range(100)]
    await talk()
    latest = await reader.whole(acked, 60)
    for task in crowds:
        task.cancel()
    await asyncio.gather(*crowds, return_exceptions=True)
    assert latest < LATEST
