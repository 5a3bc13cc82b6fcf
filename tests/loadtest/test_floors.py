"""The C floors do what they are measured for: every message comes, as large as ours, and as many acks."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import struct

import pytest

from holdfast import records
from loadtest import floors
from loadtest.bench import COLUMNS, WAYS, table
from loadtest.floors import Floor, Relay
from loadtest.native import MissingTool, build
from tests.unavailable import without

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        shutil.which("cc") is None and os.environ.get("CI") != "true", reason="a C compiler is needed"
    ),
]

EPOCH = "3f9a0c21b07e.12345"


@pytest.fixture(scope="module", autouse=True)
def built():
    try:
        for name in ("floor", "crowd"):
            build(name)
    except MissingTool as missing:
        without(str(missing))


def our_frame(sender, to, seq, data):
    """Return the bytes of our message frame for one that comes from a client, or by the API."""
    name = "i" * 16
    caused = {"id": f"{name}-0", "sender": sender, "cause": name} if sender else {"id": name, "sender": None}
    body = records.message_body(type="text", data=data, **caused)
    return records.message_frame(f"user:{to}", seq, EPOCH, records.log_entry(1_700_000_000_000, body))


class Client:
    """A client that writes what it is told, in pieces or together, and reads frames."""

    def __init__(self, port, name):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.sendall(b"GET /ws HTTP/1.1\r\n\r\n")
        self._read = self._socket.makefile("rb")
        while self._read.readline().strip():
            pass
        self.write(self.frame(f'{{"t":"connect","token":"{name}","device":"bench"}}'))
        self.position = self.read()

    @staticmethod
    def frame(text):
        size = (
            bytes([0x80 | len(text)])
            if len(text) < 126
            else bytes([0x80 | 126]) + struct.pack(">H", len(text))
        )
        return b"\x81" + size + bytes(4) + text.encode()

    def send(self, number, to, text="x"):
        return self.frame(
            f'{{"t":"send","id":{number},"n":{number},"to":"{to}","type":"text","data":{{"text":"{text}"}}}}'
        )

    def write(self, data):
        self._socket.sendall(data)

    def read(self):
        _, size = self._read.read(2) or (0, 0)
        if size == 126:
            (size,) = struct.unpack(">H", self._read.read(2))
        return self._read.read(size).decode()

    def close(self):
        self._read.close()
        self._socket.close()


@pytest.fixture
def loop():
    program, port = floors.start()
    yield program, port
    program.close()


async def test_a_relay_passes_everything_on(tmp_path):
    """Of a crowd of pairs all that is sent comes, once and in order, acked, and is as large as ours."""
    relay = Relay(tmp_path, 20, 0.5, "run")
    try:
        await relay.open()
        crowd = relay.generators
        await crowd.each("flight 40 128")
        await crowd.each("wait 5000 20")
        await crowd.each("load 0 0")
        sent = (await crowd.count())["sent"]
        await crowd.each(f"wait {sent:.0f} 20")
        counts = await crowd.count("run 0.1")  # the last acks come beside their messages
        assert counts["messages"] == counts["sent"] == counts["expected"] == counts["acked"] >= 5000
        assert [counts[what] for what in ("gaps", "doubles", "errors", "failed")] == [0, 0, 0, 0]
        assert crowd.times("ack").total == crowd.times("message").total == counts["sent"]
        data = b'{"at":%d,"text":"%b"}' % (10**11, b"x" * 128)
        ours = len(our_frame("run-pairs-10", "run-pairs-11", 100, data))
        assert counts["bytes"] / counts["messages"] == pytest.approx(ours, abs=6)
    finally:
        relay.close()


@pytest.mark.parametrize("load", ["rate 500", "publish 2000", "publish 0"])
async def test_the_floor_takes_every_load(tmp_path, load):
    """inv 4: gaps, doubles and losses are errors of the measurement; it has the rate that was asked for."""
    relay = Relay(tmp_path, 20, 0.5, "run")
    try:
        await relay.open()
        took = await relay.measure(load)
    finally:
        relay.close()
    rate = float(load.partition(" ")[2])
    assert 0.5 < took["floor"] < 500
    assert took["p50"] > 0
    if rate:
        assert took["rate"] == pytest.approx(rate, rel=0.4)
    else:
        assert took["rate"] > 2000


def test_frames_that_come_in_pieces(loop):
    """Several frames in one read, and one that is cut anywhere between two: each is acked once, in order."""
    program, port = loop
    alice, bob = Client(port, "alice"), Client(port, "bob")
    assert '"user:alice":{"epoch":"' in alice.position
    one, two, three = (alice.send(number, "user:bob", "y" * 100) for number in (1, 2, 3))
    seq = 0
    for cut in (*range(1, 12), len(two) - 1):
        alice.write(one + two[:cut])
        assert re.match(r'{"t":"ack","id":1,"message":"\w{16}"}$', alice.read())
        alice.write(two[cut:] + three)
        assert [re.findall('"id":(.)', alice.read()) for _ in range(2)] == [["2"], ["3"]]
        for _ in range(3):
            seq += 1
            said = bob.read()
            assert said.startswith(f'{{"t":"message","channel":"user:bob","seq":{seq},"epoch":"')
            ours = our_frame("alice", "bob", seq, b'{"text":"%b"}' % (b"y" * 100))
            form = re.sub(r'"(epoch|ts|id|cause)":("[^"]*"|\d+)', r'"\1":_', said)
            assert form == re.sub(r'"(epoch|ts|id|cause)":("[^"]*"|\d+)', r'"\1":_', ours.decode())
            assert len(said) == len(ours)
    assert program.say("count")["short"] == 0
    alice.close()
    bob.close()


def test_nobody_gets_what_is_for_nobody(loop):
    """What is for no user who is known is acked and dropped; who comes back gets what follows."""
    program, port = loop
    alice, bob = Client(port, "alice"), Client(port, "bob")
    alice.write(alice.send(1, "user:carol") + alice.send(2, "room:x") + alice.send(3, "user:bob"))
    assert all('"t":"ack"' in alice.read() for _ in range(3))
    assert '"seq":1,' in bob.read()
    again = Client(port, "bob")
    assert '"seq":1,' in again.position
    bob.close()
    alice.write(alice.send(4, "user:bob"))
    assert '"seq":2,' in again.read()
    assert program.say("count") == {"users": 2, "acked": 4, "messages": 2, "dropped": 2, "short": 0}
    alice.close()
    again.close()


def test_a_name_too_long_is_refused(loop):
    """A user whose name has no room is hung up on; the others are served."""
    program, port = loop
    longest, longer = Client(port, "x" * 63), Client(port, "x" * 64)
    assert f'"user:{"x" * 63}"' in longest.position
    assert longer.position == ""
    longest.close()
    longer.close()
    assert program.say("count")["users"] == 1


def test_publishes_go_to_all_in_turn(loop):
    """One message each, and the next command goes on where the one before it ended."""
    program, port = loop
    clients = [Client(port, name) for name in ("alice", "bob", "carol")]
    program.say("publish 2 10")
    program.say("publish 4 10")
    for client in clients:
        assert [re.findall('"seq":(.)', client.read()) for _ in range(2)] == [["1"], ["2"]]
        client.close()
    assert program.say("count")["messages"] == 6


async def test_a_publish_is_as_large_as_ours(tmp_path):
    """A message by nobody, under no cause."""
    relay = Relay(tmp_path, 20, 0.1, "run")
    try:
        await relay.open()
        await relay.publish(math.inf)
        counts = await relay.generators.count()
        data = b'{"at":%d,"text":"%b"}' % (10**11, b"x" * 128)
        ours = len(our_frame(None, "run-pairs-10", 1000, data))
        assert counts["gaps"] == counts["doubles"] == 0
        assert counts["bytes"] / counts["messages"] == pytest.approx(ours, abs=6)
    finally:
        relay.close()


def test_a_fan_out_reaches_all(tmp_path):
    """The older floors stand: an accept, and a frame to every subscriber, by both of the kernel's ways."""
    assert 1 < floors.accept(tmp_path, 50, 1, 16) < 1000
    floor = Floor(tmp_path, 50, "send", 2)
    assert 0 < floor.send(290, 4) < 1e-3  # raises where a frame is missing
    floor.close()


def test_the_table_shows_the_floor_and_the_ratio():
    """The ratio is the median of the runs' ratios, not that of the medians."""
    rows = {f"{way.name}/{what}": [1.0, 1.0, 1.0] for way in WAYS for what in COLUMNS}
    rows[f"{WAYS[0].name}/ours"] = [60.0, 70.0, 80.0]
    rows[f"{WAYS[0].name}/floor"] = [10.0, 5.0, 20.0]
    first = next(
        line for line in table(rows, "bench", 3).splitlines() if line.startswith(f"| {WAYS[0].title} ")
    )
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert len(cells) == 12
    assert cells[4:6] == ["10.0", "6.0"]
