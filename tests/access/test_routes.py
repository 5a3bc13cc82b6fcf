"""What a node writes of its routes, and whom it tells that they are recorded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from holdfast.clock import ManualClock
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import Change
from holdfast.observe.metrics import Metrics
from services.access.routes import Routes
from services.access.turns import Turns

if TYPE_CHECKING:
    import pytest


async def test_one_call_that_raises_is_told_and_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """inv 7, 11: whoever waits beside it hears of the record at once, and nothing is written again for it."""
    clock, metrics, store = ManualClock(), Metrics(), MemoryStore(1)
    wrote: list[int] = []
    routes = Routes(
        MemoryLog(store, {}, clock),
        clock,
        metrics,
        Turns(clock, metrics),
        incarnation="a-1",
        everything=lambda _: [Change("+r", "room:a")],
        on_rewritten=wrote.append,
        on_fenced=lambda _: None,
    )
    told: list[str] = []

    def fails() -> None:
        raise RuntimeError("nobody expects this")

    routes.change(0, Change("+r", "room:a"), lambda: told.append("before"))
    routes.change(0, Change("+r", "room:b"), fails)
    routes.change(0, Change("+r", "room:c"), lambda: told.append("after"))
    with caplog.at_level(logging.ERROR):
        await clock.advance(0.05)
    assert told == ["before", "after"]
    assert wrote == []
    assert metrics.loop_failures.labels("routes")._value.get() == 1
    assert "nobody expects this" in caplog.text
    assert sorted(store.shards[0].nodes.route("room:c")) == ["a-1"]
    assert routes.idle
    routes.stop()
