"""An exception that nobody expects, once in each background loop: it is counted, and everything goes on."""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

import pytest

from holdfast import records
from holdfast.app import App, Context, Message, Request
from holdfast.channel import partition_of
from holdfast.testing import Cluster

PLACES = (
    # the loop, as it is counted, and what fails in it
    ("beats", "holdfast.log.memory:MemoryLog.beat"),
    ("beats", "services.access.node:AccessNode.second"),
    ("beats", "services.access.roster:Roster.told"),
    ("routes", "holdfast.log.memory:MemoryLog.update"),
    ("routes", "services.access.joins:Joins.read"),
    ("reads", "holdfast.log.memory:MemoryLog.read"),
    ("breaks", "holdfast.log.memory:MemoryLog.changed"),
    ("timers", "services.access.subscribes:Subscribes.tick"),
    ("timers", "services.access.driver:Driver.check"),
    ("feed", "services.dispatch.feed:Feed._put"),
    ("feed", "services.dispatch.feed:Feed._flow"),
    ("ownership", "services.dispatch.links:Links.follow"),
    ("lag", "services.dispatch.feed:Feed.commit"),
    ("sweeper", "services.dispatch.sweeper:Sweeper._due"),
    ("partition", "services.dispatch.outcome:Interpreter.interpret"),
    ("state", "services.dispatch.saver:Saver._try"),
    ("nodelink", "holdfast.network:MemoryNetwork.connect"),
    ("liveness", "holdfast.log.memory:MemoryLog.beats"),
    ("consumer", "services.logic.partition:Partition.settle"),
    ("handlers", "services.logic.runner:prepare"),
    ("backlog", "holdfast.bus.memory:MemoryBus.progress"),
    ("handlers", "services.logic.gate:Gate.members"),
)


class Fails:
    """Fails as often as `left` says."""

    def __init__(self) -> None:
        self.left = 0

    def put(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        module, _, path = where.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        whole = getattr(owner, name)

        def fail() -> None:
            # Not where a service starts, or a client connects: whoever calls there is told.
            callers = {frame.function for frame in inspect.stack()[2:]}
            if self.left and not callers & {"start", "connect_client"}:
                self.left -= 1
                raise ZeroDivisionError(where)

        if inspect.iscoroutinefunction(whole):

            @functools.wraps(whole)
            async def patched(*args: Any, **more: Any) -> Any:
                fail()
                return await whole(*args, **more)

        else:

            @functools.wraps(whole)
            def patched(*args: Any, **more: Any) -> Any:
                fail()
                return whole(*args, **more)

        monkeypatch.setattr(owner, name, patched)


def handlers() -> App:
    app = App()

    @app.on("note")
    async def note(ctx: Context, message: Message[Any]) -> None:
        ctx.forward()

    @app.on_request("echo")
    async def echo(ctx: Context, request: Request[Any]) -> Any:
        return request.data

    return app


async def join(cluster: Cluster, group: str, user: str) -> None:
    producer = await cluster.embedded.parts().bus.producer(deadline=5.0)
    channel = f"group:{group}"
    record = records.encode(records.Member(channel, user, joined=True))
    producer.produce("outbound", partition_of(channel, 4), channel.encode(), record)
    await cluster.settle()
    await producer.close()


@pytest.mark.parametrize(("loop", "where"), PLACES, ids=lambda one: one)
async def test_a_loop_survives(
    loop: str, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """inv 7: twice what nobody expects, and who was there and who comes later are served all the same."""
    fails = Fails()
    fails.put(where, monkeypatch)
    async with Cluster(handlers()) as cluster:
        old = await cluster.connect("old")
        await old.subscribe("room:1")
        fails.left = 2
        await cluster.advance(3.0)
        for role in ("dispatch", "access"):
            await cluster._driving.run(cluster.embedded.add(role, f"{role}-2"), 30.0, "one more")
        await cluster.advance(3.0)
        await join(cluster, "g", "old")
        new = await cluster.connect("new", carrier="tcp")
        await new.subscribe("room:1")
        await new.send("room:1", "note", 1)
        assert (await old.receive(channel="room:1", within=30.0)).data == 1
        assert await new.request("echo", 2) == 2
        await new.send("user:old", "plain", 3)
        assert (await old.receive(channel="user:old", within=30.0)).data == 3
        await new.send("group:g", "plain", 0)  # a member or not: somebody must be asked
        await cluster.advance(40.0)
        assert not fails.left, "it was not called"
        late = await cluster.connect("late", node=1)
        await late.subscribe("room:1")
        await late.send("room:1", "plain", 4)
        for peer in (old, new, late):
            found = [(await peer.receive(channel="room:1")).data]
            while found[-1] != 4:
                found.append((await peer.receive(channel="room:1")).data)
        assert cluster.embedded.problems() == []
        counted = [
            parts.metrics.registry.get_sample_value("holdfast_loop_failures_total", {"loop": loop})
            for parts in cluster.embedded._parts
        ]
        assert sum(count or 0 for count in counted) >= 1
    assert "ZeroDivisionError" in caplog.text
