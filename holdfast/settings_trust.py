"""Settings of TLS and secrets that contradict each other, refused by name before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from holdfast.errors import Stop

if TYPE_CHECKING:
    from holdfast.settings import Access, Auth, Consul, Kafka, Nodelink, Redis, Settings

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def check(settings: Settings) -> None:
    """Raise Stop, naming the setting and what to change, where something could not work or protect."""
    for name in ("access", "api", "process", "nodelink", "kafka", "redis", "consul"):
        section = getattr(settings, name)
        if section.tls_key and not section.tls_certificate:
            raise Stop(f"{name}.tls_key is of no use without {name}.tls_certificate: set both, or none")
    _check_access(settings.access)
    _check_nodelink(settings.nodelink)
    _check_kafka(settings.kafka)
    _check_redis(settings.redis)
    _check_auth(settings.auth)
    if not all(settings.api.keys):
        raise Stop("api.keys: a key must not be empty, or whoever shows none would have it")
    if not settings.consul.tls:
        _no_files("consul", settings.consul, "consul.tls is false: set it to true for TLS")


def _no_files(name: str, section: Kafka | Redis | Consul, why: str) -> None:
    """Raise Stop where files of TLS are named that would not be used."""
    for file in ("tls_authority", "tls_certificate"):
        if getattr(section, file):
            raise Stop(f"{name}.{file} is of no use: {why}")


def _check_access(access: Access) -> None:
    if not access.tls_certificate:
        return
    if access.proxy_protocol:
        raise Stop(
            "access.proxy_protocol and access.tls_certificate exclude each other: a PROXY header comes "
            "before the TLS, where nobody looks for it; let the balancer end the TLS, or leave one out"
        )
    for name, url, insecure in (
        ("endpoint_websocket", access.endpoint_websocket, "ws://"),
        ("endpoint_tcp", access.endpoint_tcp, "tcp://"),
    ):
        if url.startswith(insecure):
            raise Stop(
                f"access.{name} begins with {insecure}, and access.tls_certificate gives the listener TLS: "
                f"it must begin with {insecure.replace(':', 's:')}"
            )


def _check_nodelink(nodelink: Nodelink) -> None:
    if bool(nodelink.tls_certificate) != bool(nodelink.tls_authority):
        raise Stop(
            "nodelink.tls_certificate and nodelink.tls_authority are set both, or none: each side shows a "
            "certificate and believes those of the authority only"
        )
    if nodelink.tls_revoked and not nodelink.tls_authority:
        raise Stop("nodelink.tls_revoked is of no use without nodelink.tls_authority, whose lists it has")
    if nodelink.other_secret and not nodelink.secret:
        raise Stop("nodelink.other_secret is of no use without nodelink.secret, which everybody is asked for")


def _check_kafka(kafka: Kafka) -> None:
    protocol = kafka.security_protocol
    if not protocol.endswith("SSL"):
        _no_files(
            "kafka", kafka, f"kafka.security_protocol is {protocol}, it must be SSL or SASL_SSL for TLS"
        )
    if not protocol.startswith("SASL"):
        if kafka.user or kafka.password:
            which = "kafka.password" if kafka.password else "kafka.user"
            raise Stop(f"{which} is of no use: kafka.security_protocol is {protocol}, it must be SASL_SSL")
        return
    if not kafka.user or not kafka.password:
        which = "kafka.password" if kafka.user else "kafka.user"
        raise Stop(f"{which} is empty: kafka.security_protocol {protocol} needs a user and a password")
    if protocol == "SASL_PLAINTEXT" and kafka.sasl_mechanism == "PLAIN":
        raise Stop(
            "kafka.sasl_mechanism PLAIN shows the password to whoever listens where kafka.security_protocol "
            "is SASL_PLAINTEXT: use SASL_SSL, or a SCRAM mechanism"
        )


def _check_redis(redis: Redis) -> None:
    scheme = redis.url.partition("://")[0]
    if not scheme.startswith("rediss"):
        _no_files("redis", redis, "redis.url must begin with rediss for TLS")
    if not scheme.endswith("+sentinel") and (redis.sentinel_user or redis.sentinel_password):
        raise Stop(
            "redis.sentinel_password and redis.sentinel_user are of no use: redis.url has no Sentinels"
        )
    if redis.sentinel_user and not redis.sentinel_password:
        raise Stop("redis.sentinel_user is of no use without redis.sentinel_password")


def _check_auth(auth: Auth) -> None:
    if not auth.jwks_url:
        if auth.tls_authority:
            raise Stop("auth.tls_authority is of no use without auth.jwks_url")
        return
    try:
        parts = urlsplit(auth.jwks_url)
        host = parts.hostname or ""
    except ValueError:
        raise Stop("auth.jwks_url is no address") from None
    if parts.username or parts.password:
        raise Stop(
            "auth.jwks_url must not hold a password: public keys are not secret, and addresses are shown"
        )
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        raise Stop(
            "auth.jwks_url must be https://: who answers in its place could sign tokens for every user"
        )
    if auth.tls_authority and parts.scheme != "https":
        raise Stop("auth.tls_authority is of no use: auth.jwks_url is not https://")
    if not auth.audience and not auth.issuer:
        raise Stop(
            "auth.jwks_url needs auth.audience (or auth.issuer, where tokens have no `aud`): a provider "
            "signs tokens for other applications with the same keys"
        )
