"""Programs that call the HTTP API: they publish, make people members of groups, and read logs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from holdfast.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from chaos.people import World


class Caller:
    """Programs that call the HTTP API: the next logic process where one does not answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._turn = 0
        self._session: aiohttp.ClientSession | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, publishers: int, targets: Sequence[str], pace: float) -> None:
        """Publish to the targets, from so many programs, each after `pace` seconds on average."""
        for number in range(publishers):
            self.run(self._publish(f"api-{number}", targets, pace))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what ends by itself once the world is not going any more."""
        self._tasks.append(asyncio.ensure_future(work))

    async def finish(self) -> None:
        """Wait for the calls that are under way. The world is not going any more."""
        await asyncio.gather(*self._tasks)

    async def end(self) -> None:
        """Break off everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def join(self, group: str, users: Sequence[str]) -> None:
        """Make users members of a group."""
        for user in users:
            await self.change("PUT", group, user)

    async def change(self, method: str, group: str, user: str) -> bool:
        """Let a user join (PUT) or leave (DELETE) a group. False: not the first call was answered.

        What was given up may be carried out later, also after a later call.
        """
        given_up: list[str] = []
        answer = await self.until_answered(method, f"/v1/groups/{group}/members/{user}", {}, given_up)
        if (user in answer["members"]) != (method == "PUT"):
            text = f"{method} of {user} is answered with {answer['members']}"
            self.world.ledger.violate("failed", f"group:{group}", text)
        return not given_up

    async def members(self, group: str) -> list[str]:
        """Return who is in a group."""
        answer: dict[str, list[str]] = await self.until_answered("GET", f"/v1/groups/{group}/members")
        return answer["members"]

    async def history(self, channel: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the epoch of a channel and all its messages, as (seq, number)."""
        entries: list[tuple[int, int]] = []
        while True:
            after = entries[-1][0] if entries else 0
            path = f"/v1/channels/{channel}/messages?after={after}&limit=1000"
            answer = await self.until_answered("GET", path)
            if not answer["messages"]:
                return answer["epoch"], entries
            entries += [(message["seq"], message["data"]["k"]) for message in answer["messages"]]

    async def _publish(self, source: str, targets: Sequence[str], pace: float) -> None:
        world = self.world
        while world.going:
            await asyncio.sleep(world.random.expovariate(1 / pace))
            await self.say(source, world.random.choice(targets))

    async def say(self, source: str, channel: str) -> None:
        """Publish one message, however long that takes."""
        ledger = self.world.ledger
        number = ledger.sent(source, [channel])
        body = {"channel": channel, "type": "note", "data": {"k": number}, "id": f"{source}/{number}"}
        try:
            answer = await self.until_answered("POST", "/v1/publish", body)
        except Reject as error:
            ledger.refused(number, str(error))
        else:
            ledger.acked(number, answer["id"])

    async def until_answered(
        self, method: str, path: str, body: Any = None, given_up: list[str] | None = None
    ) -> Any:
        """Call until there is an answer; `given_up` takes what had none. Raises Reject for a wrong call."""
        while True:
            try:
                status, answer = await self._call(method, path, body)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                why = f"{type(error).__name__} {error}"
            else:
                if status == 200:
                    return answer
                if status < 503:
                    raise Reject("api", f"{method} {path} {body}: {status} {answer}")
                why = f"{status} {answer}"
            self.world.note(f"{method} {path}: {why}")
            if given_up is not None:
                given_up.append(why)
            self._turn += 1
            await asyncio.sleep(self.world.random.uniform(0.1, 0.5))

    async def _call(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self.world.api_key}"},
                timeout=aiohttp.ClientTimeout(total=8.0),
                connector=aiohttp.TCPConnector(ssl=self.world.tls or True),
            )
        url = self.world.apis[self._turn % len(self.world.apis)] + path
        async with self._session.request(method, url, json=body) as answer:
            return answer.status, await answer.json(content_type=None)
