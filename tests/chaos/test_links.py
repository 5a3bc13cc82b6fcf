"""The links: who is at the other end is known, and what is cut is cut, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import pytest

from chaos.links import VIA, Cut, Links
from deploy.local.process import free_port

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")


class Place:
    """A server that answers each line with the same, behind links."""

    def __init__(self, links: Links) -> None:
        self.links = links
        self.port = free_port()
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    writer.write(line)
            writer.close()

        self.server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        await self.links.stand_before("server", self.port)

    async def call(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ends = await asyncio.open_connection(VIA, self.port)
        self.writers.append(ends[1])
        return ends


@pytest.fixture
async def place():
    links = Links(lambda: {os.getpid(): "me"})
    place = Place(links)
    await place.open()
    yield place
    for writer in place.writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    await links.close()
    place.server.close()
    await asyncio.sleep(0.05)  # the server's own transports see their ends


async def say(ends, text: bytes, seconds: float = 5.0) -> bytes:
    """Send a line and return the answer; b"" where the connection ended."""
    reader, writer = ends
    writer.write(text + b"\n")
    try:
        return await asyncio.wait_for(reader.readline(), seconds)
    except ConnectionError:
        return b""


async def test_passes_on_and_knows_who_calls(place) -> None:
    """Bytes go through in both directions, and the caller's process is known."""
    ends = await place.call()
    assert await say(ends, b"one") == b"one\n"
    assert [(link.source, link.target) for link in place.links.open_links] == [("me", "server")]


async def test_a_reset_ends_what_is_there_and_what_comes(place) -> None:
    """Reset links end, and again while they are cut; healed, new ones carry."""
    ends = await place.call()
    assert await say(ends, b"one") == b"one\n"
    place.links.cut(cut := Cut({"me"}, {"server"}, "reset"))
    assert await say(ends, b"two") == b""
    again = await place.call()
    assert await say(again, b"three") == b""
    place.links.heal(cut)
    assert await say(await place.call(), b"four") == b"four\n"


@pytest.mark.parametrize("late", [True, False])
async def test_silent_links_hold_their_bytes(place, late: bool) -> None:
    """Nothing comes while a link is silent; after it, all of it late, or the end."""
    ends = await place.call()
    assert await say(ends, b"one") == b"one\n"
    place.links.cut(cut := Cut({"me"}, {"server"}, "silent"))
    with pytest.raises(TimeoutError):
        await say(ends, b"two", 0.2)
    place.links.heal(cut, late=late)
    if late:
        assert await asyncio.wait_for(ends[0].readline(), 5.0) == b"two\n"
    else:
        assert await say(ends, b"three") == b""


async def test_others_are_left_alone(place) -> None:
    """A cut concerns the links it names."""
    place.links.cut(Cut({"you"}, {"server"}, "reset"))
    place.links.cut(Cut({"me"}, {"other"}, "reset"))
    assert await say(await place.call(), b"one") == b"one\n"


async def test_much_goes_through_unchanged(place) -> None:
    """Slow ends hold back fast ones; nothing is lost on the way."""
    reader, writer = await place.call()
    lines = [b"%d " % number + b"x" * 5000 + b"\n" for number in range(2000)]
    writer.writelines(lines)
    got = [await asyncio.wait_for(reader.readline(), 20.0) for _ in lines]
    assert got == lines
