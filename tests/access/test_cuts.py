"""What a client is answered does not depend on how its bytes were cut, nor on where a slice ended."""

from __future__ import annotations

import itertools
import json
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from services.access import driver as driver_module
from services.access import inflow
from tests.access.test_floods import ws
from tests.access.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: tuple[dict[str, Any] | bytes, ...] = (
    {"t": "ping"},
    {"t": "subscribe", "id": 2, "channel": "no name"},
    {"t": "unsubscribe", "id": 3, "channel": "room:2"},
    {"t": "cursor", "channel": "room:9", "seq": 4},
    {"t": "nothing of the kind", "id": 5},
    {"t": "send", "id": 6},
    {"t": "send", "id": 7, "n": 0, "to": "nowhere", "type": "t", "data": ["x" * 700]},
    b'{"t":"ping"}\n{"t":"ping"}\n{"t":"subscribe"}\n\n{"t":"ping"}',
)
LAST: tuple[bytes, ...] = (
    ws(0x81, b"no frame"),
    ws(0x81, b"\xff"),
    ws(0x88, b"\x03\xe8"),
    ws(0xF1, b"x"),
    b"",
)


def stream(source: random.Random) -> bytes:
    """Return what a client writes: good frames and bad ones, whole messages and fragments, pings, an end."""
    parts = []
    for _ in range(source.randrange(5, 60)):
        kind = source.choice(KINDS)
        payload = kind if isinstance(kind, bytes) else json.dumps(kind).encode()
        if source.random() < 0.2:
            cut = source.randrange(len(payload))
            parts += [ws(0x01, payload[:cut]), ws(0x89, b"between"), ws(0x80, payload[cut:])]
        else:
            parts.append(ws(0x81, payload))
        if source.random() < 0.2:
            parts.append(ws(source.choice((0x89, 0x8A)), b"p"))
    return b"".join(parts) + source.choice(LAST)


def reads(source: random.Random, data: bytes) -> Iterator[bytes]:
    """Cut it as a network does."""
    while data:
        size = source.choice((1, 7, 600, 5000, len(data)))
        yield data[:size]
        data = data[size:]


async def answers(data: list[bytes]) -> tuple[list[Any], int | None, float]:
    """Return what a client got, and its end."""
    async with World(settle=200) as world:
        bob = await world.join("bob", tcp=False)
        (driver,) = world.node.drivers.values()
        for part in data:
            while world.node.inflow.has(driver):  # it would not be read from
                await world.clock.settle()
            driver.data_received(part)
        for _ in range(10):
            await world.clock.settle()
        assert not world.node.inflow.has(driver)
        return bob.frames[1:], bob.closed, world.value("access_controls")


@pytest.mark.parametrize("seed", range(25))
async def test_any_cut_gives_the_same_answers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7, inv 11: slices and cuts change when something is answered, never what or in which order."""
    source = random.Random(seed)
    data = stream(source)
    whole = await answers([data])
    looks = itertools.count()
    monkeypatch.setattr(inflow, "time", SimpleNamespace(perf_counter=lambda: next(looks) * 0.001))
    monkeypatch.setattr(driver_module, "PIECE", source.choice((16, 100, 4096)))
    monkeypatch.setattr(driver_module, "SMALL", source.choice((0, 50, 512)))
    cut = await answers(list(reads(source, data)))
    assert cut == whole
