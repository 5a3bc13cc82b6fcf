"""More comes in than is handled, on real processes: senders are told to wait, and nothing is lost or kept.

`OVERLOAD_SECONDS` is how long they send (default 10); `OVERLOAD_BACKLOG=0` shows how it is without a bound.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import pytest

from chaos.memory import Memory
from holdfast.channel import partition_of
from tests.e2e.overload import Reader, one_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.cluster import LocalCluster
    from holdfast.client import Client
    from tests.e2e.conftest import People

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "10"))
BOUND = int(os.environ.get("OVERLOAD_BACKLOG", "150"))
P = 3
SENDERS = 8
ROOM = "room:crowded"
MOST_MIB = 25.0
"""MiB by which a process may grow while far more is sent than it handles."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Few partitions, and small bounds on what waits in them."""
    settings = {
        "kafka.partitions": P,
        "kafka.inbound_backlog": BOUND,
        "kafka.outbound_backlog": BOUND,
        "channels.room.subscribe": "anyone",
        "channels.room.send": "anyone",
        "channels.room.keep_count": 100_000,
    }
    with one_of_each(tmp_path_factory.mktemp("overload"), settings) as running:
        yield running


class Gauges:
    """What the processes say of themselves, and how large they are."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.memory = Memory()
        self.backlog = 0.0
        self._session = aiohttp.ClientSession()

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._session.close()

    def memory_table(self) -> str:
        """Return a line for each process."""
        return "".join(
            f"{name}: {size.start:.1f} MiB at the start, {size.most:.1f} at most, {size.end:.1f} at the end\n"
            for name, size in self.memory.sizes.items()
        )

    async def value(self, role: str, name: str) -> float:
        """Return the sum of a metric's samples whose name and labels begin so."""
        url = self.people.nodes(role)[0]["metrics"]
        async with self._session.get(url) as answer:
            found = re.findall(rf"(?m)^holdfast_{re.escape(name)}\S* (\S+)$", await answer.text())
        return sum(map(float, found))

    async def _run(self) -> None:
        pids = {
            node["node"]: node["pid"]
            for role in ("access", "logic", "dispatch")
            for node in self.people.nodes(role)
        }
        while True:
            self.memory.look(pids)
            for topic in ("inbound", "outbound"):
                found = await self.value("access", f'bus_backlog{{topic="{topic}"}}')
                self.backlog = max(self.backlog, found)
            await asyncio.sleep(0.5)


async def sender(client: Client, times: list[float], who: str, until: float) -> None:
    """Send as fast as the client library takes it, until then; note when each was acked."""
    numbers = itertools.count()

    async def one() -> None:
        while time.monotonic() < until:
            await client.send(ROOM, "slow", [who, next(numbers)])
            times.append(time.monotonic())

    await asyncio.gather(*(one() for _ in range(100)))


async def raw(people: People, times: list[float], who: str, until: float) -> list[Any]:
    """The same frame by frame, without a library; return the seconds to wait of all refusals."""
    hints: list[Any] = []
    url = people.nodes("access")[0]["websocket"]
    token = await people.token(who)
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
        await ws.send_str(json.dumps({"t": "connect", "token": token, "client": who}))
        assert json.loads((await ws.receive(10)).data.split("\n")[0])["t"] == "connected"
        n = 0
        while time.monotonic() < until:
            # Ten in a row, within the rate: where the first is refused, those after it must not pass.
            await asyncio.sleep(0.11)
            first, many = n, 10
            for number in range(first, first + many):
                frame = {"t": "send", "id": number, "n": number + 1, "to": ROOM, "type": "slow"}
                await ws.send_str(json.dumps(frame | {"data": [who, number]}))
            answers: dict[int, Any] = {}
            while len(answers) < many:
                for line in (await ws.receive(20)).data.split("\n"):
                    if (frame := json.loads(line))["t"] in ("ack", "error"):
                        answers[frame["id"]] = frame
            refused = [answers[k] for k in sorted(answers) if answers[k]["t"] == "error"]
            n += many - len(refused)
            times += [time.monotonic()] * (many - len(refused))
            assert [k for k in sorted(answers) if answers[k]["t"] == "ack"] == list(range(first, n))
            if refused:
                assert {frame["code"] for frame in refused} <= {"unavailable", "out_of_order", "rate_limited"}
                if refused[0]["code"] == "unavailable":
                    hints.append(refused[0]["retry"])
                await asyncio.sleep(min(float(refused[0]["retry"]), 2.0))
    return hints


