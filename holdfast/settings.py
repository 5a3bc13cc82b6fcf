"""Every setting of every service: one source, from which `docs/settings.md` is generated.

A setting `NAME` of section `SECTION` is `[section] name` in a TOML file and `HOLDFAST_SECTION_NAME` in the
environment, which wins. `holdfast/settings_load.py` reads both, and refuses what is unknown or wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from holdfast.policy import DEFAULT_POLICIES, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "HOLDFAST_"
SECRETS: Final = frozenset(
    {
        "api.keys",
        "auth.secrets",
        "consul.token",
        "kafka.password",
        "nodelink.other_secret",
        "nodelink.secret",
        "redis.sentinel_password",
        "redis.url",
    }
)
"""Settings whose value is never shown."""

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        """Return what may be shown: settings end up in messages and tracebacks."""
        section = next((name for name, kind in sections().items() if kind is type(self)), "")
        shown = [
            f"{name}={'...' if f'{section}.{name}' in SECRETS else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _about(text: str) -> Meta:
    return Meta(description=text)


_KEY: Final = "PEM file of its key; empty: in the same file"


class _Calling(_Section, frozen=True):
    """A section of something that is called, where TLS may be asked for."""

    tls_authority: Annotated[str, _about("PEM file of the authority to believe; empty: the system's")] = ""
    tls_certificate: Annotated[str, _about("PEM file of a certificate to show; empty: none")] = ""
    tls_key: Annotated[str, _about(_KEY)] = ""


class Process(_Section, frozen=True):
    """What every service process has."""

    node: Annotated[str, _about("name of this process; empty: the host's name and a number")] = ""
    host: Annotated[str, _about("address that its listeners bind to")] = "0.0.0.0"  # noqa: S104
    advertise: Annotated[str, _about("address under which other services reach it; empty: `host`")] = ""
    metrics_port: Annotated[
        Port, _about("metrics and health; 0: any free port, a worker adds its number")
    ] = 9100
    tls_certificate: Annotated[
        str, _about("PEM file: certificate chain of the metrics port; empty: plain HTTP")
    ] = ""
    tls_key: Annotated[str, _about(_KEY)] = ""
    tls_authority: Annotated[
        str,
        _about("PEM file of the authority by which `holdfast doctor` believes metrics ports that have TLS"),
    ] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _about("least severe log line")] = (
        "info"
    )
    region: Annotated[str, _about("region told to clients by /v1/access")] = ""
    workers: Annotated[Positive, _about("access: processes on this machine, sharing the ports")] = 1
    drain_seconds: Annotated[Seconds, _about("longest time from SIGTERM to the end")] = 30.0
    ready_file: Annotated[str, _about("file to write ports into (JSON) once the process serves")] = ""


class Kafka(_Calling, frozen=True):
    """The message queue."""

    servers: Annotated[str, _about("bootstrap servers, host:port, comma-separated")] = "127.0.0.1:9092"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], _about("how brokers are spoken to")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], _about("how `user` and `password` are shown")
    ] = "SCRAM-SHA-512"
    user: Annotated[str, _about("SASL user")] = ""
    password: Annotated[str, _about("SASL password")] = ""
    prefix: Annotated[str, _about("start of the topics' names")] = "holdfast"
    partitions: Annotated[Positive, _about("partitions of every topic; fixed once data exists")] = 12
    replication: Annotated[Positive, _about("replicas of topics that are created")] = 3
    create_topics: Annotated[bool, _about("create missing topics at start")] = True
    deadline: Annotated[Seconds, _about("seconds after which an unanswered record fails with a retry")] = 10.0
    buffer_records: Annotated[Positive, _about("records on their way in one producer, at most")] = 20_000
    buffer_bytes: Annotated[Positive, _about("bytes on their way in one producer, at most")] = (
        64 * 1024 * 1024
    )
    group: Annotated[str, _about("consumer group of logic; dispatch commits under it plus `-dispatch`")] = (
        "holdfast"
    )
    inbound_backlog: Annotated[
        int,
        Meta(ge=0),
        _about(
            "records of a partition that logic has not handled, above which sends are refused; 0: no bound"
        ),
    ] = 50_000
    outbound_backlog: Annotated[
        int,
        Meta(ge=0),
        _about(
            "records of a partition that dispatch has not applied, above which publishes and sends to its "
            "channels are refused; where all partitions hold twice that, logic waits; 0: no bound"
        ),
    ] = 50_000
    session_timeout: Annotated[Seconds, _about("seconds until a dead logic worker's partitions move")] = 6.0
    retention_seconds: Annotated[Positive, _about("retention of inbound and outbound that are created")] = (
        14 * 86_400
    )


class Redis(_Calling, frozen=True):
    """Logs, routes and sessions."""

    url: Annotated[
        str,
        _about(
            "redis://[user:password@]host:port/db, rediss:// with TLS; docs/redis.md: Sentinels and Cluster"
        ),
    ] = "redis://127.0.0.1:6379/0"
    sentinel_user: Annotated[str, _about("ACL user of the Sentinels; empty: the default user")] = ""
    sentinel_password: Annotated[str, _about("password of the Sentinels; empty: none asked")] = ""
    prefix: Annotated[str, _about("start of every key")] = "hf"
    timeout: Annotated[Seconds, _about("seconds after which a call fails with a retry")] = 3.0
    connections: Annotated[Positive, _about("connections of one process, at most")] = 16


class Membership(_Section, frozen=True):
    """Who is there."""

    kind: Annotated[Literal["consul", "redis", "static"], _about("where nodes find each other")] = "consul"
    ttl: Annotated[Seconds, _about("seconds without a sign of life until others see a node gone")] = 5.0
    static: Annotated[str, _about("static: a JSON file with the list of nodes")] = ""


class Consul(_Calling, frozen=True):
    """Consul, where membership is kept in it."""

    address: Annotated[str, _about("host:port of its HTTP API")] = "127.0.0.1:8500"
    service: Annotated[str, _about("start of the registered services' names")] = "holdfast"
    token: Annotated[str, _about("ACL token")] = ""
    tls: Annotated[bool, _about("call it by HTTPS")] = False


class Auth(_Section, frozen=True):
    """Tokens of clients."""

    secrets: Annotated[
        tuple[str, ...], _about("HS256 secrets (at least 32 bytes each); the first one signs")
    ] = ()
    key_files: Annotated[
        tuple[str, ...], _about("PEM files of public keys: RS256, ES256 or EdDSA by kind")
    ] = ()
    jwks_url: Annotated[
        str, _about("https:// address of a JWKS with more public keys (any OIDC provider); empty: none")
    ] = ""
    jwks_refresh: Annotated[Seconds, _about("seconds between fetches of the JWKS")] = 300.0
    jwks_pause: Annotated[
        Seconds, _about("seconds between fetches, at least, where tokens name a key that is not known")
    ] = 10.0
    tls_authority: Annotated[
        str, _about("PEM file of the authority to believe for the JWKS; empty: the system's")
    ] = ""
    audience: Annotated[str, _about("required `aud`; empty: not checked")] = ""
    issuer: Annotated[str, _about("required `iss`; empty: not checked")] = ""
    leeway: Annotated[float, Meta(ge=0), _about("seconds by which clocks may differ")] = 5.0
    ttl: Annotated[Positive, _about("seconds that a token issued by /v1/tokens holds, where not asked")] = (
        3600
    )


class Access(_Section, frozen=True):
    """Access: the connections."""

    websocket_port: Annotated[Port, _about("WebSocket listener")] = 8000
    websocket_path: Annotated[str, _about("path of the WebSocket listener")] = "/ws"
    tcp_port: Annotated[Port, _about("TCP listener")] = 8001
    tcp: Annotated[bool, _about("listen for raw TCP")] = True
    tls_certificate: Annotated[
        str, _about("PEM file of the certificate and its chain, for both listeners; empty: no TLS")
    ] = ""
    tls_key: Annotated[str, _about(_KEY)] = ""
    tls_minimum: Annotated[Literal["1.2", "1.3"], _about("oldest version of TLS that is spoken")] = "1.2"
    endpoint_websocket: Annotated[str, _about("address told to clients; empty: built from host and port")] = (
        ""
    )
    endpoint_tcp: Annotated[str, _about("the same for TCP")] = ""
    origins: Annotated[
        tuple[str, ...], _about("allowed Origin headers; empty: all; none sent is allowed")
    ] = ()
    proxy_protocol: Annotated[bool, _about("every connection must begin with PROXY protocol v1 or v2")] = (
        False
    )
    connections: Annotated[Positive, _about("connections of one process, at most")] = 18_000
    per_address: Annotated[int, Meta(ge=0), _about("connections of one client address; 0: no limit")] = 0
    connect_rate: Annotated[
        Positive, _about("new connections a second that are let in; the others are told when to come back")
    ] = 4000
    connect_burst: Annotated[Positive, _about("new connections that may come at once")] = 10_000
    channels: Annotated[Positive, _about("channels with subscribers in one process, at most")] = 200_000
    handshake: Annotated[Seconds, _about("seconds from accept to a valid `connect`")] = 10.0
    heartbeat: Annotated[Seconds, _about("seconds of silence after which the server sends `ping`")] = 25.0
    frame: Annotated[Positive, _about("bytes of a frame, at most")] = 65_536
    rate: Annotated[Positive, _about("frames a second of one connection")] = 100
    burst: Annotated[Positive, _about("frames that may come at once")] = 200
    in_flight: Annotated[Positive, _about("sends and requests of one connection without an answer")] = 128
    subscriptions: Annotated[Positive, _about("channels of one connection")] = 200
    buffer: Annotated[Positive, _about("bytes waiting for one connection before it is put aside")] = 262_144
    aside: Annotated[Seconds, _about("seconds that a connection may be put aside before it is closed")] = 30.0
    request_deadline: Annotated[Seconds, _about("seconds until a `request` without an answer fails")] = 10.0
    catch_up: Annotated[Positive, _about("missed messages of one channel that are sent, at most")] = 1000
    drain_rate: Annotated[
        Positive, _about("connections a second that a draining node sends away; more where time is short")
    ] = 1000
    rebalance_rate: Annotated[
        int,
        Meta(ge=0),
        _about("connections a second that a node far above the average sends elsewhere; 0: never"),
    ] = 50
    devices: Annotated[
        tuple[str, ...],
        _about(
            "sessions of a user that end older ones, as CLASS=RULE (`*`: every other class): `all` none, "
            "`class` those of its class, `newest` those of all classes with that rule; none given: `*=all`"
        ),
    ] = ()


class Nodelink(_Section, frozen=True):
    """The links from dispatch to access."""

    port: Annotated[Port, _about("nodelink listener of access; a worker adds its number")] = 8700
    secret: Annotated[str, _about("shared secret that dispatch must show; empty: none asked")] = ""
    other_secret: Annotated[
        str, _about("a second secret that access takes too, while one replaces the other")
    ] = ""
    tls_authority: Annotated[
        str, _about("PEM file of the authority of all nodelink certificates, and of nothing else")
    ] = ""
    tls_certificate: Annotated[
        str, _about("PEM file of this process's certificate; given, links are mutual TLS; empty: no TLS")
    ] = ""
    tls_key: Annotated[str, _about(_KEY)] = ""
    tls_revoked: Annotated[
        str,
        _about("PEM file of the authority's lists of revoked certificates (CRL); empty: none is looked at"),
    ] = ""
    buffer: Annotated[Positive, _about("bytes waiting for one node before they are dropped")] = (
        8 * 1024 * 1024
    )


class Logic(_Section, frozen=True):
    """Logic: the handlers."""

    app: Annotated[str, _about("module:name of the App with the handlers; empty: none")] = ""
    batch: Annotated[Positive, _about("records of a partition fetched at once")] = 500
    concurrency: Annotated[Positive, _about("senders handled at the same time")] = 256
    pending: Annotated[Positive, _about("records fetched and not finished, per partition")] = 5000
    share: Annotated[
        Positive, _about("records of one sender fetched and not finished, above which it is told to wait")
    ] = 1000
    time_limit: Annotated[Seconds, _about("seconds that one run of a handler may take")] = 10.0
    retries: Annotated[int, Meta(ge=0), _about("runs after the first before a message is a dead letter")] = 3
    backoff: Annotated[Seconds, _about("seconds before the first retry; doubles, with jitter")] = 0.2
    history_reads: Annotated[Positive, _about("reads of history at the same time, of handlers and API")] = 16


class Api(_Section, frozen=True):
    """The HTTP control layer, served by logic."""

    port: Annotated[Port, _about("HTTP API")] = 8080
    tls_certificate: Annotated[str, _about("PEM file: certificate chain of its port; empty: plain HTTP")] = ""
    tls_key: Annotated[str, _about(_KEY)] = ""
    keys: Annotated[tuple[str, ...], _about("API keys; without one every call is refused")] = ()
    body: Annotated[Positive, _about("bytes of a request body, at most")] = 4 * 1024 * 1024
    calls: Annotated[Positive, _about("calls at the same time; more are told to come back")] = 500
    publish_many: Annotated[Positive, _about("messages of one publish call, at most")] = 1000


class Dispatch(_Section, frozen=True):
    """Dispatch: the pushes."""

    fetch: Annotated[int, Meta(ge=1, le=200), _about("records in one apply, at most")] = 200
    pending: Annotated[Positive, _about("records fetched and not applied, per partition")] = 2000
    idle: Annotated[Seconds, _about("seconds between applies of an idle partition")] = 1.0
    takeover: Annotated[Seconds, _about("seconds that a token must not move before it is taken")] = 3.0


class Tracing(_Section, frozen=True):
    """OpenTelemetry: spans that follow single messages through the cluster."""

    enabled: Annotated[bool, _about("follow messages; needs the extra `holdfast[tracing]`")] = False
    ratio: Annotated[
        float, Meta(ge=0, le=1), _about("share of sends, requests and publish calls that are followed")
    ] = 0.01
    endpoint: Annotated[
        str,
        _about(
            "OTLP over HTTP, as http://collector:4318/v1/traces; empty: as OTEL_EXPORTER_OTLP_ENDPOINT says"
        ),
    ] = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. Sections by their names in the TOML file."""

    process: Process = Process()
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    membership: Membership = Membership()
    consul: Consul = Consul()
    auth: Auth = Auth()
    access: Access = Access()
    nodelink: Nodelink = Nodelink()
    logic: Logic = Logic()
    api: Api = Api()
    dispatch: Dispatch = Dispatch()
    tracing: Tracing = Tracing()
    channels: dict[str, Policy] = {}

    def policies(self) -> dict[str, Policy]:
        """Return the policy of every kind of channel, the built-in ones included."""
        return DEFAULT_POLICIES | self.channels


