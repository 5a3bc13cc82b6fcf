"""What a connection leaves behind: nothing that only a collection of all there is would find."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, cast

from services.access.driver import Driver
from tests.access.world import World

if TYPE_CHECKING:
    from holdfast.network import MemoryTransport


async def test_closed_connections_are_freed_by_their_references() -> None:
    """inv 7: memory is bounded without the garbage collector, which hardly ever looks at everything."""
    async with World() as world:
        gc.collect()
        gc.disable()
        try:
            for number in range(3):
                client = await world.join(f"u{number}")
                (driver,) = world.node.drivers.values()
                transport = cast("MemoryTransport", driver.transport)
                del driver
                client.transport.close()
                await world.clock.settle()
                assert not world.node.drivers
                transport.protocol = asyncio.Protocol()  # as uvloop's lets go of a protocol that is over
            await world.clock.advance(60)
            left = [each for each in gc.get_objects() if isinstance(each, Driver)]
        finally:
            gc.enable()
    assert left == []
