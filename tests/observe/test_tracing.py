"""Spans of single messages, from the client's frame to what was written to connections."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from holdfast import process
from holdfast.app import App, Context, Message, Refuse
from holdfast.errors import Stop
from holdfast.observe import otlp
from holdfast.observe.metrics import Metrics
from holdfast.observe.tracing import Tracing
from holdfast.records import message_id
from holdfast.settings import Settings
from holdfast.settings_load import load
from holdfast.testing import Cluster
from services.access import traces
from services.embedded.cluster import Embedded, ready_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from holdfast.nodelink.frames import Push

SECRET = "a-payload-that-nobody-else-has"


class Kept:
    """Tracing into a list."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider.get_tracer("test"), ratio)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def path(self, last: ReadableSpan) -> list[str]:
        """Return the names from the first step to this one."""
        by_id = {span.context.span_id: span for span in self.spans if span.context}
        names = [last.name]
        while last.parent is not None:
            assert last.context is not None
            assert last.context.trace_id == last.parent.trace_id
            last = by_id[last.parent.span_id]
            names.insert(0, last.name)
        return names


def value(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


async def test_a_message_is_followed_to_every_node_that_delivers_it() -> None:
    """One trace from the send over the handler's output to the delivery on each of two nodes."""
    app, kept = App(), Kept()
    current = []

    @app.on("shout")
    async def shout(ctx: Context, message: Message[str]) -> None:
        current.append(get_current_span().get_span_context())
        ctx.publish("room:a", "shouted", message.data)

    async with Cluster(app, access=2, tracing=kept.tracing) as cluster:
        alice = await cluster.connect("alice", node=0, client="c1")
        bob = await cluster.connect("bob", node=1)
        for peer in (alice, bob):
            await peer.subscribe("room:a")
        await alice.send("room:a", "shout", SECRET)
        for peer in (alice, bob):
            assert (await peer.receive()).data == SECRET
        await cluster.settle()
        session = alice.session

    steps = ["access send", "logic handle", "logic publish", "dispatch append", "access deliver"]
    delivered = kept.named("access deliver")
    assert [kept.path(span) for span in delivered] == [steps, steps]
    assert {value(span, "holdfast.node") for span in delivered} == {"access-1", "access-2"}
    assert {value(span, "holdfast.outcome") for span in delivered} == {"delivered"}
    assert {value(span, "holdfast.connections") for span in delivered} == {1}
    (sent,) = kept.named("access send")
    assert value(sent, "messaging.message.id") == message_id("alice", "c1", 1)
    assert value(sent, "holdfast.session") == session
    (handled,) = kept.named("logic handle")
    assert handled.context is not None
    assert [span.span_id for span in current] == [handled.context.span_id]
    (appended,) = kept.named("dispatch append")
    assert (value(appended, "holdfast.outcome"), value(appended, "holdfast.nodes")) == ("done", 2)
    for span in kept.spans:
        assert span.end_time is not None
        shown = span.to_json()
        assert SECRET not in shown
        assert "room:a" not in shown
        assert "alice" not in shown


async def test_what_has_no_handler_and_what_is_asked_are_followed_too() -> None:
    """A message that is passed on, a request with its reply, and a refusal end where they came from."""
    app, kept = App(), Kept()

    @app.on_request("add")
    async def add(ctx: Context, request: Message[list[int]]) -> int:
        return sum(request.data)

    @app.on("no")
    async def no(ctx: Context, message: Message[None]) -> None:
        raise Refuse("rejected", SECRET)

    async with Cluster(app, tracing=kept.tracing) as cluster:
        alice = await cluster.connect("alice")
        await alice.send("user:alice", "text", 1)
        await alice.receive()
        assert await alice.request("add", [1, 2]) == 3
        await alice.send("user:alice", "no")
        await alice.receive_error()
        await cluster.settle()

    paths = [kept.path(span) for span in kept.named("access deliver")]
    tail = ["logic publish", "dispatch append", "access deliver"]
    assert paths == [
        ["access send", "logic pass", *tail],
        ["access request", "logic handle", *tail],
        ["access send", "logic handle", *tail],
    ]
    outcomes = [value(span, "holdfast.outcome") for span in kept.named("logic handle")]
    assert outcomes == ["handled", "refused"]
    assert not any(SECRET in span.to_json() for span in kept.spans)


async def test_every_run_of_a_handler_that_fails_is_a_span() -> None:
    """Two failures and a success are three spans; an error shows by its class, not by what it says."""
    app, kept = App(), Kept()
    runs = []

    @app.on("flaky")
    async def flaky(ctx: Context, message: Message[None]) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError(SECRET)
        ctx.forward()

    async with Cluster(app, tracing=kept.tracing) as cluster:
        alice = await cluster.connect("alice")
        await alice.send("user:alice", "flaky")
        await alice.receive(within=30)
        await cluster.settle()
    handled = kept.named("logic handle")
    assert [value(span, "holdfast.attempt") for span in handled] == [1, 2, 3]
    assert [value(span, "holdfast.error") for span in handled] == ["ValueError", "ValueError", None]
    assert [span.status.is_ok for span in handled] == [False, False, True]
    assert not any(SECRET in span.to_json() for span in kept.spans)


async def test_only_the_share_that_is_asked_for_is_followed() -> None:
    """Chance decides once, at access: what it leaves out has no header and no span anywhere."""
    kept = Kept(ratio=0.25)
    kept.tracing._chance = iter([0.3, 0.2, 0.9, 0.25]).__next__
    async with Cluster(tracing=kept.tracing) as cluster:
        alice = await cluster.connect("alice")
        for number in range(4):
            await alice.send("user:alice", "text", number)
            await alice.receive()
        await cluster.settle()
        headers = [
            record.headers
            for topic in ("inbound", "outbound")
            for partition in range(cluster.embedded.broker.partitions)
            for record in cluster.embedded.broker.partition(topic, partition).records
            if b"user:alice" in (record.value or b"")
        ]
    assert len(kept.named("access send")) == len(kept.named("access deliver")) == 1
    assert sorted(bool(found) for found in headers) == [False] * 6 + [True] * 2


async def test_a_message_read_from_the_log_ends_the_step_as_such() -> None:
    """A gap: what was pushed behind it is handed out by a read, and the span says so."""
    kept = Kept()
    async with Cluster(tracing=kept.tracing) as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        links = cluster.embedded.access[0].links
        push = links.push
        lost: list[Push] = []
        links._node.link_server.on_push = lambda link, one: (
            lost.append(one) if one.items and not lost else push(link, one)
        )
        for number in range(2):
            await alice.send("user:bob", "text", number)
        assert [(await bob.receive()).data for _ in range(2)] == [0, 1]
        assert lost
        await cluster.settle()
        assert not links._node.traces._open
        assert not links._node.traces._count


async def test_what_nobody_reads_ends_too() -> None:
    """A followed message whose delivery waits for a client is let go of after ten seconds (inv 7)."""
    kept = Kept()
    async with Cluster(tracing=kept.tracing) as cluster:
        alice = await cluster.connect("alice")
        node = cluster.embedded.access[0]
        node.delivery.fanout.add = lambda *_: None  # it never goes out
        await alice.send("user:alice", "text", 1)
        await cluster.settle()
        assert node.traces._count == 1
        await cluster.advance(12)
        assert node.traces._count == 0
    (span,) = kept.named("access deliver")
    assert value(span, "holdfast.outcome") == "waiting"


async def test_a_crowd_of_followed_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: of more messages on their way than can be followed, the others' steps end at once."""
    monkeypatch.setattr(traces, "MAX_OPEN", 2)
    kept = Kept()
    async with Cluster(tracing=kept.tracing) as cluster:
        alice = await cluster.connect("alice")
        node = cluster.embedded.access[0]
        node.delivery.fanout.add = lambda *_: None  # none of them goes out
        for number in range(5):
            await alice.send("user:alice", "text", number)
        await cluster.settle()
        assert node.traces._count == 2
    ended = [value(span, "holdfast.outcome") for span in kept.named("access deliver")]
    assert ended == ["crowded"] * 3


async def test_a_call_of_the_api_goes_on_with_its_caller_s_trace() -> None:
    """A `traceparent` of a publish call is taken over, sampled or not; chance decides where it is wrong."""
    kept = Kept(ratio=0.0)
    trace = "0af7651916cd43dd8448eb211c80319c"
    settings = ready_settings(
        Settings(),
        secret="only for tests, at least 32 bytes long",
        access={"websocket_port": 0, "tcp_port": 0},
        api={"port": 0, "keys": ("dev",)},
        kafka={"partitions": 1, "replication": 1},
    )
    cluster = Embedded(settings, tracing=kept.tracing)
    await cluster.start()
    many = {"messages": [{"channel": "room:a", "type": "t", "data": SECRET}] * 2}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer dev"}) as session:
        for flags in ("01", "00", "nonsense"):
            async with session.post(
                f"http://127.0.0.1:{cluster.ports['api']}/v1/publish",
                json=many,
                headers={"traceparent": f"00-{trace}-b7ad6b7169203331-{flags}"},
            ) as answer:
                assert answer.status == 200
    await cluster.stop()
    published = kept.named("api publish")
    assert len(published) == 2
    for span in published:
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == trace


@pytest.mark.parametrize(
    "carried",
    ["", "00-", "00-0-0-01", "zz", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "é" * 60, "x" * 10_000],
)
def test_a_context_that_is_none_is_nobody_s(carried: str) -> None:
    """A header that is malformed begins no span and raises nothing (inv 11)."""
    kept = Kept()
    assert kept.tracing.follow(carried, "logic handle") is None
    assert kept.tracing.of_record((("traceparent", b"\xff\xfe"),), "logic handle") is None


class Blocked(SpanExporter):
    """A collector that does not answer until it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.result = SpanExportResult.SUCCESS
        self.got = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.may.wait(20)
        self.got += len(spans)
        return self.result


def counted(metrics: Metrics, outcome: str) -> int:
    return int(metrics.registry.get_sample_value("holdfast_trace_spans_total", {"outcome": outcome}) or 0)


@pytest.mark.parametrize("result", list(SpanExportResult))
def test_spans_for_a_collector_that_hangs_are_bounded(result: SpanExportResult) -> None:
    """inv 7: above the bound spans are dropped and counted; the others are counted by what came of them."""
    metrics, exporter = Metrics(), Blocked()
    exporter.result = result
    tracing = otlp.to_exporter(exporter, 1.0, role="access", node="a", metrics=metrics)
    for _ in range(otlp.QUEUE + 10):
        span = tracing.begin("access send", "m")
        assert span is not None
        span.end("done")
    assert counted(metrics, "dropped") == 10
    exporter.may.set()
    tracing.close()
    assert exporter.got == otlp.QUEUE
    outcome = "exported" if result is SpanExportResult.SUCCESS else "failed"
    assert counted(metrics, outcome) == otlp.QUEUE


def test_a_process_that_does_not_trace_loads_nothing_of_opentelemetry() -> None:
    """The base install does not need the extra: no service imports it until a setting asks for it."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import holdfast.process, holdfast.testing, services.access.service, services.logic.service\n"
        "import services.dispatch.service, services.embedded.dev\n"
        "from holdfast.settings_load import load\n"
        "from holdfast.errors import Stop\n"
        "from holdfast.observe.metrics import Metrics\n"
        "assert holdfast.process.make_tracing(load(environ={}), 'access', 'a', Metrics()) is None\n"
        "on = load(environ={'HOLDFAST_TRACING_ENABLED': 'true'})\n"
        "try: holdfast.process.make_tracing(on, 'access', 'a', Metrics())\n"
        "except Stop as stop: print(stop)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tracing.enabled" in done.stdout
    assert "pip install 'holdfast[tracing]'" in done.stdout


def test_the_ratio_is_a_share() -> None:
    """A ratio outside 0 to 1 is refused by name (inv 11)."""
    with pytest.raises(Stop, match=r"tracing\.ratio"):
        load(environ={"HOLDFAST_TRACING_RATIO": "1.5"})
    assert process.make_tracing(Settings(), "access", "a", Metrics()) is None
    assert msgspec.structs.asdict(Settings().tracing) == {"enabled": False, "ratio": 0.01, "endpoint": ""}
