"""One service process: settings, real adapters, health, signals, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from prometheus_client import ProcessCollector

from holdfast import __version__, tls
from holdfast.clock import SystemClock
from holdfast.errors import Retry, Stop
from holdfast.failures import forever
from holdfast.network import TcpNetwork
from holdfast.observe import logs
from holdfast.observe.health import HealthServer
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts
from holdfast.settings_load import load
from holdfast.workers import end_with_supervisor, supervise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.bus.port import Bus
    from holdfast.log.port import Log
    from holdfast.membership.port import Directory, Role
    from holdfast.observe.tracing import Tracing
    from holdfast.settings import Settings

log = logging.getLogger("holdfast.process")

EXIT_SETTINGS: Final = 78
"""EX_CONFIG of sysexits.h: starting again without a change is of no use."""

GC_THRESHOLDS: Final = (1_000, 1, 20_000)
"""By default a storm of 10,000 connections walks over all that there is three times, 65 ms at a time, and
spends 16 us of each accept so. What is young is looked at in slices of up to 3,000 objects, 1.4 to 2.6 ms
(with 2,000 up to 6,000, 2.4 to 3.3 ms, and 2 us less of an accept; with 5,000 and 5 they were the longest of
all slices of work, 17 ms: up to 30,000); all there is, hardly ever: what a connection leaves behind is freed
by its references (a test holds it to that).
"""

_STALL_EVERY: Final = 0.1


class Service(Protocol):
    """What a service gives to the process that runs it."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """Stop taking work, finish or hand over what was taken, and end."""

    def problems(self) -> Sequence[str]:
        """Return what keeps this service from serving, in words; empty when ready."""

    def details(self) -> dict[str, Any]:
        """Return its ports and names, for the ready file."""


def make_bus(settings: Settings, metrics: Metrics) -> Bus:
    """Return the Kafka adapter."""
    from holdfast.bus.kafka import KafkaBus  # noqa: PLC0415 - a process loads just the adapters it runs

    return KafkaBus(settings.kafka, metrics, SystemClock())


def make_log(settings: Settings, metrics: Metrics) -> Log:
    """Return the Redis adapter."""
    from holdfast.log.redis import RedisLog  # noqa: PLC0415

    return RedisLog(settings.redis, settings.kafka.partitions, settings.policies(), metrics, SystemClock())


def make_directory(settings: Settings, metrics: Metrics) -> Directory:
    """Return the membership adapter that the settings name."""
    kind = settings.membership.kind
    if kind == "consul":
        from holdfast.membership.consul import ConsulDirectory  # noqa: PLC0415

        return ConsulDirectory(settings.consul, settings.membership, metrics, SystemClock())
    if kind == "redis":
        from holdfast.membership.redis import RedisDirectory  # noqa: PLC0415

        return RedisDirectory(settings.redis, settings.membership, metrics, SystemClock())
    from holdfast.membership.static import StaticDirectory  # noqa: PLC0415

    return StaticDirectory(settings.membership, metrics)


def make_tracing(settings: Settings, role: str, node: str, metrics: Metrics) -> Tracing | None:
    """Return what follows messages, None where that is off. Raises Stop where the extra is not installed."""
    wanted = settings.tracing
    if not wanted.enabled:
        return None
    try:
        from holdfast.observe.otlp import to_collector  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise Stop(
            f"tracing.enabled (HOLDFAST_TRACING_ENABLED): {error.name} is not installed; "
            "pip install 'holdfast[tracing]'"
        ) from None
    return to_collector(wanted.endpoint, wanted.ratio, role=role, node=node, metrics=metrics)


def make_parts(settings: Settings, metrics: Metrics, tracing: Tracing | None = None) -> Parts:
    """Return the ports that the settings choose, none of them started. Raises Stop."""
    return Parts(
        settings=settings,
        clock=SystemClock(),
        network=TcpNetwork(),
        bus=make_bus(settings, metrics),
        log=make_log(settings, metrics),
        directory=make_directory(settings, metrics),
        metrics=metrics,
        tracing=tracing,
    )


def main(role: Role, build: Callable[[Parts, str, int], Service]) -> None:
    """Run one service until SIGTERM or SIGINT; the entry point of `python -m services.ROLE`."""
    try:
        settings = load()
    except Stop as stop:
        print(f"holdfast {role}: {stop}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_SETTINGS)
    worker = os.environ.get("WORKER_NUMBER")
    if role == "access" and settings.process.workers > 1 and worker is None:
        sys.exit(supervise(settings.process.workers))
    if worker is not None:
        end_with_supervisor()
    number = int(worker or 0)
    node = settings.process.node or f"{socket.gethostname()}-{os.getpid()}"
    name = f"{node}-{number}" if worker is not None else node
    logs.configure(settings.process.log_level, role=role, node=name)
    try:
        sys.exit(run_loop(_run(role, build, settings, name, number)))
    except Stop as stop:  # a setting that only its adapter can judge
        print(f"holdfast {role}: {stop}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_SETTINGS)


def raise_file_limit() -> int:
    """Let this process open as many files as it may (its hard limit); return how many that are.

    Shells and supervisors give 1024 for the sake of old programs: each connection of a client is one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems have no use for "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def run_loop(work: Any) -> int:
    """Run a coroutine on uvloop and return its result."""
    import uvloop  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(work))


