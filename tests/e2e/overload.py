"""What the tests of overload share: a small cluster, and a reader who notes what it is shown."""

from __future__ import annotations

import asyncio
import operator
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deploy.local.cluster import LocalCluster
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from holdfast.client import Client, Message


@contextmanager
def one_of_each(directory: Path, settings: Mapping[str, Any]) -> Iterator[LocalCluster]:
    """Run one process of each service: what is shown is not how fast it is."""
    running = LocalCluster(
        directory, access=1, logic=1, dispatch=1, app="tests.e2e.handlers:app", settings=settings
    )
    with available():
        running.start()
    try:
        yield running
    finally:
        running.stop()


class Reader:
    """Who is shown what, in which order, and when."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.shown: dict[str, list[int]] = {}
        self.at: dict[str, list[float]] = {}

        @client.on("message")
        def message(message: Message) -> None:
            who, number = message.data
            self.shown.setdefault(who, []).append(number)
            self.at.setdefault(who, []).append(time.monotonic())

    async def whole(self, acked: dict[str, list[float]], seconds: float) -> float:
        """Wait until all that was acked is shown, each once and in order; return the longest time between."""
        async with asyncio.timeout(seconds):
            while any(len(self.shown.get(who, ())) < len(times) for who, times in acked.items()):
                await asyncio.sleep(0.1)
        assert self.shown == {who: list(range(len(times))) for who, times in acked.items()}
        return float(max(max(map(operator.sub, self.at[who], times)) for who, times in acked.items()))
