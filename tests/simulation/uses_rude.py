"""Bad input: what nobody may, what makes no sense, and what is no record at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from holdfast import records
from holdfast.app import App, Context, Message  # noqa: TC001 - handlers are asked for their types
from holdfast.auth.issue import issue
from holdfast.channel import partition_of
from holdfast.client import Client, Closed, OutcomeUnknown
from holdfast.errors import Reject, Retry
from tests.simulation.network import HostNetwork
from tests.simulation.uses import Use

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.bus.port import Topic
    from tests.simulation.world import World

MANNERS: Final = "a handler that fails on purpose"
"""The text of an exception that is no violation."""

SENDS: Final = (
    ("group:closed", "note", "forbidden"),
    ("room:rude", "reject", "rude"),
    ("room:rude", "break", "failed"),
)
"""Sends that are acked, and refused by logic: to whom, of which type, and by which code."""

GARBAGE: Final = (b"", b"\xff\x00", b"{}", b'["?"]', b"\x93\x01\x02", b"null")


class Rude(Use):
    """Each gets a clear error, or is kept in the dead letters with the reason; none goes through (inv 11)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.process = world.loop.process("lout")
        self.client: Client | None = None
        self._acked: dict[str, str] = {}  # sends that must not go through, and the code of their refusal
        self._told: dict[str, str] = {}
        self._poison: list[tuple[str, int, int]] = []
        self._stopping = False
        self._open = 0

    def handle(self, app: App) -> None:
        @app.on("reject")
        async def reject(ctx: Context, message: Message[Any]) -> None:
            ctx.forward()
            raise Reject("rude", "no")

        @app.on("break")
        async def fail(ctx: Context, message: Message[Any]) -> None:
            ctx.forward()
            raise ValueError(MANNERS)

    def start(self) -> None:
        self.world.loop.spawn(self.process, self._live())
        self.world.loop.spawn(self.world.loop.world, self._spoil())

    def stop(self) -> None:
        self._stopping = True

    # records that are none

    async def _spoil(self) -> None:
        """Write what is no record into the queue, as anybody might who may write there."""
        kafka = self.world.kafka
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 2.0))
            if self._stopping:
                return
            partition = self.random.randrange(self.world.plan.partitions)
            topic: Topic = self.random.choice(("inbound", "outbound"))
            value = self.random.choice(GARBAGE)
            if topic == "outbound" and self.random.random() < 0.4:
                channel = self._elsewhere(partition)
                body = records.message_body(id="astray", sender=None, type="t", data=b"1")
                value = records.encode(records.Message(channel, body))
            if not kafka.down:
                place = (topic, partition, kafka.write(topic, partition, b"k", value, ()))
                self._poison.append(place)
                self.world.ledger.note(f"poison in {place}: {value!r}")
                kafka.wake()

    def _elsewhere(self, partition: int) -> str:
        """Return a channel that belongs into another partition."""
        names = (f"room:astray{number}" for number in range(100))
        return next(name for name in names if partition_of(name, self.world.plan.partitions) != partition)

    # somebody who behaves badly

    async def _live(self) -> None:
        world = self.world
        client = self.client = Client(
            "ws://ws.lb/ws",
            token=lambda: issue(world.settings.auth, "lout", world.clock.now_ms())[0],
            backoff=(0.2, 2.0),
            attempt=4.0,
            network=HostNetwork(world.net, self.process),
            clock=world.clock,
        )

        @client.on("error")
        def error(trouble: Any) -> None:
            world.ledger.note(f"lout: {trouble}")
            if trouble.id is not None:
                self._told[trouble.id] = trouble.code

        while True:
            try:
                await client.connect(timeout=60.0)
            except Retry:
                await asyncio.sleep(0.5)
            else:
                break
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 1.5))
            if self._stopping:
                return
            self._open += 1
            await self.random.choice((self._send_badly, self._ask_badly, self._shout))()
            self._open -= 1

    async def _send_badly(self) -> None:
        to, kind, code = self.random.choice(SENDS)
        await self._send(to, kind, code)

    async def _send(self, to: str, kind: str, code: str) -> str:
        """Send what is to be refused; return the id of its ack, "" where there was none."""
        assert self.client is not None
        try:
            name = await self.client.send(to, kind, {})
        except (OutcomeUnknown, Closed):
            return ""
        self._acked[name] = code
        self.world.ledger.note(f"lout: {kind} to {to} is acked as {name}")
        return name

    async def _ask_badly(self) -> None:
        client, ledger = self.client, self.world.ledger
        assert client is not None
        calls: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("bad_channel", lambda: client.subscribe("nonsense:1")),
            ("no_handler", lambda: client.request("nobody", {}, timeout=6.0)),
            ("forbidden", lambda: client.subscribe("group:closed")),
        )
        for code, call in calls:
            try:
                answer = await call()
            except Reject as reject:
                ledger.counts["refused"] += 1
                if reject.code != code:
                    ledger.violated(11, f"refused with {reject.code}, not with {code}: {reject}")
            except (TimeoutError, Closed, OutcomeUnknown, Retry) as end:
                ledger.note(f"lout: {code} ended with {end!r}")
            else:
                ledger.violated(11, f"what was to be refused with {code} was answered {answer!r}")

    async def _shout(self) -> bytes:
        """Write what is no frame; return what came back until the connection's end."""
        voice = _Voice(self.world.loop.create_future())
        network = HostNetwork(self.world.net, self.process)
        try:
            async with asyncio.timeout(10.0):
                await network.connect(lambda: voice, "tcp.lb", 80)
                await voice.ended
        except (OSError, TimeoutError) as end:
            self.world.ledger.note(f"lout: shouting ended with {end!r}")
        if voice.transport is not None:
            voice.transport.close()
        return voice.heard

    # what must be so at rest

    def sessions(self) -> list[str]:
        return []  # the lout is nobody whose presence is asked

    def unrest(self) -> str:
        if self._open:
            return "somebody is still rude"
        for topic, partition, offset in self._poison:
            if not self._kept(topic, partition, offset):
                return f"what is no record at {topic} {partition}/{offset} is in no dead letter"
        broken = [name for name, code in self._acked.items() if code == "failed"]
        if missing := [name for name in broken if name not in self.world.ledger.dead_sends]:
            return f"sends whose handler fails for good are in no dead letter: {missing}"
        return ""

    def _kept(self, topic: str, partition: int, offset: int) -> bool:
        ledger = self.world.ledger
        if topic == "outbound" and ledger.anew:
            return True  # it went with the log
        return bool(ledger.dead.get((topic, partition, offset)))

    async def judge(self) -> None:
        ledger = self.world.ledger
        names = {}
        for to, kind, code in SENDS:
            if not (name := await self._send(to, kind, code)):
                ledger.violated(11, f"a {kind} to {to} is not answered at rest")
            names[name] = code
        await self._ask_badly()
        heard = await self._shout()
        if b'"bad_frame"' not in heard:
            ledger.violated(11, f"what is no frame was answered {heard!r}")
        await asyncio.sleep(8.0)  # a handler is tried again first
        for name, code in names.items():
            if self._told.get(name) != code:
                ledger.violated(
                    11, f"{name} was to be refused with {code}, its sender heard {self._told.get(name)}"
                )
        for name, code in self._told.items():
            if self._acked.get(name, code) != code:
                ledger.violated(11, f"{name} was refused with {code}, not with {self._acked[name]}")
        for (channel, cause), count in ledger.causes.items():
            if cause in self._acked and count:
                ledger.violated(11, f"{cause} was to be refused, and is in {channel}")


class _Voice(asyncio.Protocol):
    """Says what is no frame, and listens."""

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self.ended = ended
        self.heard = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        noise = b'{"t":"connect","token":'
        transport.write(len(noise).to_bytes(4, "big") + noise)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
