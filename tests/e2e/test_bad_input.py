"""What is wrong is answered as the protocol names it, by the real processes, and nobody else is troubled."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import websockets
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]


class Raw:
    """A WebSocket without a client library behind it."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    async def say(self, frame: Any) -> None:
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def hear(self, name: str) -> dict[str, Any]:
        """Return the next frame of that name; others are passed over."""
        async with asyncio.timeout(10):
            async for text in self.socket:
                for line in text.splitlines():
                    frame: dict[str, Any] = json.loads(line)
                    if frame["t"] == name:
                        return frame
        raise AssertionError(f"no {name!r} before the end, which was {self.ending}")

    @property
    def ending(self) -> tuple[int | None, str]:
        return self.socket.close_code, self.socket.close_reason

    async def ended(self) -> int:
        async with asyncio.timeout(10):
            await self.socket.wait_closed()
        assert self.socket.close_reason
        return int(self.socket.close_code)


@pytest.fixture
async def opened(people):
    """Open a raw connection to the first node, connected as a user where one is named."""
    opened: list[Raw] = []

    async def opening(user: str = "") -> Raw:
        url = people.nodes("access")[0]["websocket"]
        raw = Raw(
            await websockets.connect(
                url, subprotocols=[websockets.Subprotocol("holdfast.v1.json")], max_size=None
            )
        )
        opened.append(raw)
        if user:
            await raw.say({"t": "connect", "token": await people.token(user)})
            await raw.hear("connected")
        return raw

    yield opening
    for raw in opened:
        await raw.socket.close()


async def test_a_first_frame_that_is_not_connect(opened):
    """Whatever comes before connect ends the connection with connect_first."""
    raw = await opened()
    await raw.say({"t": "subscribe", "id": 1, "channel": "room:a"})
    assert (await raw.hear("error"))["code"] == "connect_first"
    assert await raw.ended() == 4102


@pytest.mark.parametrize("claims", ["expired", "other key", "no key", "no user", "no token at all"])
async def test_a_wrong_token(people, opened, claims):
    """A token that is expired, signed by another or not at all, or for nobody: unauthorized."""
    good = {"sub": people.name("ann"), "exp": 4_000_000_000}
    secret = people.info["auth_secret"]
    token = {
        "expired": jwt.encode(good | {"exp": 1_000_000_000}, secret),
        "other key": jwt.encode(good, "another secret, long enough for the algorithm"),
        "no key": jwt.encode(good, "", algorithm="none"),
        "no user": jwt.encode({"exp": good["exp"]}, secret),
        "no token at all": "x",
    }[claims]
    raw = await opened()
    await raw.say({"t": "connect", "token": token})
    error = await raw.hear("error")
    assert error["code"] == "unauthorized"
    assert secret not in json.dumps(error)
    assert await raw.ended() == 4103


async def test_frames_that_cannot_be_understood(people, opened):
    """A frame with a wrong field is refused and the next one served; what is no frame ends it all."""
    raw = await opened(people.name("ann"))
    await raw.say({"t": "subscribe", "id": 1, "channel": 5})
    error = await raw.hear("error")
    assert (error["code"], error["id"]) == ("bad_request", 1)
    await raw.say({"t": "send", "id": 2, "n": 1, "to": "nowhere", "type": "text"})
    error = await raw.hear("error")
    assert (error["code"], error["id"]) == ("bad_channel", 2)
    await raw.say({"t": "subscribe", "id": 3, "channel": "planet:mars"})
    error = await raw.hear("error")
    assert (error["code"], error["id"]) == ("bad_channel", 3)
    await raw.say({"t": "dance", "id": 4})
    error = await raw.hear("error")
    assert (error["code"], error["id"]) == ("unknown_frame", 4)
    await raw.say({"t": "subscribe", "id": 5, "channel": f"group:{people.name('closed')}"})
    error = await raw.hear("error")
    assert (error["code"], error["id"]) == ("forbidden", 5)
    await raw.say({"t": "ping"})
    await raw.hear("pong")
    await raw.say("{ this is not JSON")
    assert (await raw.hear("error"))["code"] == "bad_frame"
    assert await raw.ended() == 4100


