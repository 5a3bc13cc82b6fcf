"""One message followed through real parts: by its spans, and by the logs; and what neither may tell."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from deploy.local.cluster import LocalCluster
from holdfast.client import Client, Closed
from holdfast.errors import Reject
from tests.e2e.collector import Collector
from tests.e2e.conftest import People
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

PAYLOAD = "payload-that-nobody-may-see-6f1c"
NODELINK = "nodelink-secret-that-nobody-may-see-a81d"
WRONG = "token-that-nobody-may-see-77ce"
"""What clients and operators would not want to find in a log."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[LocalCluster]:
    """Processes that follow every message and log all that they ever log."""
    running = LocalCluster(
        tmp_path_factory.mktemp("followed"),
        access=2,
        logic=1,
        dispatch=1,
        app="tests.e2e.handlers:app",
        settings={
            "process.log_level": "debug",
            "nodelink.secret": NODELINK,
            "tracing.enabled": True,
            "tracing.ratio": 1.0,
            "tracing.endpoint": collector.endpoint,
        },
    )
    with available():
        running.start()
    yield running
    running.stop()


def logged(cluster: LocalCluster, message: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (role, text, line) of every line of a log that is about a message, in order of time."""
    found = []
    for node in cluster.nodes.values():
        for text in node.log.read_text().splitlines():
            line = json.loads(text)
            if str(line.get("message_id", "")).startswith(message):
                found.append((line["ts"], node.role, line["text"], line))
    return [tuple(each[1:]) for each in sorted(found, key=lambda each: each[0])]


@pytest.fixture
async def people(followed):
    people = People(followed)
    yield people
    await people.close()


async def test_a_message_is_followed(followed, people, collector, eventually):
    """Every service has a span in its trace and a line with its id, and these name the sessions and nodes."""
    alice, bob = people.name("alice"), people.name("bob")
    a, b = await people.join(alice, 0, client=f"client-{people.mark}"), await people.join(bob, 1)
    body = {"channel": f"user:{bob}", "body": PAYLOAD}
    message = await a.send(f"user:{bob}", "echo.to", body)
    async with asyncio.timeout(20):
        async for got in b.messages():
            assert got.data == PAYLOAD
            break

    async def delivered():
        return [
            seen for seen in collector.spans
            if seen.name == "access deliver" and len(collector.path(seen)) == 5
        ]  # fmt: skip

    (last,) = await eventually(delivered, 30.0)
    assert collector.path(last) == [
        ("holdfast-access", "access send"),
        ("holdfast-logic", "logic handle"),
        ("holdfast-logic", "logic publish"),
        ("holdfast-dispatch", "dispatch append"),
        ("holdfast-access", "access deliver"),
    ]
    assert last.attributes["holdfast.node"] == "access-1"
    assert all(0 <= seen.took < 20 for seen in collector.spans)

    async def told():
        lines = logged(followed, message)
        return lines if len(lines) == 4 else None

    lines = await eventually(told)
    assert sorted((role, text) for role, text, _ in lines) == [
        ("access", "delivered"),
        ("access", "send is stored"),
        ("dispatch", "append: done"),
        ("logic", "handled"),
    ]
    by_text = {text: line for _, text, line in lines}
    assert by_text["send is stored"]["session"] == by_text["handled"]["session"] == a.session.session
    assert by_text["delivered"]["sessions"] == [b.session.session]
    assert by_text["delivered"]["node"] == "access-1"
    assert by_text["append: done"]["nodes"] == [
        json.loads(followed.nodes["access-1"].ready_file.read_text())["incarnation"]
    ]


async def test_nothing_secret_is_told(followed, people, collector, eventually):
    """No token, key or payload in any log at debug level, nor in a span, whatever went well or wrong."""
    alice, bob = people.name("alice"), people.name("bob")
    a, b = await people.join(alice, 0), await people.join(bob, 1)
    await a.send(f"user:{bob}", "text", PAYLOAD)
    await a.send(f"user:{bob}", "echo.to", {"channel": f"user:{bob}", "body": PAYLOAD})
    for kind in ("refuse.me", "fail.me"):
        await a.send(f"user:{bob}", kind, PAYLOAD)
    with pytest.raises(Reject):
        await a.request("add", [PAYLOAD])
    stranger = Client(people.nodes("access")[0]["websocket"], token=WRONG)
    with pytest.raises(Closed):
        await stranger.connect()
    await stranger.close()
    key = people.info["api_key"]
    await people.api(
        "POST", "/v1/publish", {"channel": "no channel", "type": "t", "data": PAYLOAD}, status=400
    )
    await people.api(
        "POST", "/v1/publish", {"channel": f"user:{bob}", "type": 7, "data": PAYLOAD}, status=400
    )
    token = await people.token(alice)
    async with aiohttp.ClientSession() as session:
        for given in (WRONG, token):
            async with session.get(f"{people.info['api']}/v1/access?token={given}") as answer:
                assert answer.status in (200, 401)
    people.info["api_key"] = WRONG
    await people.forget_key()
    await people.api("GET", "/v1/nodes", status=401)

    async def buried():
        return any('"dead"' in node.log.read_text() for node in followed.nodes.values())

    await eventually(buried, 20.0)
    tokens = [token, str(a._driver._token), str(b._driver._token)]
    await people.close()
    await asyncio.to_thread(followed.stop)
    secrets = [PAYLOAD, NODELINK, WRONG, key, followed.secret, *tokens]
    for node in followed.nodes.values():
        text = node.log.read_text()
        assert '"debug"' in text
        for secret in secrets:
            at = text.find(secret)
            assert at < 0, f"{node.name} tells a secret: {text[max(0, at - 300) : at + 100]}"
    spans = b"".join(collector.raw)
    for secret in [*secrets, alice, bob]:
        assert secret.encode() not in spans
