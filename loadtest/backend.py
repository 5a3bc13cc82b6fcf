"""What a customer's backend does: publish over the API, on a schedule that does not wait, and make groups."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtest.target import Target

AT_ONCE = 64
"""Requests without an answer, at most; above it the schedule is behind, which the times show."""


class Backend:
    """Calls of the API, over all of its addresses in turn."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._turn = 0
        self._limit = asyncio.Semaphore(AT_ONCE)
        self.published = 0
        self.refused = 0

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(headers=self._target.headers())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def _api(self) -> str:
        self._turn += 1
        apis = self._target.apis
        return apis[self._turn % len(apis)]

    async def join(self, memberships: Iterable[tuple[str, str]]) -> None:
        """Make users members of groups. Raises aiohttp.ClientError where one cannot be made."""

        async def put(group: str, user: str) -> None:
            async with (
                self._limit,
                self._http.put(f"{self._api()}/v1/groups/{group}/members/{user}") as answer,
            ):
                answer.raise_for_status()

        await asyncio.gather(*(put(group, user) for group, user in memberships))

    async def publish(
        self, users: Sequence[str], *, rate: float, seconds: float, batch: int, size: int
    ) -> None:
        """Publish to users in turn: a request of `batch` messages whenever one is due, answered or not.

        With an infinite rate one is due whenever fewer than `AT_ONCE` are without an answer.
        """
        begin, done = time.monotonic(), 0
        total: float = math.inf if rate == math.inf else int(rate * seconds)
        text = "x" * size
        posts: set[asyncio.Task[None]] = set()
        while done < total:
            await self._limit.acquire()
            due = begin + done / rate
            if rate == math.inf:
                due = time.monotonic()
                if due >= begin + seconds:
                    total = done + batch  # the last one
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            count = int(min(batch, total - done))
            at = int(due * 1_000_000)  # before it is made: what the generator is late by counts as well
            messages = [
                (f"user:{users[(done + number) % len(users)]}", {"at": at, "text": text})
                for number in range(count)
            ]
            done += count
            post = asyncio.create_task(self._post(messages))
            posts.add(post)
            post.add_done_callback(posts.discard)
        await asyncio.gather(*posts)

    async def _post(self, messages: list[tuple[str, dict[str, object]]]) -> None:
        path, request = self._target.publishing(messages)
        try:
            async with self._http.post(self._api() + path, json=request) as answer:
                body = await answer.json()
                if answer.status != 200:
                    self.refused += len(messages)
                    return
                good = self._target.taken(body)
                self.published += good
                self.refused += len(messages) - good
        except aiohttp.ClientError:
            self.refused += len(messages)
        finally:
            self._limit.release()