async def test_senders_faster_than_their_handler(people: People, capsys: pytest.CaptureFixture[str]) -> None:
    """inv 1, 2, 7, 12: what is too much is refused with a time to wait; what is acked comes, in order.

    No process grows, and no message is later than what may wait takes.
    """
    reader = Reader(await people.join(people.name("reader"), queue=100_000))
    await reader.client.subscribe(ROOM)
    clients = {name: await people.join(name) for name in map(people.name, (f"s{n}" for n in range(SENDERS)))}
    acked: dict[str, list[float]] = {name: [] for name in (*clients, people.name("raw"))}
    async with Gauges(people) as gauges:
        until = time.monotonic() + SECONDS
        hints, *_ = await asyncio.gather(
            raw(people, acked[people.name("raw")], people.name("raw"), until),
            *(sender(client, acked[name], name, until) for name, client in clients.items()),
        )
        refused = await gauges.value("access", "bus_backlog_refused_total")
        latest = await reader.whole(acked, 120 + SECONDS)
        total, took = sum(map(len, acked.values())), time.monotonic() - until + SECONDS
    with capsys.disabled():
        sys.stdout.write(
            f"\n{SENDERS + 1} senders, {SECONDS:.0f} s, bound {BOUND}: acked {total}, handled "
            f"{total / took:.0f}/s, refused {refused:.0f}, most behind {gauges.backlog:.0f} records, "
            f"from ack to message at most {latest:.1f} s\n{gauges.memory_table()}"
        )
    if not BOUND:
        return
    assert refused
    assert hints
    assert all(1.0 <= hint <= 15.0 for hint in hints), hints
    for name, size in gauges.memory.sizes.items():
        assert size.most - size.start < MOST_MIB, name


async def publish(people: People, channel: str, number: int) -> float:
    """Publish a number; return 0, or the seconds to wait before it is tried again."""
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {people.info['api_key']}"}
    ) as session:
        body = {"channel": channel, "type": "n", "id": f"{people.mark}.{number}", "data": ["api", number]}
        async with session.post(f"{people.info['api']}/v1/publish", json=body) as answer:
            assert answer.status in (200, 503), await answer.text()
            return float(answer.headers["Retry-After"]) if answer.status == 503 else 0.0


@pytest.mark.skipif(not BOUND, reason="there is no bound to reach")
async def test_dispatch_stands_still(cluster: LocalCluster, people: People) -> None:
    """inv 1, 2, 7: publishes are refused with a time to wait, logic takes no more in; then all comes, once.

    Handlers that put out into other channels than was sent to are not stopped before all that may wait does.
    """
    still, via = people.name("room:still"), people.name("room:via")
    while partition_of(via, P) == partition_of(still, P):
        via += "x"
    reader = Reader(await people.join(people.name("reader"), queue=100_000))
    await reader.client.subscribe(still)
    sender = await people.join(people.name("sender"))
    cluster.pause("dispatch-0")
    try:
        async with Gauges(people) as gauges, asyncio.timeout(150):
            published, wait = 0, 0.0
            while not wait:
                wait = await publish(people, still, published)
                published += not wait
            assert 1.0 <= wait <= 16.0
            assert published >= BOUND
            count = 2 * BOUND * P

            async def pass_on(number: int) -> None:
                body = ["handler", number]
                await sender.send(via, "echo.to", {"channel": still, "body": body})

            sends = asyncio.gather(*map(pass_on, range(count)))
            while not await gauges.value("logic", "logic_backlog_waits_total"):
                await asyncio.sleep(0.2)
    finally:
        cluster.resume("dispatch-0")
    async with asyncio.timeout(120):
        await sends  # the last of them may have been refused meanwhile, since logic took nothing more in
        while await publish(people, still, published):
            await asyncio.sleep(0.5)
        expected = {"api": list(range(published + 1)), "handler": list(range(count))}
        while sum(map(len, reader.shown.values())) < published + 1 + count:
            await asyncio.sleep(0.1)
    assert reader.shown == expected
