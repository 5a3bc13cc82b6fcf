"""The whole system in one process: the same three services, each on its own handles to shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.bus.memory_broker import KEEP
from holdfast.clock import Clock, SystemClock
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.network import Network, TcpNetwork
from holdfast.observe.metrics import Metrics
from holdfast.parts import Parts

# Relative, because a wheel has this package under another name.
from ..access.service import build as build_access  # noqa: TID252
from ..dispatch.service import build as build_dispatch  # noqa: TID252
from ..logic.service import build as build_logic  # noqa: TID252

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from holdfast.app import App
    from holdfast.membership.port import Node
    from holdfast.observe.tracing import Tracing
    from holdfast.settings import Settings


class Service(Protocol):
    """What each of the three is."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """End."""

    def problems(self) -> Sequence[str]:
        """Return what keeps it from serving."""

    def details(self) -> dict[str, Any]:
        """Return its ports and names."""


class Embedded:
    """One cluster. `access`, `logic` and `dispatch` say how many of each; several need port 0.

    `routes` adds what is served beside the API. With `metrics` all share them; else each has its own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        app: App | None = None,
        access: int = 1,
        logic: int = 1,
        dispatch: int = 1,
        network: Network | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        routes: Callable[[web.Application], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings = _within_memory(settings)
        self.app = app
        self.clock: Clock = clock or SystemClock()
        self.network: Network = network or TcpNetwork()
        self.broker = MemoryBroker(settings.kafka.partitions, self.clock)
        self.store = MemoryStore(settings.kafka.partitions)
        self.registry = MemoryRegistry()
        self.access: list[Service] = []
        self.logic: list[Service] = []
        self.dispatch: list[Service] = []
        self._counts = {"dispatch": dispatch, "access": access, "logic": logic}
        self._parts: list[Parts] = []
        self._metrics = metrics
        self._routes = routes
        self._tracing = tracing

    def parts(self) -> Parts:
        """Return what one more process of this cluster would be built from."""
        settings = self.settings
        metrics = self._metrics or Metrics()
        made = Parts(
            settings=settings,
            clock=self.clock,
            network=self.network,
            bus=MemoryBus(
                self.broker, metrics, buffer=(settings.kafka.buffer_records, settings.kafka.buffer_bytes)
            ),
            log=MemoryLog(self.store, settings.policies(), self.clock),
            directory=MemoryDirectory(self.registry),
            metrics=metrics,
            tracing=self._tracing,
        )
        self._parts.append(made)
        return made

    async def start(self) -> None:
        """Start all services. What was started is ended again when one cannot."""
        try:
            for role, count in self._counts.items():
                for number in range(1, count + 1):
                    await self.add(role, f"{role}-{number}")
        except BaseException:
            await self.stop()
            raise

    async def add(self, role: str, name: str) -> Service:
        """Start one more process of a role."""
        parts = self.parts()
        await parts.bus.start()
        await parts.log.start()
        await parts.directory.start()
        service: Service
        if role == "access":
            service = build_access(parts, name, 0)
            self.access.append(service)
        elif role == "logic":
            service = build_logic(parts, name, 0, self.app, self._routes)
            self.logic.append(service)
        else:
            service = build_dispatch(parts, name, 0)
            self.dispatch.append(service)
        await service.start()
        return service

    async def stop(self) -> None:
        """Stop all services, those that clients see first."""
        for services in (self.access, self.logic, self.dispatch):
            for service in services:
                await service.stop()
            services.clear()
        for parts in self._parts:
            await parts.directory.close()
            await parts.log.close()
            await parts.bus.close()
        self._parts.clear()

    @property
    def ports(self) -> dict[str, int]:
        """The ports that the services listen on, by listener; of several alike, the last one's."""
        services = (*self.access, *self.logic)
        return {
            name: port
            for service in services
            for name, port in service.details().items()
            if isinstance(port, int)
        }

    def problems(self) -> list[str]:
        """Return what keeps any of the services from serving."""
        services = (*self.access, *self.logic, *self.dispatch)
        return [problem for service in services for problem in service.problems()]

    def nodes(self) -> Sequence[Node]:
        """Return the access nodes, by name."""
        found = [node for node in self.registry.nodes.values() if node.role == "access"]
        return sorted(found, key=lambda node: node.name)


def _within_memory(settings: Settings) -> Settings:
    """Return settings whose bounds of backlogs are reached before memory lets go of what was acknowledged."""
    kafka, most = settings.kafka, KEEP * 2 // 5
    kafka = msgspec.structs.replace(
        kafka,
        inbound_backlog=min(kafka.inbound_backlog, most),
        outbound_backlog=min(kafka.outbound_backlog, most),
    )
    return msgspec.structs.replace(settings, kafka=kafka)


def ready_settings(settings: Settings, *, secret: str, **sections: dict[str, Any]) -> Settings:
    """Return settings with what one process needs: a secret where there is none, a free nodelink port."""
    changed: dict[str, dict[str, Any]] = {
        "auth": {"secrets": settings.auth.secrets or (secret,)},
        "nodelink": {"port": 0},
        "kafka": {"replication": 1},
        **sections,
    }
    return msgspec.structs.replace(
        settings,
        **{
            name: msgspec.structs.replace(getattr(settings, name), **fields)
            for name, fields in changed.items()
        },
    )
