"""People who write to each other, as load on a local cluster: `python -m deploy.local.talk`, until Ctrl-C.

They connect through the balancer where the cluster has one, and to all access nodes in turn otherwise. Each
message of theirs is numbered, so that what is lost, doubled or out of order is seen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jwt

from deploy.local import description
from holdfast.client import Client, Closed, OutcomeUnknown
from holdfast.errors import Reject, Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPE: Final = "chat.text"
TOKEN_SECONDS: Final = 86_400


class Talk:
    """`users` people in a ring, each of whom writes `rate` messages a second to the next one.

    `about` is what cluster.json holds.
    """

    def __init__(self, about: Mapping[str, Any], *, users: int = 40, rate: float = 2.0) -> None:
        before = about.get("balancer")
        urls = (
            [before["websocket"]] if before else [n["websocket"] for n in about["nodes"] if "websocket" in n]
        )
        trusted = ssl.create_default_context(cafile=before["authority"]) if before else None
        self.acked = [0] * users
        self.got = [0] * users
        self.wrong: list[str] = []
        """What came that should not have, in words."""
        self._clients = [
            Client(
                urls[number % len(urls)],
                token=_token(about["auth_secret"], f"talk{number}"),
                backoff=(0.2, 2.0),
                ssl=trusted,
            )
            for number in range(users)
        ]
        self._pause = 1.0 / rate
        self._tasks: list[asyncio.Task[None]] = []
        self._still = asyncio.Event()

    @property
    def online(self) -> int:
        """How many have a connection now."""
        return sum(client.session is not None for client in self._clients)

    async def start(self) -> None:
        """Connect, and begin to write."""
        await asyncio.gather(*(client.connect(60.0) for client in self._clients))
        for number in range(len(self._clients)):
            self._tasks.append(asyncio.ensure_future(self._read(number)))
            self._tasks.append(asyncio.ensure_future(self._write(number)))

    async def stop(self, within: float = 60.0) -> None:
        """Fall silent, wait up to `within` seconds for what is on its way, and leave; `wrong` is complete."""
        self._still.set()
        readers, writers = self._tasks[::2], self._tasks[1::2]
        try:
            async with asyncio.timeout(within):
                await asyncio.gather(*writers)
                while any(got < sent for got, sent in zip(self.got, self._sent(), strict=True)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except (TimeoutError, Closed) as error:
            missing = sum(self._sent()) - sum(self.got)
            self.wrong.append(f"{missing} acked messages did not come within {within:g} s: {error}")
        for task in (*readers, *writers):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    def _sent(self) -> list[int]:
        """Return how many messages each one is to get."""
        return [self.acked[number - 1] for number in range(len(self.acked))]

    async def _read(self, number: int) -> None:
        sender = f"talk{(number - 1) % len(self.got)}"
        async for message in self._clients[number].messages():
            if message.type != TYPE or message.sender != sender:
                continue  # what the demo's handlers add for one's other devices
            expected = str(self.got[number])
            if message.data["text"] != expected:
                self.wrong.append(f"talk{number} got {message.data['text']} instead of {expected}")
            self.got[number] = int(message.data["text"]) + 1

    async def _write(self, number: int) -> None:
        to = f"user:talk{(number + 1) % len(self.acked)}"
        while not self._still.is_set():
            try:
                await self._clients[number].send(to, TYPE, {"text": str(self.acked[number])})
                self.acked[number] += 1
            except Retry:
                pass
            except (Reject, OutcomeUnknown) as error:
                self.wrong.append(f"talk{number} could not send: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._still.wait(), self._pause)


def _token(secret: str, user: str) -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + TOKEN_SECONDS}, secret, "HS256")


async def _run(about: Mapping[str, Any], users: int, rate: float) -> int:
    talk = Talk(about, users=users, rate=rate)
    await talk.start()
    try:
        while True:
            before = sum(talk.got)
            await asyncio.sleep(5.0)
            print(
                f"{time.strftime('%H:%M:%S')} connected {talk.online} of {users}, "
                f"{(sum(talk.got) - before) / 5.0:.0f} messages a second, wrong so far: {len(talk.wrong)}",
                flush=True,
            )
    except asyncio.CancelledError:  # Ctrl-C
        pass
    finally:
        await talk.stop()
        print(f"acked {sum(talk.acked)}, came {sum(talk.got)}, wrong: {len(talk.wrong)}", flush=True)
    for words in talk.wrong[:10]:
        print(words, file=sys.stderr)
    return 1 if talk.wrong else 0


def main() -> int:
    """Run the command line; 1: something was lost, doubled or out of order."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.talk", description="Load for a local cluster."
    )
    parser.add_argument("--dir", type=Path, default=Path("run/cluster"), help="the cluster's folder")
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--rate", type=float, default=2.0, help="messages a second of each (default: 2)")
    options = parser.parse_args()
    try:
        about = description.read(options.dir)
    except description.NoCluster as error:
        print(error, file=sys.stderr)
        return 1
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_run(about, options.users, options.rate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
