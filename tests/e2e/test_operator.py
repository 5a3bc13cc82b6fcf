"""The commands of an operator, as processes of their own beside a real cluster that works."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.test_sessions import node_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def holdfast(cluster):
    """Run a command as an operator does; return its status, answer, and what it told beside it."""

    async def run(*words, timeout=60.0):
        given = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.cli", *words, "--config", str(cluster.dir / "holdfast.toml")),
            cwd=ROOT,
            env=given | {"PYTHONWARNINGS": "error"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(timeout):
            out, err = await running.communicate()
        assert b"Traceback" not in err, err.decode()
        return running.returncode, out.decode(), err.decode()

    return run


@pytest.fixture
def answer(holdfast):
    """Run a command with --json; return what it answered."""

    async def run(*words):
        return json.loads((await holdfast(*words, "--json"))[1])

    return run


async def test_nodes_and_presence(people, holdfast, answer):
    """Every process with its work, and a user's sessions with their nodes."""
    alice = people.name("alice")
    first, second = await people.join(alice, 0), await people.join(alice, 1)
    status, text, _ = await holdfast("nodes")
    assert status == 0, text
    found = await answer("nodes")
    assert {(one["node"], one["state"]) for one in found["nodes"]} == {
        (node["node"], "alive") for node in people.info["nodes"]
    }
    assert (found["missing"], found["untaken"]) == ([], [])
    assert all(one["metrics"].startswith("127.0.0.1:") for one in found["nodes"])
    sessions = (await answer("presence", alice))[alice]
    assert {(one["session"], one["node"], one["online"]) for one in sessions} == {
        (client.session.session, node_of(people, client), True) for client in (first, second)
    }
    status, _, told = await holdfast("presence", people.name("nobody"))
    assert (status, "has no session" in told) == (1, True)


async def test_a_message_is_found(people, holdfast, answer, eventually):
    """Sent, published, and failed: each by the id that its sender got."""
    alice, room = people.name("alice"), f"room:{people.mark}"
    client = await people.join(alice)
    sent = await client.send(room, "plain", {"text": "\x1b[31mred"})
    published = (await people.api("POST", "/v1/publish", {"channel": room, "type": "t", "data": 1}))["id"]
    failed = await client.send(room, "fail.me", 1)

    async def states(message):
        return [one["state"] for one in (await answer("inspect", message))["steps"]]

    async def arrived():
        return await states(sent) == ["written", "handled", "written", "applied", "kept"]

    await eventually(arrived)
    assert await states(published) == ["written", "applied", "kept"]
    status, text, _ = await holdfast("tail", room)
    assert status == 0
    assert {line.split()[3] for line in text.splitlines()} == {f"{sent}-0", published}
    assert "\x1b" not in text

    async def died():
        return "dead" in await states(failed)

    await eventually(died, 20)
    letters = await answer("deadletter", "list")
    (letter,) = [one for one in letters if one["key"] == alice]
    status, text, _ = await holdfast("inspect", failed, "--user", alice, "--since", "5m")
    assert status == 0
    assert f"`holdfast deadletter show {letter['id']}`" in text
    status, text, _ = await holdfast("deadletter", "show", letter["id"])
    assert "this handler fails" in text
    assert (await holdfast("inspect", "none-has-this"))[0] == 1
    status, text, _ = await holdfast("deadletter", "retry", letter["id"])
    assert (status, text.split()[-1]) == (0, "retried")


async def test_follow(people, cluster, holdfast):
    """What is published while `tail --follow` looks is shown at once."""
    room = f"room:{people.mark}"
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "tail", "-f", room, "--json"),
        *("--config", str(cluster.dir / "holdfast.toml")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Where the tests run in the background, a shell has them, and so their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout
    assert running.stderr
    try:
        assert b"nothing was ever written" in await asyncio.wait_for(running.stderr.readline(), 20)
        for number in range(3):
            await people.api("POST", "/v1/publish", {"channel": room, "type": "t", "data": number})
        lines = [json.loads(await asyncio.wait_for(running.stdout.readline(), 10)) for _ in range(3)]
        assert [(line["seq"], line["data"]) for line in lines] == [(1, 0), (2, 1), (3, 2)]
    finally:
        running.send_signal(signal.SIGINT)
        await running.communicate()
    assert running.returncode == 130


async def test_a_drain(people, cluster, holdfast, answer):
    """inv 10: `drain --wait` returns when the clients are elsewhere; a restarted node serves again."""
    bob = people.name("bob")
    balancer = await people.balancer()
    clients = [await people.join(bob, balancer.url) for _ in range(6)]
    name = node_of(people, clients[0])
    status, text, told = await holdfast("drain", name, "--wait")
    assert (status, told) == (0, ""), text
    assert text.splitlines()[1].split()[0] == name

    assert {one["node"] for one in (await answer("presence", bob))[bob]} == {"access-0", "access-1"} - {name}
    other = "access-1" if name == "access-0" else "access-0"
    status, _, told = await holdfast("drain", other)
    assert (status, "nobody to connect to" in told) == (1, True)
    await asyncio.to_thread(cluster.restart, name)
    assert (await holdfast("nodes"))[0] == 0


async def test_doctor(people, cluster, holdfast, answer):
    """Beside a cluster that works nothing is wrong, every process is asked; one that hangs is found."""
    status, text, _ = await holdfast("doctor")
    assert status == 0, text
    found = (await answer("doctor"))["findings"]
    assert {one["area"] for one in found} == {
        *("Kafka", "Redis", "Consul", "shards", "processes", "this machine")
    }
    asked = {one["subject"] for one in found if one["area"] == "processes" and one["level"] == "good"}
    assert asked == {node["node"] for node in people.info["nodes"]}
    for secret in (cluster.secret, cluster.api_key):
        assert secret not in text
    assert (await holdfast("config", "check"))[0] == 0


async def test_doctor_finds_who_hangs(people, cluster, holdfast, eventually):
    """Both dispatchers frozen: the shards do not get on, and the status says that something is wrong."""
    for name in ("dispatch-0", "dispatch-1"):
        cluster.pause(name)
    try:
        status, text, _ = await holdfast("doctor", "--quiet")
        assert status == 1
        assert "their dispatcher does not get on" in text
    finally:
        for name in ("dispatch-0", "dispatch-1"):
            cluster.resume(name)

    async def well():
        return (await holdfast("nodes"))[0] == 0

    await eventually(well, 30)