async def _run(
    role: Role, build: Callable[[Parts, str, int], Service], settings: Settings, name: str, number: int
) -> int:
    metrics = Metrics()
    ProcessCollector(registry=metrics.registry)
    metrics.build_info.labels(__version__).set(1)
    metrics.bus_partitions.set(settings.kafka.partitions)
    metrics.files_limit.set(raise_file_limit())
    if role == "access":
        metrics.access_connections_limit.set(settings.access.connections)
    parts = make_parts(settings, metrics, make_tracing(settings, role, name, metrics))
    service: Service | None = None
    waiting_for = ["starting"]

    def problems() -> Sequence[str]:
        return waiting_for if service is None or waiting_for else service.problems()

    port = settings.process.metrics_port
    shown = tls.health_server(settings.process)
    health = HealthServer(settings.process.host, port + number if port else 0, metrics, problems, shown)
    try:
        await health.start()
    except OSError as error:
        print(f"holdfast {role}: process.metrics_port {port + number}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return EXIT_SETTINGS

    where = f"{settings.process.advertise or settings.process.host}:{health.port}"
    parts = dataclasses.replace(parts, metrics_address=where if shown is None else f"https://{where}")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, functools.partial(tls.look, metrics, force=True))
    trust = asyncio.ensure_future(
        forever("certificates", functools.partial(_watch_trust, metrics), SystemClock(), metrics)
    )
    starting = asyncio.ensure_future(_start(parts, waiting_for))
    stall = asyncio.ensure_future(_watch_stall(metrics))
    ended = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((starting, ended), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            service = build(parts, name, number)
            await service.start()
            waiting_for.clear()
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            write_ready(settings, role, name, number, {"metrics": health.port, **service.details()})
            log.info("serving", extra=service.details())
            await ended
            log.info("stopping")
            await service.stop()
    except Stop as stop:
        log.error(str(stop))  # noqa: TRY400 - the text says what to change, a traceback would hide it
        return EXIT_SETTINGS
    finally:
        for task in (starting, stall, trust, ended):
            task.cancel()
        await asyncio.gather(starting, stall, trust, ended, return_exceptions=True)
        for close in (parts.directory.close, parts.log.close, parts.bus.close, health.stop):
            with contextlib.suppress(Retry):
                await close()
        if parts.tracing is not None:
            await asyncio.to_thread(parts.tracing.close)
    log.info("stopped")
    return 0


async def _start(parts: Parts, waiting_for: list[str]) -> None:
    """Connect the ports, however long their servers are away; what is waited for shows in `/readyz`."""
    for what, start in (
        ("Kafka", parts.bus.start),
        ("Redis", parts.log.start),
        ("the membership store", parts.directory.start),
    ):
        await _until_there(what, start, waiting_for)


async def _until_there(what: str, start: Callable[[], Awaitable[None]], waiting_for: list[str]) -> None:
    delay = 0.1
    while True:
        waiting_for[:] = [f"waiting for {what}"]
        try:
            return await start()
        except Retry as error:
            waiting_for[:] = [f"waiting for {what}: {error}"]
            log.warning("%s is not there yet: %s", what, error)
        await asyncio.sleep(delay)
        delay = min(delay * 2, 5.0)


async def _watch_stall(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _STALL_EVERY
        await asyncio.sleep(_STALL_EVERY)
        metrics.loop_stall_seconds.observe(max(loop.time() - due, 0.0))


async def _watch_trust(metrics: Metrics) -> None:
    tls.look(metrics)
    await asyncio.sleep(tls.LOOK_SECONDS)


def write_ready(settings: Settings, role: str, name: str, number: int, details: Mapping[str, Any]) -> None:
    """Write `process.ready_file`, where one is set: it serves from now on, and on which ports."""
    if not settings.process.ready_file:
        return
    path = Path(settings.process.ready_file + (f".{number}" if settings.process.workers > 1 else ""))
    text = json.dumps({"role": role, "node": name, "pid": os.getpid(), **details})
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