class Setting(msgspec.Struct, frozen=True):
    """One setting as the documentation shows it."""

    section: str
    name: str
    type: str
    default: Any
    description: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{PREFIX}{self.section}_{self.name}".upper()


def all_settings() -> Iterator[Setting]:
    """Yield every setting, in order."""
    for section, kind in sections().items():
        hints = get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            text, described = _describe(hints[field.name])
            yield Setting(section, field.name, text, field.default, described)


def sections() -> dict[str, type[msgspec.Struct]]:
    """Return the kinds of all sections that have settings, by their names."""
    return {
        name: kind
        for name, kind in get_type_hints(Settings).items()
        if isinstance(kind, type) and issubclass(kind, _Section)
    }


def _describe(hint: Any) -> tuple[str, str]:
    limits: list[str] = []
    described = ""
    while get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        for note in notes:
            if isinstance(note, Meta):
                described = note.description or described
                bounds = (("≥", note.ge), (">", note.gt), ("≤", note.le), ("<", note.lt))
                limits += [f"{sign} {bound}" for sign, bound in bounds if bound is not None]
    if get_origin(hint) is Literal:
        name = " or ".join(f"`{choice}`" for choice in get_args(hint))
    elif get_origin(hint) is tuple:
        name = "list, comma-separated"
    else:
        name = {str: "text", int: "integer", float: "number", bool: "true or false"}[hint]
    return ", ".join([name, *limits]), described
