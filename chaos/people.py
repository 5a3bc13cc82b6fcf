"""Who uses the cluster: people with the client library."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from chaos.links import connected
from holdfast.auth.issue import issue
from holdfast.client import Client, Closed, OutcomeUnknown, Position
from holdfast.errors import Reject, Retry
from holdfast.network import TcpNetwork
from holdfast.protocol.codes import CODES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from random import Random

    from chaos.ledger import Ledger, View
    from holdfast.settings import Auth

CROWD: Final = "room:crowd"
OPEN: Final = 64
"""Sends of one person that may be on their way; one that would be the next is not made."""
BURSTS: Final = (1, 1, 1, 4, 10)
SLOW: Final = 300
NARROW: Final = 4096
"""Bytes that the kernel keeps for who is slow: the server is to feel it."""


class NarrowNetwork(TcpNetwork):
    """Connections that take few bytes before they are read."""

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        """See `Network`."""
        end = await connected(host, port, NARROW)
        await asyncio.get_running_loop().create_connection(factory, sock=end, ssl=ssl)


class World:
    """What people share: where the cluster is, who keeps the ledger, and where notes go."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        note: Callable[[str], None],
        urls: Sequence[str],
        narrow: Sequence[str],
        apis: Sequence[str],
        api_key: str,
        auth: Auth,
        random: Random,
        tls: ssl.SSLContext | None = None,
        backoff: tuple[float, float] = (0.2, 2.0),
        attempt: float = 5.0,
    ) -> None:
        self.ledger = ledger
        self.note = note
        self.urls = urls
        self.narrow = narrow
        self.apis = apis
        self.api_key = api_key
        self.auth = auth
        self.random = random
        self.tls = tls
        self.backoff = backoff
        self.attempt = attempt
        self.going = True
        self.connects: list[float] = []
        """When somebody was connected, in seconds since the start."""

    def token(self, user: str) -> str:
        """Return a token."""
        return issue(self.auth, user, time.time_ns() // 1_000_000, ttl=7200)[0]


class Person:
    """One user: sends to `targets`, and is handed what comes. `pace`: seconds between bursts, on average.

    `slow`: seconds for which it stops reading, once in SLOW messages. `restless`: seconds after which, on
    average, it ends its program and starts it again later, with what it remembers.
    """

    def __init__(
        self,
        world: World,
        user: str,
        targets: Sequence[str],
        *,
        rooms: Sequence[str] = (),
        pace: float = 1.0,
        slow: float = 0.0,
        restless: float = 0.0,
    ) -> None:
        self.world = world
        self.user = user
        self.targets = targets
        self.rooms = rooms
        self.pace = pace
        self.slow = slow
        self.restless = restless
        self.view: View = world.ledger.view(user, prompt=not slow and not restless)
        self.client: Client | None = None
        self.connection: object | None = None  # another one for each
        self.stood: dict[str, object | None] = {}  # the connection on which a channel was entered
        self.ready = asyncio.Event()
        self._calm = asyncio.Event()
        self._programs = 0
        self._sends: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to live."""
        self._tasks = [asyncio.ensure_future(self._live())]
        if self.targets:
            self._tasks.append(asyncio.ensure_future(self._talk()))

    def calm(self) -> None:
        """Send no more, read at once, stay."""
        self.slow = self.restless = self.pace = 0.0
        self._calm.set()

    async def end(self) -> None:
        """End the program, and everything that waits for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.client is not None:
            await self._close(self.client)
        await asyncio.gather(*self._sends, return_exceptions=True)

    # programs

    async def _live(self) -> None:
        random = self.world.random
        while True:
            client = self.client = self._program()
            await self._settle_in(client)
            self.ready.set()
            if self.restless:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._calm.wait(), random.expovariate(1 / self.restless))
            if not self.restless:
                return
            self.ready.clear()
            await self._close(client)
            self.world.note(f"{self.user}: program {self._programs} ended")
            await asyncio.sleep(random.uniform(0.0, 3.0))

    async def _close(self, client: Client) -> None:
        await client.close()
        if twice := client._state.duplicates:
            self.world.ledger.violate("failed", "", f"{self.user} was sent {twice} messages twice")

    def _program(self) -> Client:
        world, view, ledger = self.world, self.view, self.world.ledger
        self._programs += 1
        client = Client(
            world.random.choice(world.narrow if self.slow else world.urls),
            token=lambda: world.token(self.user),
            client=f"{self.user}.{self._programs}",
            resume={channel: Position(epoch, seq) for channel, (epoch, seq) in view.place.items()},
            queue=10 if self.slow else 1000,
            backoff=world.backoff,
            attempt=world.attempt,
            network=NarrowNetwork() if self.slow else None,
            ssl=world.tls,
        )
        name = f"{self.user}.{self._programs}"

        @client.on("message")
        async def message(frame: Any) -> None:
            if self.slow and world.random.random() < 1 / SLOW:
                await asyncio.sleep(self.slow)
            ledger.presented(view, frame.channel, frame.epoch, frame.seq, frame.data["k"])

        @client.on("connected")
        def connected(frame: Any) -> None:
            world.note(f"{name}: connected to {frame.node} as {frame.session}")
            world.connects.append(ledger.now())
            self.connection = frame
            for channel, state in frame.channels.items():
                self._stands(channel, state.epoch, state.seq)

        @client.on("subscribed")
        def subscribed(frame: Any) -> None:
            world.note(f"{name}: subscribed to {frame.channel} at {frame.epoch} {frame.seq}")
            self._stands(frame.channel, frame.epoch, frame.seq)

        @client.on("unsubscribed")
        def unsubscribed(frame: Any) -> None:
            world.note(f"{name}: unsubscribed from {frame.channel}")
            ledger.left(view, frame.channel, "was unsubscribed")

        @client.on("reset")
        def reset(frame: Any) -> None:
            world.note(f"{name}: reset of {frame.channel} to {frame.epoch} {frame.seq}: {frame.reason}")
            ledger.reset(view, frame.channel, frame.epoch, frame.seq, frame.reason)

        @client.on("disconnected")
        def disconnected(frame: Any) -> None:
            world.note(f"{name}: disconnected, {frame.code} {frame.reason}")
            self.connection = None
            if "jumped from" in frame.reason or "without a reset" in frame.reason:
                ledger.violate("failed", "", f"{name}: {frame.reason}")  # the client's own guard held

        @client.on("error")
        def error(trouble: Any) -> None:
            text = f"{name}: {trouble.code} of {trouble.channel} {trouble.id}: {trouble.message}"
            world.note(text)
            if trouble.code == "forbidden" and trouble.channel in view.place:
                ledger.left(view, trouble.channel, "may not come back to it")
            elif not comes_back(trouble.code):
                ledger.violate("failed", trouble.channel or "", text)

        return client

    def _stands(self, channel: str, epoch: str, seq: int) -> None:
        if channel not in self.view.place:
            self.stood[channel] = self.connection
        self.world.ledger.stands(self.view, channel, epoch, seq)

    async def _settle_in(self, client: Client) -> None:
        """Connect and subscribe, however long that takes."""
        missing = [room for room in self.rooms if room not in self.view.stays]
        while True:
            try:
                await client.connect(timeout=60.0)
                while missing:
                    await client.subscribe(missing[-1])
                    missing.pop()
            except Retry as error:
                self.world.note(f"{self.user}: {error}")
                await asyncio.sleep(0.5)
            except (Reject, Closed) as error:
                self.world.ledger.violate("failed", "", f"{self.user} was refused for good: {error}")
                return
            else:
                return

    # sending

    async def _talk(self) -> None:
        world = self.world
        await self.ready.wait()
        while world.going and self.pace:
            for _ in range(world.random.choice(BURSTS)):
                if self.client is not None and len(self._sends) < OPEN:
                    task = asyncio.ensure_future(self._one(self.client, self._programs))
                    self._sends.add(task)
                    task.add_done_callback(self._sends.discard)
            await asyncio.sleep(world.random.expovariate(1 / self.pace))

    async def _one(self, client: Client, program: int) -> None:
        world, ledger = self.world, self.world.ledger
        to = world.random.choice(self.targets)
        kind = world.random.choice(("plain", "plain", "plain", "fan", "slow"))
        pad = "x" * world.random.choice((0, 200, 8000) if to == CROWD else (0, 200))
        receipt = [f"user:{self.user}"] if kind == "fan" else []
        if to in receipt:
            kind, receipt = "plain", []
        number = ledger.sent(f"{self.user}.{program}", [to, *receipt])
        try:
            ledger.acked(number, await client.send(to, kind, {"k": number, "pad": pad}))
        except (OutcomeUnknown, Closed) as error:
            ledger.unknown(number)
            if client is self.client and not isinstance(error, Closed):
                world.note(f"{self.user}: send {number}: {error}")
        except Reject as error:
            ledger.refused(number, f"{error.code}: {error}")


def comes_back(code: str) -> bool:
    """Tell whether an error only says that this connection ends, and to come back."""
    close = CODES[code].close if code in CODES else None
    return close is not None and 4000 <= close < 4100
