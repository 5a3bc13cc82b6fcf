"""A group that people enter and leave, and tokens that are revoked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from holdfast.auth.issue import issue
from holdfast.client import Client, Closed
from holdfast.errors import Retry
from tests.simulation.network import HostNetwork
from tests.simulation.uses import Use

if TYPE_CHECKING:
    from tests.simulation.ledger import Memory
    from tests.simulation.people import Person
    from tests.simulation.world import World

CLUB: Final = "group:club"


class Club(Use):
    """Members get what comes while they are; who has left gets nothing more, and may come back (inv 5, 9)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        # By user: in, out, changing; or unsure: a call that was given up may be carried out later.
        self.state: dict[str, str] = {}
        self.left: set[str] = set()  # users who ever left: their places before mean nothing
        self._stopping = False
        self._busy = 0
        # Sessions that were there when they came in, and the head at that moment.
        self._since: dict[str, list[tuple[Person, Memory, str, int]]] = {}

    def start(self) -> None:
        caller = self.world.caller
        for user in sorted({person.user for person in self.world.people}):
            self.state[user] = "out"
            self.world.loop.spawn(caller.process, self._move(user))
        self.world.loop.spawn(caller.process, self._talk())

    def stop(self) -> None:
        self._stopping = True

    async def _move(self, user: str) -> None:
        world = self.world
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 4.0))
            if self._stopping:
                return
            joins = self.state[user] == "out"
            self.state[user] = "changing"
            self._since.pop(user, None)
            if not joins:
                self.left.add(user)
            there = [(person, person.session) for person in world.people if person.user == user]
            self._busy += 1
            path = f"/v1/groups/club/members/{user}"
            await world.caller.until_answered("PUT" if joins else "DELETE", path, {})
            self._busy -= 1
            if path in world.caller.given_up:
                self.state[user] = "unsure"
                self.left.add(user)
                return
            world.ledger.note(f"{user} {'is in' if joins else 'has left'} the club")
            world.ledger.counts["joined" if joins else "left"] += 1
            self.state[user] = "in" if joins else "out"
            if joins:
                head = world.ledger.known_head(CLUB)
                self._since[user] = [(one, one.memory, session, head) for one, session in there if session]

    async def _talk(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self.random.expovariate(1 / 1.5))
            await self.world.caller.say(CLUB)

    def may_refuse(self, user: str) -> bool:
        """Tell whether a user may be told that it is no member."""
        return self.state.get(user) != "in"

    def unrest(self) -> str:
        if self._busy:
            return "a change of membership is not answered"
        for person in self.world.people:
            state = self.state[person.user]
            if state != "unsure" and (state == "in") != (CLUB in person.memory.places):
                return f"{person.name} is {self.state[person.user]}, and has {person.memory.places.get(CLUB)}"
        return ""

    async def judge(self) -> None:
        world = self.world
        answer = await world.caller.until_answered("GET", "/v1/groups/club/members", None)
        found = [user for user in answer["members"] if self.state.get(user) != "unsure"]
        wanted = sorted(user for user, state in self.state.items() if state == "in")
        if found != wanted:
            world.ledger.violated(9, f"members by the API: {found}, by what was asked: {wanted}")
        body = {"channel": CLUB, "type": "note", "data": {}, "id": "the last word"}
        last = (await world.caller.until_answered("POST", "/v1/publish", body))["id"]
        await asyncio.sleep(3.0)
        for person in world.people:
            inside, heard = self.state[person.user] == "in", (CLUB, last) in person.memory.seen
            if inside and not heard:
                world.ledger.violated(4, f"{person.name} does not hear the club's last word")
            if heard and self.state[person.user] == "out":
                world.ledger.violated(5, f"{person.name} hears the club, and is no member")
        for those in self._since.values():
            for person, memory, session, before in those:
                if person.session == session and person.memory is memory:
                    world.ledger.saw_all(memory, CLUB, before)


class Visitor:
    """A program with one token, which somebody revokes."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process = world.loop.process(name)
        self.token, _ = issue(world.settings.auth, name, world.clock.now_ms(), ttl=600, jti=f"jti-{name}")
        self.ended = ""
        self.gave_up = False  # and said so, by its last event
        self.client: Client | None = None

    async def come(self) -> None:
        """Connect, and stay until it is sent away for good."""
        world = self.world
        client = self.client = Client(
            "ws://ws.lb/ws",
            token=self.token,
            backoff=(0.2, 2.0),
            attempt=4.0,
            network=HostNetwork(world.net, self.process),
            clock=world.clock,
        )

        @client.on("disconnected")
        def disconnected(frame: Any) -> None:
            world.ledger.note(f"{self.name}: disconnected, {frame.code} {frame.reason}")
            if not frame.again:
                self.ended, self.gave_up = frame.reason, True

        @client.on("error")
        def error(trouble: Any) -> None:
            world.ledger.note(f"{self.name}: error {trouble}")
            if trouble.code == "unauthorized":
                self.ended = trouble.code

        while self.client is client:
            try:
                await client.connect(timeout=60.0)
            except Retry:
                await asyncio.sleep(0.5)
            except Closed as closed:
                self.ended = closed.code
                return
            else:
                return


class Tokens(Use):
    """A revoked token ends its sessions, and begins none; those of others go on (inv 9)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._visitors: list[Visitor] = []
        self._revoked: list[Visitor] = []

    def start(self) -> None:
        self._visitors = [Visitor(self.world, f"visitor-{number}") for number in range(4)]
        for visitor in self._visitors:
            self.world.loop.spawn(visitor.process, visitor.come())
        self.world.loop.spawn(self.world.caller.process, self._revoke(self._visitors[0], by_token=True))
        self.world.loop.spawn(self.world.caller.process, self._revoke(self._visitors[1], by_token=False))

    async def _revoke(self, visitor: Visitor, *, by_token: bool) -> None:
        await asyncio.sleep(self.random.uniform(0.0, self.world.plan.seconds))
        body: dict[str, Any] = {"jti": _jti(visitor.token)} if by_token else {"user": visitor.name}
        if not by_token:
            # Tokens tell their time in seconds, and the clocks of nodes differ.
            body["before"] = self.world.clock.now_ms() + 2000
        await self.world.caller.until_answered("POST", "/v1/tokens/revoke", body)
        self.world.ledger.note(f"{visitor.name} is revoked")
        self.world.ledger.counts["revoked"] += 1
        self._revoked.append(visitor)

    def unrest(self) -> str:
        if len(self._revoked) < 2:
            return "a token is not revoked yet"
        for visitor in self._visitors:
            there = visitor.client is not None and visitor.client.session is not None
            if visitor in self._revoked and (there or "unauthorized" not in visitor.ended):
                return f"{visitor.name} is still there, though its token was revoked"
            if visitor in self._revoked and not visitor.gave_up:
                return f"{visitor.name} was not told that it is over"
            if visitor not in self._revoked and not there:
                return f"{visitor.name} is not connected"
        return ""

    async def judge(self) -> None:
        for visitor in self._visitors:
            if visitor not in self._revoked and visitor.ended:
                self.world.ledger.violated(11, f"{visitor.name} was sent away: {visitor.ended}")
        for visitor in self._revoked:
            again = Visitor(self.world, f"{visitor.name}-again")
            again.token = visitor.token
            self.world.loop.spawn(again.process, again.come())
            await asyncio.sleep(3.0)
            if "unauthorized" not in again.ended:
                text = f"{visitor.name} came back with a revoked token"
                self.world.ledger.violated(9, text)


def _jti(token: str) -> str:
    import base64
    import json

    body = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["jti"])
