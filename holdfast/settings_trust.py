"""Settings of TLS and secrets that contradict each other, refused by name before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import Stop

if TYPE_CHECKING:
    from holdfast.settings import Access, Settings


def check(settings: Settings) -> None:
    """Raise Stop, naming the setting and what to change, where something could not work or protect."""
    _key_of("access", settings.access.tls_certificate, settings.access.tls_key)
    _check_access(settings.access)


def _key_of(section: str, certificate: str, key: str) -> None:
    if key and not certificate:
        raise Stop(f"{section}.tls_key is of no use without {section}.tls_certificate: set both, or none")


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
