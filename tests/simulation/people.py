"""Who uses the simulated cluster: people with the client library, and a program that calls the HTTP API."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.app import App, Context, Message
from holdfast.auth.issue import issue
from holdfast.client import Client, Closed, OutcomeUnknown
from holdfast.errors import Reject, Retry
from holdfast.protocol.codes import CODES
from tests.simulation.ledger import Memory, Sent
from tests.simulation.loop import SimClock
from tests.simulation.network import HostNetwork

if TYPE_CHECKING:
    from tests.simulation.world import World

ROOM: Final = "room:live"
GROUP: Final = "team"
BURSTS: Final = ((1, 0.0), (1, 0.0), (4, 0.0), (12, 0.004), (20, 0.1))
"""How many sends in a row, and how far apart (s): some are on their way when others fail."""


def handlers(world: World) -> App:
    """Return the handlers: one that fans out, one that fails a few times first."""
    app = App()
    for use in world.uses:
        use.handle(app)
    failed: Counter[str] = Counter()

    @app.on("fan")
    async def fan(ctx: Context, message: Message[Any]) -> None:
        # Where a backlog is felt, handlers are slow enough for one.
        await asyncio.sleep(world.draws.choice((0.0, 0.3, 1.0) if world.plan.backlog else (0.0, 0.001, 0.3)))
        ctx.forward()
        ctx.publish(f"user:{ctx.user}", "receipt", message.data)

    @app.on("fail")
    async def fail(ctx: Context, message: Message[Any]) -> None:
        if failed[message.id] < 2 and world.draws.random() < 0.5:
            failed[message.id] += 1
            raise Retry("later")
        ctx.forward()

    return app


class Person:
    """One user with one device: sends, receives, restarts its program, and forgets what it knew."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"phone-{number}"
        self.user = f"u{(number + 1) // 2}"  # two devices of most users
        self.random = Random(f"{world.plan.seed}/{self.name}")
        self.process = world.loop.process(self.name)
        self.clock = SimClock(world.loop, self.random.randrange(-500, 500))
        self.memory = Memory(self.name)
        self.client: Client | None = None
        self.slow = 0.0
        self.open = 0
        self.held_until = 0.0  # it stood still, or took its time
        self._programs = 0
        self._sent = 0
        self._ready = asyncio.Event()
        self._restarting = asyncio.Lock()
        self._stopping = False

    @property
    def session(self) -> str:
        """The session it has now, "" where it has none."""
        return self.client.session.session if self.client and self.client.session else ""

    def start(self) -> None:
        spawn = self.world.loop.spawn
        spawn(self.process, self._program())
        spawn(self.process, self._send())
        spawn(self.process, self._asides())

    def was_held(self, since: float) -> bool:
        """Tell whether it stood still after this time, or does."""
        return self.process.paused or self.held_until >= since or bool(self.slow)

    # programs

    async def _program(self) -> None:
        world = self.world
        self._programs += 1
        carrier, path = self.random.choice((("ws", "/ws"), ("ws", "/ws"), ("tcp", "")))
        self.client = client = Client(
            f"{carrier}://{carrier}.lb{path}",
            token=self._token,
            client=f"{self.name}.{self._programs}",
            device="phone",
            resume=self._resume(),
            queue=self.random.choice((4, 100)),
            backoff=(0.2, 2.0),
            attempt=4.0,
            network=HostNetwork(world.net, self.process),
            clock=self.clock,
            random=Random(self.random.random()),
        )
        memory, ledger = self.memory, world.ledger

        @client.on("message")
        async def message(frame: Any) -> None:
            if self.slow:
                await asyncio.sleep(self.slow)
            ledger.presented(memory, frame.channel, frame.epoch, frame.seq, frame.id)

        @client.on("connected")
        def connected(frame: Any) -> None:
            ledger.note(f"{self.name}: connected to {frame.node} as {frame.session}")
            world.connected(frame.session, frame.node)
            for name, state in frame.channels.items():
                ledger.began(memory, name, state.epoch, state.seq, recovered=state.recovered)

        @client.on("subscribed")
        def subscribed(frame: Any) -> None:
            ledger.note(f"{self.name}: subscribed to {frame.channel} at {frame.seq}")
            ledger.began(memory, frame.channel, frame.epoch, frame.seq, recovered=frame.recovered)

        @client.on("unsubscribed")
        def unsubscribed(frame: Any) -> None:
            ledger.note(f"{self.name}: unsubscribed from {frame.channel}")
            memory.places.pop(frame.channel, None)

        @client.on("reset")
        def reset(frame: Any) -> None:
            ledger.reset(memory, frame.channel, frame.epoch, frame.seq, frame.reason)

        @client.on("disconnected")
        def disconnected(frame: Any) -> None:
            ledger.note(f"{self.name}: disconnected, {frame.code} {frame.reason}")
            if "jumped from" in frame.reason or "without a reset" in frame.reason:
                ledger.violated(4, f"{self.name}: {frame.reason}")  # the client's own guard held
            if not frame.again and frame.code != CODES["connect_first"].close:
                ledger.violated(0, f"{self.name} gave up: {frame.code} {frame.reason}")

        @client.on("error")
        def error(trouble: Any) -> None:
            world.trouble(self.name, trouble)

        while self.client is client:
            try:
                await client.connect(timeout=60.0)
                for room in world.rooms:
                    if room not in memory.places:
                        await client.subscribe(room)
            except (Retry, Reject) as again:
                ledger.note(f"{self.name}: {again}")
                await asyncio.sleep(0.5)
            except Closed as closed:
                if self.client is client:
                    ledger.violated(0, f"{self.name}: closed for good: {closed}")
                return
            else:
                self._ready.set()
                return

    def _resume(self) -> dict[str, Any]:
        from holdfast.client import Position

        return {name: Position(epoch, seq) for name, (epoch, seq) in self.memory.places.items()}

    def _token(self) -> str:
        return issue(self.world.settings.auth, self.user, self.clock.now_ms(), device="phone", ttl=600)[0]

    async def restart(self, *, forget: bool) -> None:
        """End the program and start it again, with what it remembers or without."""
        async with self._restarting:  # a client takes its time to close: one program at a time
            self.check()
            client, self.client = self.client, None
            self._ready.clear()
            if client is not None:
                await client.close()
            if forget:
                self.memory = Memory(f"{self.name}.{self._programs}")
                self.world.memories.append(self.memory)
        await self._program()

    def check(self) -> None:
        """Check what the client library has silently put right."""
        if self.client is not None and self.client._state.duplicates:
            self.world.ledger.violated(4, f"{self.name} was sent messages twice")

    # sending

    async def _asides(self) -> None:
        """Subscribe to channels of its own at about the time at which the only message comes there."""
        world = self.world
        for number in range(3):
            await asyncio.sleep(self.random.uniform(0.2, world.plan.seconds / 3))
            client = self.client
            if client is None or client.session is None or self._stopping:
                continue
            channel = f"room:{self.name}.{number}"
            world.loop.spawn(world.caller.process, world.caller.say(channel))
            await asyncio.sleep(self.random.uniform(0.0, 12.0) * world.plan.latency)
            try:
                await client.subscribe(channel)
            except (Retry, Reject, Closed) as error:
                world.ledger.note(f"{self.name}: {channel}: {error}")

    async def _send(self) -> None:
        plan = self.world.plan
        pace = plan.seconds / max(plan.sends, 1)
        await self._ready.wait()
        while self._sent < plan.sends and not self._stopping:
            many, pause = self.random.choice(BURSTS)
            for _ in range(many):
                self._sent += 1
                self.world.loop.spawn(self.process, self._one(f"{self.name}#{self._sent}"))
                if pause:
                    await asyncio.sleep(pause * self.random.random())
            await asyncio.sleep(self.random.expovariate(1 / pace))

    def stop(self) -> None:
        self._stopping = True

    async def _one(self, key: str) -> None:
        world, client = self.world, self.client
        if client is None:
            return
        other = f"user:u{self.random.randint(1, (world.plan.people + 1) // 2)}"
        choices = [ROOM, other, ROOM]
        if self.user in world.members:
            choices.append(f"group:{GROUP}")
        to = self.random.choice(choices)
        kind = self.random.choice(("plain", "plain", "fan", "fail"))
        expected = Counter({to: 1})
        if kind == "fan":
            expected[f"user:{self.user}"] += 1
        sent = Sent(self.user, f"{self.name}.{self._programs}", expected)
        world.ledger.send(key, sent)
        self.open += 1
        try:
            message = await client.send(to, kind, {"key": key, "pad": "x" * self.random.choice((0, 0, 900))})
            world.ledger.acked(key, message)
        except (OutcomeUnknown, Closed):
            sent.state = "unknown"
        except Reject as reject:
            sent.state = "refused"
            world.ledger.violated(11, f"{key} to {to} was refused: {reject.code}, {reject}")
        finally:
            self.open -= 1


