"""The logic service: the handlers' worker and the HTTP control layer in one process."""

from __future__ import annotations

import importlib
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web

from holdfast import tls
from holdfast.app import App
from holdfast.auth.verify import make as make_verifier
from holdfast.bus.backlog import of_outbound
from holdfast.errors import Stop
from holdfast.log.liveness import Liveness
from holdfast.membership.port import Node

from .api import Api, create_api
from .api.protocol import connections
from .gate import Gate
from .outbox import Outbox
from .reading import StoreReader
from .runner import Runner
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.network import Server
    from holdfast.parts import Parts


class Service:
    """One logic process. See `build`."""

    def __init__(
        self,
        parts: Parts,
        name: str,
        worker: int,
        app: App | None = None,
        extra: Callable[[web.Application], None] | None = None,
    ) -> None:
        self._parts = parts
        self._name = name
        self._number = worker
        self._app = app if app is not None else load_app(parts.settings.logic.app)
        self._extra = extra
        self._incarnation = f"{name}-{uuid.uuid4().hex[:12]}"
        self._verifier = make_verifier(parts.settings.auth, parts.clock, parts.metrics)
        self._liveness = Liveness(parts.log, parts.clock, parts.metrics)
        self._outbound = of_outbound(parts.bus, parts.settings.kafka, parts.clock, parts.metrics)
        self._trust = tls.api_server(parts.settings.api)
        self._worker: Worker | None = None
        self._outbox: Outbox | None = None
        self._api: Api | None = None
        self._runner: web.AppRunner | None = None
        self._server: Server | None = None

    async def start(self) -> None:
        """Begin to consume and to serve. Raises Retry while Kafka is away, Stop when the port is taken."""
        parts, settings = self._parts, self._parts.settings
        self._verifier.start()
        await self._liveness.start()
        policies = settings.policies()
        gate = Gate(policies, parts.log, parts.bus, parts.clock)
        reader = StoreReader(
            parts.log,
            parts.directory,
            self._liveness.alive,
            gate,
            parts.metrics,
            reads=settings.logic.history_reads,
        )
        deadline = settings.kafka.deadline
        api = Api(
            settings=settings,
            policies=policies,
            clock=parts.clock,
            log=parts.log,
            directory=parts.directory,
            metrics=parts.metrics,
            reader=reader,
            producer=await parts.bus.producer(deadline=deadline),
            bus=parts.bus,
            outbound=self._outbound,
            alive=self._liveness.alive,
            verify=self._verifier.verify,
            tracing=parts.tracing,
        )
        self._api = api
        self._outbound.start()
        await self._listen(api)
        self._outbox = Outbox(await parts.bus.producer(deadline=deadline), parts.bus.partitions)
        runner = Runner(
            self._app,
            self._outbox,
            gate,
            reader,
            clock=parts.clock,
            settings=settings,
            metrics=parts.metrics,
            tracing=parts.tracing,
        )
        self._worker = Worker(
            parts.bus,
            self._outbox,
            runner,
            self._outbound,
            clock=parts.clock,
            settings=settings,
            metrics=parts.metrics,
        )
        await self._worker.start()
        await parts.directory.join(
            Node(
                name=self._name,
                incarnation=self._incarnation,
                role="logic",
                metrics=parts.metrics_address,
                region=settings.process.region,
            )
        )

    async def stop(self) -> None:
        """Leave the directory, end calls and runs that are on (within their bounds), commit, and end."""
        await self._parts.directory.leave()
        if self._server is not None:
            self._server.close()
        if self._worker is not None:
            await self._worker.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._outbox is not None:
            await self._outbox.close()
        if self._api is not None:
            await self._api.producer.close()
        await self._outbound.stop()
        await self._liveness.stop()
        await self._verifier.stop()

    def problems(self) -> Sequence[str]:
        """Return what keeps this process from serving; empty when ready."""
        if self._worker is None:
            return ["not started"]
        return [self._worker.problem] if self._worker.problem else []

    def details(self) -> dict[str, Any]:
        """Return the port of the API."""
        return {"api": self._server.port if self._server is not None else 0}

    async def _listen(self, api: Api) -> None:
        process, port = self._parts.settings.process, self._parts.settings.api.port
        self._runner = web.AppRunner(
            create_api(api, self._extra), access_log=None, shutdown_timeout=process.drain_seconds / 2
        )
        await self._runner.setup()
        serve = self._runner.server
        assert serve is not None
        port = port + self._number if port else 0
        try:
            secure = self._trust.context if self._trust is not None else None
            self._server = await self._parts.network.listen(
                connections(serve, self._parts.metrics), process.host, port, ssl=secure
            )
        except OSError as error:
            raise Stop(f"api.port (HOLDFAST_API_PORT): cannot listen on {port}: {error.strerror}") from error


def build(
    parts: Parts,
    name: str,
    worker: int,
    app: App | None = None,
    extra: Callable[[web.Application], None] | None = None,
) -> Service:
    """Return the logic service of one process.

    `app` is the handlers', else what `logic.app` names; `extra` adds routes to the API's port. Raises Stop,
    naming the setting, when the app cannot be loaded or a key is wrong.
    """
    return Service(parts, name, worker, app, extra)


def load_app(path: str) -> App:
    """Return the App that `logic.app` names as `module:name`, one without handlers for "".

    Raises Stop, saying what is wrong with the setting.
    """
    if not path:
        return App()
    setting = f"the app {path!r} (logic.app, HOLDFAST_LOGIC_APP)"
    module, _, name = path.partition(":")
    if not module or not name:
        raise Stop(f"{setting} must be module:name, as `chat.handlers:app`")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            file = missing.replace(".", "/") + ".py"
            raise Stop(
                f"{setting}: there is no module {missing!r}; start in the folder of {file}, or install it"
            ) from None
        raise Stop(f"{setting}: {module} cannot be imported: {error}") from error
    except Exception as error:
        raise Stop(f"{setting}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    app = getattr(loaded, name, None)
    if not isinstance(app, App):
        what = "has no" if app is None else f"holds a {type(app).__name__}, not an App, as"
        apps = [other for other, value in vars(loaded).items() if isinstance(value, App)]
        hint = (
            f"; its App is {module}:{apps[0]}" if apps else "; it has no App at all: `app = holdfast.App()`"
        )
        raise Stop(f"{setting}: {module} {what} {name!r}{hint}")
    return app