async def test_what_is_too_large(people, opened):
    """A message beyond the limit ends a WebSocket with 1009, and a TCP connection with too_large."""
    raw = await opened(people.name("ann"))
    await raw.say({"t": "send", "id": 1, "n": 1, "to": "room:a", "type": "text", "data": "x" * 70_000})
    assert await raw.ended() == 1009

    where = urlsplit(people.nodes("access")[0]["tcp"])
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(struct.pack(">I", 1 << 30))
    size = struct.unpack(">I", await reader.readexactly(4))[0]
    error = json.loads(await reader.readexactly(size))
    assert (error["t"], error["code"]) == ("error", "too_large")
    assert await reader.read() == b""
    writer.close()


async def test_websocket_violations(people, opened):
    """Text that is not UTF-8 ends with 1007; a binary message of the JSON subprotocol with 1003."""
    raw = await opened(people.name("ann"))
    await raw.socket.send(b"{}")
    assert await raw.ended() == 1003
    raw = await opened(people.name("ann"))
    raw.socket.transport.write(bytes([0x81, 0x81, 0, 0, 0, 0, 0xFF]))
    assert await raw.ended() == 1007


async def test_the_api_says_what_is_wrong(people):
    """A wrong key, an unknown path, a wrong body and an unknown channel: a problem document each."""
    answer = await people.api("POST", "/v1/publish", {"channel": "nowhere", "type": "t"}, status=400)
    assert "kind:id" in answer["detail"]
    answer = await people.api("POST", "/v1/publish", {"type": "t"}, status=400)
    assert "channel" in answer["detail"]
    await people.api("GET", "/v1/nothing", status=404)
    key, people.info["api_key"] = people.info["api_key"], "wrong"
    await people.forget_key()
    answer = await people.api("POST", "/v1/publish", {"channel": "room:a", "type": "t"}, status=401)
    assert key not in json.dumps(answer)


async def test_a_poison_record_is_set_aside(people, cluster):
    """What nobody can read goes to the dead letters, with a reason; its partition goes on."""
    config = (cluster.dir / "holdfast.toml").read_text()
    prefix = next(
        line.split('"')[1] for line in config.split("[kafka]")[1].splitlines() if line.startswith("prefix")
    )
    a, b = await people.join(people.name("alice"), 0), await people.join(people.name("bob"), 1)
    poison = os.urandom(8) + b" not a record " + people.mark.encode()
    producer = AIOKafkaProducer(bootstrap_servers=cluster.kafka.address)
    await producer.start()
    partitions = sorted(await producer.partitions_for(f"{prefix}.inbound"))
    for topic in ("inbound", "outbound"):
        for partition in partitions:
            await producer.send_and_wait(f"{prefix}.{topic}", poison, key=b"poison", partition=partition)
    await producer.stop()

    sent = [await a.send(f"user:{people.name('bob')}", "text", number) for number in range(20)]
    got = []
    async with asyncio.timeout(20):
        async for message in b.messages():
            got.append(message.cause)
            if len(got) == len(sent):
                break
    assert got == sent

    consumer = AIOKafkaConsumer(
        f"{prefix}.dead", bootstrap_servers=cluster.kafka.address, auto_offset_reset="earliest"
    )
    await consumer.start()
    found = set()
    async with asyncio.timeout(20):
        async for record in consumer:
            headers = dict(record.headers)
            if record.value == poison:
                assert headers["reason"]
                found.add((headers["topic"].decode().rpartition(".")[2], int(headers["partition"])))
            if len(found) == 2 * len(partitions):
                break
    await consumer.stop()
    assert found == {(topic, each) for topic in ("inbound", "outbound") for each in partitions}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"HOLDFAST_ACCESS_HARTBEAT": "5"}, "HOLDFAST_ACCESS_HARTBEAT"),
        ({"HOLDFAST_ACCESS_HEARTBEAT": "soon"}, "access.heartbeat"),
        ({"HOLDFAST_LOGIC_APP": "no_such_module:app"}, "no_such_module"),
    ],
)
async def test_wrong_settings_are_refused_by_name(cluster, wrong, named):
    """A service with an unknown or wrong setting names it and ends with 78 before it serves."""
    role = "logic" if "HOLDFAST_LOGIC_APP" in wrong else "access"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
    environ |= {"HOLDFAST_CONFIG": str(cluster.dir / "holdfast.toml"), **wrong}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "holdfast.cli", role],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78
    assert named in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