class Caller:
    """A program that publishes by the HTTP API, again and again until it is answered, and makes groups."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = Random(f"{world.plan.seed}/caller")
        self.process = world.loop.process("caller")
        self.network = HostNetwork(world.net, self.process)
        self.open = 0
        self.given_up: set[str] = set()  # paths of calls that may still be carried out, at any time

    def start(self) -> None:
        self.world.loop.spawn(self.process, self._publish())
        self.world.loop.spawn(self.process, self._watch())
        for number in range(1, (self.world.plan.people + 1) // 2 + 1):
            self.world.loop.spawn(self.process, self._join(f"u{number}"))

    async def _publish(self) -> None:
        plan = self.world.plan
        pace = plan.seconds / max(plan.publishes, 1)
        for number in range(plan.publishes):
            await asyncio.sleep(self.random.expovariate(1 / pace))
            self.world.loop.spawn(self.process, self._one(f"api#{number}"))

    async def say(self, channel: str) -> None:
        """Publish once, without a key: whether it was is not known unless it is answered."""
        body = {"channel": channel, "type": "note", "data": {}}
        try:
            status, answer = await asyncio.wait_for(self.call("POST", "/v1/publish", body), 8.0)
        except (OSError, TimeoutError):
            return
        if status == 200:
            self.world.ledger.answered(channel, "", answer["id"])

    async def _one(self, key: str) -> None:
        channel = self.random.choice((ROOM, "user:u1", f"group:{GROUP}"))
        if self.random.random() < 0.4:
            await self.say(channel)
            return
        body = {"channel": channel, "type": "note", "data": {"key": key}, "id": key}
        answer = await self.until_answered("POST", "/v1/publish", body)
        if answer is not None:
            self.world.ledger.answered(channel, key, answer["id"])

    async def _join(self, user: str) -> None:
        world = self.world
        await asyncio.sleep(self.random.choice((0.0, self.random.uniform(0.0, world.plan.seconds / 2))))
        there = [(person, person.session) for person in world.people if person.user == user]
        if await self.until_answered("PUT", f"/v1/groups/{GROUP}/members/{user}", {}) is not None:
            world.members.add(user)
            world.ledger.note(f"{user} is a member")
            world.joined += [
                (person, person.memory, session, world.ledger.known_head(f"group:{GROUP}"))
                for person, session in there
                if session
            ]

    async def _watch(self) -> None:
        world = self.world
        while not world.healing:
            await asyncio.sleep(self.random.uniform(0.5, 3.0))
            user = f"u{self.random.randint(1, (world.plan.people + 1) // 2)}"
            asked = world.loop.now
            try:
                status, answer = await asyncio.wait_for(self.call("GET", f"/v1/users/{user}/presence"), 3.0)
            except (OSError, TimeoutError):
                continue
            if status == 200:
                world.online(asked, [session["session"] for session in answer["sessions"]])

    async def until_answered(self, method: str, path: str, body: Any) -> Any:
        """Call until it is answered; return the answer, None (a violation) where the call is wrong."""
        self.open += 1
        try:
            while True:
                try:
                    status, answer = await asyncio.wait_for(self.call(method, path, body), 8.0)
                except (OSError, TimeoutError):
                    status, answer = 0, None
                    self.given_up.add(path)
                if status == 200:
                    return answer
                if status == 503 and "outcome is unknown" in answer["detail"]:
                    self.given_up.add(path)  # what its producer gave up may be written later
                if 400 <= status < 500 or status == 500:
                    self.world.ledger.violated(11, f"{method} {path} was answered {status} {answer}")
                    return None
                await asyncio.sleep(self.random.uniform(0.2, 1.0))
        finally:
            self.open -= 1

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Make one call over a connection of its own. Raises OSError when it breaks."""
        protocol = _Http(self.world.loop.create_future())
        data = b"" if body is None else msgspec.json.encode(body)
        await self.network.connect(lambda: protocol, "api.lb", 80)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer simulated\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        assert protocol.transport is not None
        protocol.transport.write(head.encode() + data)
        return await protocol.answer


class _Http(asyncio.Protocol):
    """One answer of HTTP/1.1 that says how long it is."""

    def __init__(self, answer: asyncio.Future[tuple[int, Any]]) -> None:
        self.answer = answer
        self.transport: Any = None
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found or self.answer.done():
            return
        lines = head.decode().split("\r\n")
        length = next(
            (int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")), 0
        )
        if len(rest) >= length:
            self.answer.set_result((int(lines[0].split()[1]), msgspec.json.decode(rest or b"null")))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the connection ended before the answer"))
