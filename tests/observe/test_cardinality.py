"""How many series a process has is known beforehand, whoever connects and whatever they send."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, get_args

import aiohttp
import pytest

from holdfast.app import App, Context, Message
from holdfast.bus.port import TOPICS
from holdfast.errors import HoldfastError
from holdfast.membership.port import Role
from holdfast.observe.metrics import TABLE, Metrics
from holdfast.protocol.codes import CODES
from holdfast.settings import Settings
from holdfast.testing import Cluster
from services.embedded.cluster import Embedded, ready_settings
from services.logic.api.routes import ROUTES
from tests.access.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST: Final = 40
"""Values of one label, at most; only `partition` grows, with a setting."""


def series(registries: Iterable[Metrics]) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Return every series: its name, and its labels with their values."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for metrics in registries
        for family in metrics.registry.collect()
        for sample in family.samples
    }


async def traffic(cluster: Cluster, first: int, count: int) -> None:
    """Let new users do what users do, right and wrong, under names that nobody had before."""
    for number in range(first, first + count):
        user = f"user-{number}"
        carrier = ("websocket", "tcp")[number % 2]
        peer = await cluster.connect(
            user, device=f"device-{number}", client=f"client-{number}", carrier=carrier
        )
        await peer.subscribe(f"room:{number}")
        for kind in (f"type-{number}", "refuse", "echo"):
            await peer.send(f"room:{number}", kind, f"data-{number}")
        for channel in (f"nokind{number}:x", f"{number}"):
            with contextlib.suppress(HoldfastError):
                await peer.send(channel, "text")
            with contextlib.suppress(HoldfastError):
                await peer.subscribe(channel)
        with contextlib.suppress(HoldfastError):
            await peer.request(f"unknown-{number}")
        await cluster.publish(f"user:{user}", f"type-{number}", number, id=f"id-{number}")
        await peer.receive(channel=f"user:{user}")
        await peer.unsubscribe(f"room:{number}")
        await peer.close()


async def test_series_do_not_grow_with_what_clients_do() -> None:
    """Two users make all the series that six other ones make."""
    app = App()

    @app.on("echo")
    async def echo(ctx: Context, message: Message[str]) -> None:
        ctx.publish(f"user:{message.user}", "echo", message.data)

    @app.on("refuse")
    async def refuse(ctx: Context, message: Message[str]) -> None:
        raise ValueError(message.data)

    async with Cluster(app) as cluster:
        metrics = [parts.metrics for parts in cluster.embedded._parts]
        await traffic(cluster, 0, 2)
        await cluster.advance(5)
        before = series(metrics)
        await traffic(cluster, 100, 6)
        await cluster.advance(5)
        after = series(metrics)
    assert after == before
    values: dict[tuple[str, str], set[str]] = {}
    for name, labels in after:
        for label, value in labels:
            values.setdefault((name, label), set()).add(value)
    for (name, label), found in values.items():
        assert len(found) <= MOST, (name, label)


async def garbage(world: World, number: int) -> None:
    """Be refused, and then say what there is no name for, by names that nobody had before."""
    stranger = await world.open()
    stranger.send(t="connect", token=f"no token {number}")
    await world.clock.settle()
    client = await world.join(f"u{number}", tcp=False)
    client.send(t=f"frame-{number}", id=number)
    client.send(t="send", id=f"i{number}", n=1, to=f"x{number}:y", type=f"t{number}")
    await world.clock.settle()
    client.transport.write(client._codec.close(3000 + number, f"reason {number}"))
    await client.gone()


async def test_series_do_not_grow_with_frames_that_are_none() -> None:
    """Frames with any `t`, closes with any code and requests for any path are counted under a few names."""
    async with World() as world:
        await garbage(world, 0)
        await world.clock.advance(5)  # no dispatcher is heard: what it does then has a series, too
        before = series([world.metrics])
        for number in range(1, 20):
            await garbage(world, number)
        await world.clock.advance(2)
        assert series([world.metrics]) == before


COUNTED: Final = ("closes", "errors", "refused", "frames_in", "frames_out")


async def test_what_access_counts_by_label_is_there_before_the_first() -> None:
    """Closes, errors, refusals and frames are at 0 from the start; what clients do adds no series."""
    async with World() as world:

        def counted() -> dict[tuple[str, str], float]:
            return {
                (sample.name, next(iter(sample.labels.values()))): sample.value
                for family in world.metrics.registry.collect()
                for sample in family.samples
                if sample.name in {f"holdfast_access_{name}_total" for name in COUNTED}
            }

        before = counted()
        assert set(before.values()) == {0.0}
        for code in CODES.values():
            assert ("holdfast_access_errors_total", code.name) in before
            assert (("holdfast_access_closes_total", code.name) in before) == (code.close is not None)
        for number in range(3):
            await garbage(world, number)
        await world.clock.advance(2)
        after = counted()
    assert after.keys() == before.keys()
    for name in COUNTED:
        assert any(value for (metric, _), value in after.items() if metric == f"holdfast_access_{name}_total")


async def test_series_of_the_api_are_its_routes() -> None:
    """A path that is none is counted as such, not by its name."""
    metrics = Metrics()
    settings = ready_settings(
        Settings(),
        secret="only for tests, at least 32 bytes long",
        access={"websocket_port": 0, "tcp_port": 0},
        api={"port": 0, "keys": ("dev",)},
        kafka={"partitions": 1, "replication": 1},
    )
    cluster = Embedded(settings, metrics=metrics)
    await cluster.start()
    url = f"http://127.0.0.1:{cluster.ports['api']}"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer dev"}) as session:
        for number in range(30):
            for path in (
                f"/nothing/{number}",
                f"/v1/users/u{number}/presence",
                f"/v1/channels/{number}/messages",
            ):
                async with session.request(("GET", "PUT", f"M{number}")[number % 3], url + path) as answer:
                    await answer.read()
    await cluster.stop()
    routes = {labels["route"] for name, labels in map(_dict, series([metrics])) if "route" in labels}
    known = {f"{route.method} {route.path}" for route in ROUTES} | {route.path for route in ROUTES}
    assert len(routes - known) <= 2, routes
    assert not any(part.isdigit() for route in routes for part in route.split("/"))


def _dict(one: tuple[str, tuple[tuple[str, str], ...]]) -> tuple[str, dict[str, str]]:
    return one[0], dict(one[1])


MANY: Final = {
    "user",
    "channel",
    "session",
    "message",
    "id",
    "address",
    "client",
    "device",
    "connection",
    "node",
}
"""What there is no end of: never a label."""


def test_labels_are_of_kinds_that_are_few() -> None:
    """No metric is labelled by user, channel, session, message or address; histograms have few buckets."""
    for metric in TABLE:
        assert not set(metric.labels) & MANY, metric.name
        assert len(metric.labels) <= 2, metric.name
        assert len(metric.buckets) <= 16, metric.name
    assert len(CODES) <= MOST
    assert len(TOPICS) <= MOST
    assert len(get_args(Role)) <= MOST


def test_a_metric_that_is_not_in_the_table_is_refused() -> None:
    """What is counted is in the table, or an error."""
    with pytest.raises(AttributeError, match="not in the table"):
        Metrics().access_made_up.inc()
