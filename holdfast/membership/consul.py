"""Membership in Consul: a service per role, an instance per process with a TTL check that the process passes.

Readers go by passing checks: Consul itself removes an instance that died only after a minute or so. An agent
that restarts without its state forgets everybody; the processes notice at their next pass and register
again, and until then readers keep whom they knew.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import msgspec
from consul import Check, ConsulException
from consul.aio import Consul, HTTPClient
from consul.base import HTTPClient as BaseHTTPClient

from holdfast import tls
from holdfast.clock import within
from holdfast.errors import Retry
from holdfast.failures import Failures, forever
from holdfast.membership.port import Node
from holdfast.membership.watchers import ROLES, Known
from holdfast.tasks import cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.clock import Clock
    from holdfast.membership.port import Role
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Consul as ConsulSettings
    from holdfast.settings import Membership
    from holdfast.tls import Trust

BEATS: Final = 3
"""Passes of the check within a ttl."""

CALL_SECONDS: Final = 3.0
WAIT_SECONDS: Final = 30
"""Longest wait of a blocking read."""

DEREGISTER: Final = "1m"
"""Consul's own minimum for taking out what died."""

RETRY_SECONDS: Final = 0.5
ENDPOINT: Final = "endpoint-"

_FAILURES: Final = (aiohttp.ClientError, OSError, TimeoutError, ConsulException)

_log = logging.getLogger(__name__)


class Facts(NamedTuple):
    """Consul itself: its leader's address ("": none), how many servers it has, its version ("": not told)."""

    leader: str
    servers: int
    version: str


class _Http(HTTPClient):  # type: ignore[misc] # py-consul has no types
    """py-consul's own makes a context with every client, from files that it reads once."""

    def __init__(self, *args: Any, trust: Trust | None, **kwargs: Any) -> None:
        BaseHTTPClient.__init__(self, *args, **kwargs)
        secure = trust.context if trust is not None else False
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=secure))


class _Consul(Consul):  # type: ignore[misc]
    def __init__(self, *, trust: Trust | None, **kwargs: Any) -> None:
        self._trust = trust
        super().__init__(**kwargs)

    def http_connect(self, *args: Any, **kwargs: Any) -> _Http:
        return _Http(*args, trust=self._trust, **kwargs)


