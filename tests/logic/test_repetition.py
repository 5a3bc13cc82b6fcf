"""What is said again appears once: publishes by key, sends of two connections, numbers used twice."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import records
from holdfast.app import App
from holdfast.auth import Verifier
from holdfast.bus.memory import MemoryBus
from holdfast.errors import Retry
from holdfast.log.port import Outcome
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.settings import Logic
from services.logic.api import Api
from services.logic.api.context import Call
from services.logic.api.publish import publish
from tests.logic.world import FaultyProducer, World

if TYPE_CHECKING:
    from collections.abc import Coroutine

searched = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def done(world: World, work: Coroutine[Any, Any, Any]) -> Any:
    """Let time pass until this is done."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await world.clock.advance(0.05)
    return task.result()


def api_of(world: World, producer: Any) -> Api:
    return Api(
        settings=world.settings,
        policies=world.policies,
        clock=world.clock,
        log=world.log,
        directory=MemoryDirectory(MemoryRegistry()),
        metrics=world.metrics,
        reader=world.reader,
        producer=producer,
        bus=MemoryBus(world.broker),
        outbound=world.backlog,
        alive=lambda _: True,
        verify=Verifier(world.settings.auth).verify,
    )


@searched
@given(
    seed=st.integers(0, 2**32),
    chance=st.sampled_from([0.0, 0.3, 0.7]),
    calls=st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["room:a", "user:b"])), min_size=1, max_size=4),
        max_size=8,
    ),
)
async def test_publishes_by_key(seed, chance, calls):
    """inv 1, 3: whatever fails and is called again, a key is one message in its channel."""
    world = World(seed=seed)
    apis = [api_of(world, FaultyProducer(world.broker, Random(seed + n), chance)) for n in range(2)]
    names: dict[tuple[int, str], set[str]] = {}

    async def once(api: Api, call: list[tuple[int, str]]) -> bool:
        messages = [{"channel": to, "type": "t", "data": key, "id": f"k{key}"} for key, to in call]
        try:
            answer = await publish(api, Call({}, None, msgspec.json.encode({"messages": messages})))
        except Retry:
            return False
        results = answer.results  # type: ignore[union-attr]
        for (key, to), result in zip(call, results, strict=True):
            if result.id is not msgspec.UNSET:
                names.setdefault((key, to), set()).add(result.id)
        return all(result.id is not msgspec.UNSET for result in results)

    random = Random(seed)
    for call in calls:
        for _ in range(200):
            if await done(world, once(random.choice(apis), call)):
                break
        await world.apply()
    for channel in ("room:a", "user:b"):
        said = await world.channel(channel)
        wanted = {key for call in calls for key, to in call if to == channel}
        assert sorted(m["data"] for m in said) == sorted(wanted)
        assert all(names[m["data"], channel] == {m["id"]} for m in said)


@searched
@given(
    seed=st.integers(0, 2**32),
    chance=st.sampled_from([0.0, 0.3]),
    backs=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=6),
)
async def test_two_connections_with_one_client(seed, chance, backs):
    """inv 12: a second connection sends again what the first did: each `n` appears once, in order."""
    app = App()

    @app.on("both")
    async def both(ctx, message):
        await world.clock.sleep(random.uniform(0, 0.02))
        ctx.publish("room:copy", "copy", message.n)
        ctx.forward()
        if random.random() < 0.2:
            raise Retry("by chance")

    random = Random(seed)
    world = World(app, seed=seed, chance=chance, logic=Logic(backoff=0.02, retries=50))
    await world.start()
    newest = 0
    kinds: dict[int, str] = {}
    for ahead, back in [*backs, (1, 0)]:
        for n in range(max(newest - back, 0) + 1, newest + ahead + 1):
            world.send("ann", n, "room:r", kinds.setdefault(n, random.choice(("both", "plain"))), n)
            await world.clock.advance(random.uniform(0, 0.03))
        newest += ahead
    world.producers[0].chance = 0.0
    await world.clock.advance(30)
    await world.apply()
    assert [m["data"] for m in await world.channel("room:r")] == list(range(1, newest + 1))
    copies = [n for n in range(1, newest + 1) if kinds[n] == "both"]
    assert [m["data"] for m in await world.channel("room:copy")] == copies
    assert world.letters() == []
    await world.stop()


async def test_a_number_used_for_another_content():
    """inv 12: logic passes it on with the content's sum; the shard keeps the first and names the second."""
    world = World()
    outcomes: list[Outcome] = []
    apply = world.log.apply

    async def noted(shard: int, batch: Any) -> Any:
        answer = await apply(shard, batch)
        outcomes.extend(placed.outcome for placed in answer.placed)
        return answer

    world.log.apply = noted  # type: ignore[method-assign]
    await world.start()
    world.send("ann", 1, "room:r", data="one")
    world.send("ann", 1, "room:r", data="one")
    world.send("ann", 1, "room:r", data="other")
    await world.clock.advance(1)
    await world.apply()
    assert [m["data"] for m in await world.channel("room:r")] == ["one"]
    assert outcomes == [Outcome.DONE, Outcome.SKIPPED, Outcome.REUSED]
    assert len({message.score for message in world.outbound(records.Message)}) == 1
    await world.stop()
