"""A cluster in memory, of two access nodes, and an operator beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.app import App
from holdfast.testing import Cluster
from tests.commands.world import Operator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def operator(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Operator]:
    """Two access nodes, one logic, two dispatchers, and who looks at them.

    The handlers: `fail` fails until `operator.works`, `count` answers in another channel, `slow` takes 5 s.
    """
    app = App()
    async with Cluster(app, access=2, dispatch=2) as cluster:
        operator = Operator(cluster, capsys)

        @app.on("fail")
        async def fail(ctx, message):
            if not operator.works:
                raise KeyError("price\x1b[31m")
            ctx.forward()

        @app.on("count")
        async def count(ctx, message):
            ctx.publish("room:counts", "counted", len(message.data))

        @app.on("slow")
        async def slow(ctx, message):
            await cluster.clock.sleep(5.0)
            ctx.forward()

        yield operator