class ConsulDirectory:
    """See `holdfast.membership.port.Directory`."""

    def __init__(
        self, consul: ConsulSettings, membership: Membership, metrics: Metrics, clock: Clock
    ) -> None:
        self._settings = consul
        self._trust = tls.calling("consul", consul) if consul.tls else None
        self._ttl = membership.ttl
        self._clock = clock
        self._metrics = metrics
        self._known = Known(metrics)
        self._consul: Any = None
        self._watching: Any = None
        self._node: Node | None = None
        self._graces: dict[Role, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See `Directory`."""
        if self._consul is None:
            self._consul = self._client()
            # A client of its own: three reads that wait must not take the connections of the checks.
            self._watching = self._client()
        indexes = {role: await self._read(role, None) for role in ROLES}
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._follow(role, indexes[role])) for role in ROLES]
            self._tasks.append(
                loop.create_task(forever("membership", self._stay, self._clock, self._metrics))
            )

    async def close(self) -> None:
        """See `Directory`."""
        await cancelled(self._tasks)
        self._tasks = []
        await self.leave()
        for client in (self._consul, self._watching):
            if client is not None:
                await client.close()
        self._consul = self._watching = None

    async def join(self, node: Node) -> None:
        """See `Directory`. While Consul is away this node is registered later."""
        if self._node is not None and self._node.incarnation != node.incarnation:
            await self.leave()
        self._node = node
        try:
            await self._register(node)
        except Retry as error:
            _log.warning("not registered yet: %s", error)

    async def leave(self) -> None:
        """See `Directory`. While Consul is away others see it after the ttl."""
        node, self._node = self._node, None
        if node is None or self._consul is None:
            return
        try:
            await self._call("deregister", self._consul.agent.service.deregister(node.incarnation))
        except Retry as error:
            _log.warning("not deregistered: %s", error)

    def nodes(self, role: Role) -> Sequence[Node]:
        """See `Directory`."""
        return self._known.of_role(role)

    def watch(self, call: Callable[[], object]) -> Callable[[], None]:
        """See `Directory`."""
        return self._known.watchers.add(call)

    async def healthy(self) -> bool:
        """See `Directory`."""
        if self._consul is None:
            return False
        try:
            return bool(await within(self._clock, 1.0, self._consul.status.leader()))
        except _FAILURES:
            return False

    async def facts(self) -> Facts:
        """Return what Consul says of itself. Raises Retry."""
        leader = await self._call("status", self._consul.status.leader())
        peers = await self._call("status", self._consul.status.peers())
        try:
            about = await self._call("status", self._consul.agent.self())
        except Retry:  # a token need not be allowed to read the agent
            about = {}
        return Facts(str(leader or ""), len(peers or ()), str(about.get("Config", {}).get("Version", "")))

    # being there

    async def _stay(self) -> None:
        await self._clock.sleep(self._ttl / BEATS)
        node = self._node
        if node is None:
            return
        try:
            passed = self._consul.agent.check.ttl_pass(f"service:{node.incarnation}")
            if not await self._call("pass", passed):
                _log.warning("Consul has forgotten this node; registering again")
                if self._node is node:
                    await self._register(node)
        except Retry as error:
            _log.warning("the check was not passed: %s", error)

    async def _register(self, node: Node) -> None:
        # py-consul's Check.ttl cannot say when to take out what died.
        check = Check.ttl(f"{self._ttl}s") | {
            "DeregisterCriticalServiceAfter": DEREGISTER,
            "Status": "passing",
        }
        host, _, port = node.address.rpartition(":")
        await self._call(
            "register",
            self._consul.agent.service.register(
                self._service(node.role),
                service_id=node.incarnation,
                address=host or None,
                port=int(port) if port else None,
                meta=_meta(node),
                check=check,
            ),
        )

    # seeing others

    async def _follow(self, role: Role, index: str | None) -> None:
        failures = Failures("membership", self._clock, self._metrics)
        while True:
            try:
                index = await self._read(role, index)
                failures.passed()
            except Retry as error:
                _log.warning("membership is not read: %s", error)
                # Consul may come back without its state: whoever lives gets the time to register again.
                self._grace(role)
                index = None
                await self._clock.sleep(RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - counted; going on with what was known
                index = None
                await failures.pause()

    async def _read(self, role: Role, index: str | None) -> str | None:
        """Read a role, waiting for a change since `index`; return the index to wait on. Raises Retry."""
        grace = self._graces.get(role, 0.0)
        short = grace > self._clock.monotonic()
        wait = max(0.1, self._ttl / BEATS) if short else WAIT_SECONDS
        more = {} if index is None else {"index": index, "wait": f"{wait:g}s"}
        # Consul adds up to a sixteenth to the wait.
        limit = CALL_SECONDS + (wait * 1.1 if more else 0.0)
        # One that waits for a change takes as long as there is none: its time says nothing.
        found, answers = await self._call(
            "watch" if more else "read",
            self._watching.health.service(self._service(role), passing=True, **more),
            limit,
        )
        nodes: dict[str, Node] = {}
        for answer in answers or ():
            node = _node(role, answer["Service"])
            if node is not None:
                nodes[node.incarnation] = node
        if index is not None and int(found) < int(index):
            # The index falls when the agent has restarted. What it knows now is not what there is.
            self._grace(role)
            self._merge(role, nodes)
            return None
        if self._graces.get(role, 0.0) > self._clock.monotonic():
            self._merge(role, nodes)
            # Ask again soon, change or not: at the end of the grace what Consul says holds.
            if index is None:
                await self._clock.sleep(RETRY_SECONDS)
            return None
        self._known.set_role(role, nodes)
        return str(found) if int(found) > 0 else None

    def _grace(self, role: Role) -> None:
        self._graces[role] = self._clock.monotonic() + self._ttl

    def _merge(self, role: Role, nodes: Mapping[str, Node]) -> None:
        known = {node.incarnation: node for node in self._known.of_role(role)}
        self._known.set_role(role, {**known, **nodes})

    # Consul

    def _service(self, role: Role) -> str:
        return f"{self._settings.service}-{role}"

    def _client(self) -> Any:
        host, _, port = self._settings.address.rpartition(":")
        with warnings.catch_warnings():
            # py-consul still gives aiohttp's connector the old names of `ssl`.
            warnings.filterwarnings(
                "ignore", message="(verify_ssl|ssl_context) is deprecated", category=DeprecationWarning
            )
            made = _Consul(
                trust=self._trust,
                host=host or "127.0.0.1",
                port=int(port),
                scheme="https" if self._trust is not None else "http",
            )
        made.token = self._settings.token or None  # py-consul lets CONSUL_HTTP_TOKEN win
        return made

    async def _call(self, what: str, call: Awaitable[Any], limit: float = CALL_SECONDS) -> Any:
        try:
            with self._known.timed(what):
                return await within(self._clock, limit, call)
        except _FAILURES as error:
            raise Retry(f"Consul: {error or type(error).__name__}") from error


def _meta(node: Node) -> dict[str, str]:
    """Return a node as Consul's metadata: text by name, in which operators can read too."""
    return {
        "name": node.name,
        "address": node.address,
        "metrics": node.metrics,
        "region": node.region,
        "weight": str(node.weight),
        "draining": "yes" if node.draining else "no",
        **{ENDPOINT + protocol: url for protocol, url in node.endpoints.items()},
    }


def _node(role: Role, service: Mapping[str, Any]) -> Node | None:
    meta: dict[str, str] = service.get("Meta") or {}
    try:
        return Node(
            meta["name"],
            service["ID"],
            role,
            address=meta.get("address", ""),
            endpoints={
                key.removeprefix(ENDPOINT): url for key, url in meta.items() if key.startswith(ENDPOINT)
            },
            metrics=meta.get("metrics", ""),
            region=meta.get("region", ""),
            weight=int(meta.get("weight", "100")),
            draining=meta.get("draining") == "yes",
        )
    except (KeyError, ValueError, msgspec.ValidationError):
        _log.warning("an instance in Consul is not a node of this cluster: %r", service.get("ID"))
        return None
