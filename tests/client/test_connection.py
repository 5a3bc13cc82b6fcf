"""One connection of the client, on a transport that does what the test says."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.client.carriers import TcpCarrier
from holdfast.client.connection import Connection, End
from holdfast.clock import ManualClock


class Transport(asyncio.Transport):
    """Goes only when it is cut off, as TLS does whose peer says no goodbye."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.did: list[str] = []
        self._connection = connection
        connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def close(self) -> None:
        self.did.append("close")

    def abort(self) -> None:
        self.did.append("abort")
        asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


@pytest.fixture
async def connection():
    return Connection(TcpCarrier(), on_open=lambda: None, on_frames=lambda frames: None)


async def test_who_says_goodbye_is_waited_for(connection: Connection) -> None:
    """It is over when the transport is gone, and then at once."""
    clock, transport = ManualClock(), Transport(connection)
    connection.drop(End(1000, "closed"))
    ending = asyncio.ensure_future(connection.goodbye(clock, 1.0))
    await clock.advance(0.9)
    assert not ending.done()
    connection.connection_lost(None)
    await clock.settle()
    assert ending.done()
    await connection.goodbye(clock, 1.0)
    assert transport.did == ["close"]


async def test_who_says_no_goodbye_is_cut_off(connection: Connection) -> None:
    """inv 7: a program that closes its client does not wait for ever."""
    clock, transport = ManualClock(), Transport(connection)
    connection.drop(End(1000, "closed"))
    ending = asyncio.ensure_future(connection.goodbye(clock, 1.0))
    await clock.advance(1.0)
    await ending
    assert transport.did == ["close", "abort"]


async def test_what_never_was_is_not_waited_for(connection: Connection) -> None:
    """A connection that was never made has nothing to say goodbye to."""
    connection.drop(End(0, "refused"), dead=True)
    await connection.goodbye(ManualClock(), 1.0)
