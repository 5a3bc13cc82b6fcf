"""Real processes that hang (SIGSTOP) under traffic: they delay nobody else, and undo nothing afterwards."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.channel import partition_of
from services.dispatch.ownership import owned
from tests.rebuild.people import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.cluster import LocalCluster
    from holdfast.client import Client, Message
    from tests.rebuild.people import People

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.consul]

P = 12
DELAY = 2.5
"""Seconds from a send to its message that others may see, on a machine that is shared: below any hang."""

HANG = 8.0


class Watch:
    """One client's subscriptions: what it was shown of each, and how long that took."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.shown: dict[str, list[int]] = {}
        self.slowest: dict[str, float] = {}

        def message(message: Message) -> None:
            number, sent = message.data
            self.shown.setdefault(message.channel, []).append(number)
            took = time.monotonic() - sent
            self.slowest[message.channel] = max(took, self.slowest.get(message.channel, 0.0))

        client.on("message")(message)


class Traffic:
    """Sends numbers to rooms, one after another in each."""

    def __init__(self, client: Client, rooms: Sequence[str]) -> None:
        self.acked = dict.fromkeys(rooms, 0)
        self._client = client
        self._running = True
        self._tasks = [asyncio.ensure_future(self._run(room)) for room in rooms]

    async def _run(self, room: str) -> None:
        while self._running:
            await self._client.send(room, "n", [self.acked[room], time.monotonic()])
            self.acked[room] += 1
            await asyncio.sleep(0.25)

    async def stop(self) -> None:
        self._running = False
        await asyncio.gather(*self._tasks)


def rooms(mark: str) -> dict[int, str]:
    """Return a room for each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < P:
        room = f"room:{mark}{number}"
        found.setdefault(partition_of(room, P), room)
        number += 1
    return found


async def whole(watch: Watch, traffic: Traffic, seconds: float = 20) -> None:
    """Wait until a client was shown all; each room's numbers once and in order."""

    def there() -> bool:
        return all(len(watch.shown.get(room, ())) >= count for room, count in traffic.acked.items())

    await eventually(there, seconds)
    await asyncio.sleep(0.3)
    for room, count in traffic.acked.items():
        assert watch.shown[room] == list(range(count)), room


async def test_a_hung_access_node(cluster: LocalCluster, people: People) -> None:
    """inv 1, 4, 7: clients of other nodes notice nothing; its own get the rest when it comes back."""
    places = rooms("a")
    here, there = Watch(await people.join("here", 1)), Watch(await people.join("there", 0))
    sender = await people.join("sender", 1)
    for watch in (here, there):
        for room in places.values():
            await watch.client.subscribe(room)
    traffic = Traffic(sender, list(places.values()))
    await eventually(lambda: len(here.shown) == P, 10)
    here.slowest.clear()
    await asyncio.to_thread(cluster.pause, "access-0")
    await asyncio.sleep(HANG)
    during = dict(here.slowest)
    await asyncio.to_thread(cluster.resume, "access-0")
    await asyncio.sleep(1.0)
    await traffic.stop()
    await whole(here, traffic)
    await whole(there, traffic, 30)
    assert set(during) == set(places.values())
    assert max(during.values()) < DELAY


async def test_a_hung_dispatcher(cluster: LocalCluster, people: People) -> None:
    """inv 3, 4, 7, 8: other partitions notice nothing; its own are taken over; awake, it changes nothing."""
    places = rooms("d")
    names = ["dispatch-0", "dispatch-1"]
    its = owned("dispatch-0", names, P)
    watches = [Watch(await people.join(f"watch{number}", number)) for number in range(2)]
    sender = await people.join("sender2", 1)
    for watch in watches:
        for room in places.values():
            await watch.client.subscribe(room)
    traffic = Traffic(sender, list(places.values()))
    await eventually(lambda: all(len(watch.shown) == P for watch in watches), 10)
    for watch in watches:
        watch.slowest.clear()
    await asyncio.to_thread(cluster.pause, "dispatch-0")
    stopped = dict(traffic.acked)
    others = [places[number] for number in range(P) if number not in its]

    def taken_over() -> bool:
        shown = watches[0].shown
        return all(len(shown[places[number]]) > stopped[places[number]] + 8 for number in its)

    await eventually(taken_over, 30)
    await asyncio.sleep(1.0)
    during: dict[str, Any] = {room: max(watch.slowest[room] for watch in watches) for room in others}
    await asyncio.to_thread(cluster.resume, "dispatch-0")
    await asyncio.sleep(3.0)
    await traffic.stop()
    for watch in watches:
        await whole(watch, traffic)
    assert max(during.values()) < DELAY


async def test_no_dispatcher_is_heard(cluster: LocalCluster, people: People) -> None:
    """inv 4: nodes whose links are all refused ask the log themselves: delivery is late, and whole."""
    dispatchers = [cluster.nodes[name] for name in ("dispatch-0", "dispatch-1")]
    for node in dispatchers:
        assert node._environment is not None
        node._environment["HOLDFAST_NODELINK_SECRET"] = "another"
        await asyncio.to_thread(node.restart)
    try:
        places = rooms("q")
        watch, sender = Watch(await people.join("quiet", 0)), await people.join("sender3", 1)
        for room in places.values():
            await watch.client.subscribe(room)
        traffic = Traffic(sender, list(places.values()))
        await asyncio.sleep(6.0)
        await traffic.stop()
        await whole(watch, traffic)
    finally:
        for node in dispatchers:
            assert node._environment is not None
            del node._environment["HOLDFAST_NODELINK_SECRET"]
            await asyncio.to_thread(node.restart)
        await asyncio.to_thread(cluster.write)
